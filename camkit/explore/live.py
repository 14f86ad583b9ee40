"""Explains pictures with a model, one after the other, and remembers what it found."""

from __future__ import annotations

import io
import time
from base64 import b64encode
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from camkit import raw
from camkit.engine.network import Network
from camkit.engine.record import record
from camkit.engine.scores import NO_CLASS
from camkit.errors import CamkitError, LayerError, UsageError
from camkit.explaining import explain
from camkit.explanation import Explanation
from camkit.explore.album import Album
from camkit.explore.kinds import TOP, View, png, told_classes, told_maps
from camkit.explore.lru import Lately
from camkit.explore.place import Places
from camkit.explore.setting import Setting
from camkit.layers.default_layers import Question, choose
from camkit.layers.listing import as_json, candidates
from camkit.layers.target_layers import TargetLayers
from camkit.methods import METHODS, Method, configured, find_method
from camkit.methods.maps import resize
from camkit.methods.needs import DefaultLayer
from camkit.models.classifier import Classifier
from camkit.models.prepared import Prepared
from camkit.typing import Progress
from camkit.visualize.overlay import Style, fit_maps
from camkit.visualize.save import raw_writer

MOST_EXPLAINED = 256 << 20
"""Bytes of explanations that are kept."""
MOST_PREPARED = 64 << 20
"""Bytes of prepared pictures that are kept."""
SPOKEN_FOR = 8
"""Classes that a place is told to speak for."""
SLOW = ("perturbation",)
"""Families whose methods run the network hundreds of times."""


@dataclass(frozen=True)
class Seen:
    """A picture, prepared, and what the model says of it.

    Attributes:
        key: Of the picture's file as it is now.
        prepared: The picture.
        logits: (K,), none where the model has no classes.
    """

    key: Hashable
    prepared: Prepared
    logits: Tensor

    @property
    def nbytes(self) -> int:
        """What it takes."""
        prepared = self.prepared
        return int(prepared.inputs.nbytes + prepared.seen.nbytes + 2 * prepared.whole.nbytes + self.logits.nbytes)


class Live:
    """A model that explains; see :class:`camkit.explore.kinds.Source`.

    Args:
        title: What it is called.
        classifier: The model.
        album: The pictures.
        setting: How it was started.
    """

    def __init__(self, title: str, classifier: Classifier, album: Album, setting: Setting) -> None:
        self.title = title
        self.classifier = classifier
        self._album = album
        self._setting = setting
        self._network = Network(classifier.model, output=setting.output)
        self._methods = {name: self._configured(method) for name, method in METHODS.items()}
        self._seen: Lately[Seen] = Lately(MOST_PREPARED)
        self._explained: Lately[Explanation] = Lately(MOST_EXPLAINED)
        self._layers: Lately[dict[str, Any]] = Lately(MOST_PREPARED)
        self._places: tuple[Hashable, Places] | None = None

    def about(self) -> dict[str, Any]:
        """See :class:`camkit.explore.kinds.Source`."""
        classifier = self.classifier
        return {
            "title": self.title,
            "live": True,
            "source": classifier.source,
            "checkpoint": classifier.checkpoint and classifier.checkpoint.source,
            "device": str(classifier.device),
            "methods": [_told_method(method) for method in self._methods.values()],
        }

    def find_category(self, text: str) -> dict[str, Any]:
        """A class by index or name.

        Raises:
            UsageError: There is none.
        """
        index = self.classifier.find_category(text)
        count = len(self.classifier.classes) if self.classifier.classes else None
        if index < 0 or (count is not None and index >= count):
            raise UsageError(f"category {index} is outside 0..{count - 1}" if count else f"no category {index}")
        return {"index": index, "name": self.classifier.name(index)}

    def look(self, image: str, progress: Progress) -> dict[str, Any]:
        """See :class:`camkit.explore.kinds.Source`."""
        seen = self._look(image)
        top = seen.logits.topk(min(TOP, len(seen.logits))).indices.tolist() if len(seen.logits) else []
        height, width = seen.prepared.picture.shape[:2]
        return {
            "picture": b64encode(png(seen.prepared.picture)).decode(),
            "height": height,
            "width": width,
            "note": seen.prepared.how_shown() or "",
            "classes": self._told(top, seen.logits),
            "count": len(seen.logits),
        }

    def layers(self, image: str, progress: Progress, *, whole: bool) -> dict[str, Any]:
        """See :class:`camkit.explore.kinds.Source`; the same for all pictures of one size."""
        images = self._network.prepare(self._look(image).prepared.inputs)
        key = tuple(images.shape), whole
        found = self._layers.find(key)
        if found is None:
            question = Question(self._network, images, None, self._setting.num_extra_tokens)
            default, problem = None, ""
            try:
                default = choose(DefaultLayer.LAST_NORM, question).choices[0].name
            except LayerError as error:
                problem = str(error)
            listed = as_json(candidates(question, whole=whole), default)
            usable = [each for each in listed if each["grid"] and len(each["grid"]) == 2]
            found = {"layers": usable, "default": default, "problem": problem}
            self._layers.keep(key, found, 400 * len(listed))
        return found

    def map(self, view: View, progress: Progress, *, signed: bool) -> dict[str, Any]:
        """See :class:`camkit.explore.kinds.Source`."""
        started = time.perf_counter()
        seen = self._look(view.image)
        explanation = self._explain(seen, view, progress)
        heats = explanation.maps[0].cpu().numpy()
        last = list(explanation.raw)[-1] if explanation.raw else ""
        targets = explanation.targets
        categories = targets[0].tolist() if isinstance(targets, Tensor) else []
        return told_maps(
            heats,
            is_saliency=explanation.pixels is not None,
            are_concepts=explanation.finds_concepts,
            signed=_signed(explanation, heats.shape[1:]) if signed else None,
            method=explanation.method,
            classes=self._told(categories, seen.logits),
            scores=explanation.scores[0].tolist() if categories else [],
            asks_for_class=explanation.depends_on_targets,
            layers=list(explanation.layers),
            reasons=dict(explanation.layer_reasons),
            grid=list(explanation.raw[last].shape[2:]) if last and explanation.pixels is None else [],
            notes=[line for _, line in explanation.doubts()] + list(explanation.empty.values()),
            seconds=time.perf_counter() - started,
        )

    def place(self, view: View, at: tuple[float, float], progress: Progress) -> dict[str, Any]:
        """See :class:`camkit.explore.kinds.Source`."""
        found = self._places_of(view).empty(at)
        top = found.lost.topk(min(SPOKEN_FOR, len(found.lost))).indices.tolist()
        asked = [] if view.category is None or view.category in top else [view.category]
        return {
            "layer": found.layer,
            "row": found.row,
            "column": found.column,
            "grid": list(found.grid),
            "classes": [
                {**each, "score": float(found.logits[each["index"]]), "lost": float(found.lost[each["index"]])}
                for each in self._told([*top, *asked], found.logits)
            ],
        }

    def picture(self, view: View, style: Style, progress: Progress, *, original_size: bool) -> bytes:
        """See :class:`camkit.explore.kinds.Source`."""
        seen = self._look(view.image)
        explanation = self._explain(seen, view, progress)
        image, maps, mask = fit_maps(seen.prepared, explanation.maps[0], original_size=original_size)
        return png(explanation.pictures(image, style=style, maps=maps, seen=mask)[0])

    def raw(self, view: View, progress: Progress) -> bytes:
        """See :class:`camkit.explore.kinds.Source`."""
        explanation = self._explain(self._look(view.image), view, progress)
        told = raw.provenance(
            self.classifier,
            [explanation],
            image=self._album.typed(view.image),
            device=self._setting.device,
            cfg_options=self._setting.cfg_options,
            num_extra_tokens=self._setting.num_extra_tokens,
        )
        made = io.BytesIO()
        raw_writer(raw.arrays([explanation]), told)(made)
        return made.getvalue()

    def command(self, view: View, style: Style, *, original_size: bool) -> str:
        """See :class:`camkit.explore.kinds.Source`."""
        typed, method = self._album.typed(view.image), self._method(view)
        return self._setting.command(typed, method, view, style, original_size=original_size)

    def _configured(self, method: Method) -> Method:
        return configured([method], self._setting.options_of(method))[0]

    def _method(self, view: View) -> Method:
        return self._methods[find_method(view.method).name]

    def _look(self, image: str) -> Seen:
        """Prepare a picture and run the model on it, or remember it."""
        path = self._album.path(image)
        about = path.stat()
        key = image, about.st_mtime_ns, about.st_size
        found = self._seen.find(key)
        if found is None:
            try:
                prepared = replace(self.classifier.prepare(path), bands=self._setting.bands)
            except CamkitError as error:  # its owner doesn't know where a picture that was dropped lies
                raise CamkitError(str(error).replace(str(path), self._album.typed(image))) from error
            inputs = self._network.prepare(prepared.inputs)
            try:
                with record(self._network, inputs, {}) as forward:
                    logits = forward.logits[0].cpu()
            except CamkitError:  # a model without classes
                with record(self._network, inputs, {}, NO_CLASS) as forward:
                    logits = forward.logits[0, :0].cpu()
            found = Seen(key, prepared, logits if logits.ndim == 1 else logits.flatten()[:0])
            self._seen.keep(key, found, found.nbytes)
        return found

    def _explain(self, seen: Seen, view: View, progress: Progress) -> Explanation:
        """One map, made as ``camkit vis-cam`` makes it: of one method and one class, so that no bit differs."""
        method = self._method(view)
        layers = view.layers if method.takes_layers else ()
        key = seen.key, method.name, view.category, layers, view.eigen_smooth, view.aug_smooth
        found = self._explained.find(key)
        if found is None:
            (found,) = explain(
                self.classifier.model,
                seen.prepared.inputs,
                method,
                None if view.category is None else [[view.category]],
                list(layers) or None,
                eigen_smooth=view.eigen_smooth,
                aug_smooth=view.aug_smooth,
                num_extra_tokens=self._setting.num_extra_tokens,
                output=self._setting.output,
                batch_size=self._setting.batch_size,
                progress=progress,
            ).values()
            self._explained.keep(key, found, _bytes_of(found))
        return found

    def _places_of(self, view: View) -> Places:
        """The places of a picture in a layer; the last ones are remembered, which makes further clicks cheap."""
        seen = self._look(view.image)
        key = seen.key, view.layers
        if self._places is None or self._places[0] != key:
            self._places = None  # its memory is free before the next takes some
            tokens = self._setting.num_extra_tokens
            layers = TargetLayers(self._network, list(view.layers) or None, num_extra_tokens=tokens)
            images = self._network.prepare(seen.prepared.inputs)
            self._places = key, Places(self._network, images, layers)
        return self._places[1]

    def _told(self, categories: Sequence[int], logits: Tensor) -> list[dict[str, Any]]:
        scores = [self.classifier.probability(logits, each) if each < len(logits) else 0.0 for each in categories]
        return told_classes(categories, [self.classifier.name(each) for each in categories], scores)


def _told_method(method: Method) -> dict[str, Any]:
    need = method.need
    return {
        "name": method.name,
        "family": method.family,
        "cost": method.cost,
        "slow": method.family in SLOW,
        "takes_layers": method.takes_layers,
        "takes_eigen": method.takes_reduction,
        "asks_for_class": need.depends_on_targets,
        "concepts": need.finds_targets,
    }


def _signed(explanation: Explanation, size: Sequence[int]) -> NDArray[np.float32] | None:
    """The signed maps in the size of the input, (T, H, W); those of several layers as their mean, each over its size.

    None where a method's raw maps have no rows and columns.
    """
    layers = [each[0].float() for each in explanation.raw.values()]
    if not layers or any(each.ndim != 3 for each in layers):
        return None
    if len(layers) > 1:
        layers = [each / each.abs().amax((1, 2), keepdim=True).clamp_min(1e-30) for each in layers]
    made: NDArray[np.float32] = torch.stack([resize(each, size) for each in layers]).mean(0).cpu().numpy()
    return made


def _bytes_of(explanation: Explanation) -> int:
    held = [explanation.maps, explanation.logits, *explanation.raw.values()]
    held += [] if explanation.pixels is None else [explanation.pixels]
    return int(sum(each.nbytes for each in held))
