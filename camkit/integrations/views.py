"""What is seen of images at one time: for each method and target a map, drawn, with a caption and signed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import index as whole
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from camkit.cam import CAM
from camkit.errors import UsageError
from camkit.explanation import Explanation
from camkit.integrations.samples import Sample
from camkit.layers.target_layers import TargetLayers
from camkit.methods import Method
from camkit.models.classifier import Activation, find_category
from camkit.typing import Targets
from camkit.visualize.grid import grid
from camkit.visualize.picture import Picture

WIDE = 160
"""Narrower pictures are enlarged by a whole factor until they are as wide."""
WHICH = ("label", "predicted", "both")
"""Words for targets."""


@dataclass(frozen=True, eq=False)
class View:
    """One map of one image.

    Attributes:
        method: the method's name.
        target: what was asked for: ``label``, ``predicted``, ``class3``, ``target0``.
        caption: the class and its probability.
        picture: the map over the image, RGB.
        signed: layer to the signed map at its resolution, on the CPU; none of concepts, which have no order.
        is_new: False for a method that asks for no class, whose map an earlier target showed already.
    """

    method: str
    target: str
    caption: str
    picture: Picture
    signed: dict[str, Tensor] = field(default_factory=dict)
    is_new: bool = True

    @property
    def key(self) -> str:
        """What tells it apart from the image's other views."""
        return f"{self.method}_{self.target}"

    @property
    def title(self) -> str:
        """What was asked for, with the class and its probability: ``label 7 seven (0.93)``, ``7 seven (0.93)``."""
        return f"{self.target} {self.caption}".rstrip() if not self.target.startswith("class") else self.caption


@dataclass(frozen=True)
class Question:
    """What images are asked for in one call.

    Attributes:
        names: of each image's targets.
        given: the targets, the same for every image; None for the label or the predicted class.
    """

    names: tuple[str, ...]
    given: tuple[Any, ...] | None = None

    def targets(self, samples: Sequence[Sample]) -> Targets:
        """As a CAM takes them."""
        if self.given is not None:
            return [list(self.given)] * len(samples)
        return None if self.names == ("predicted",) else [int(each.label or 0) for each in samples]


def questions(targets: Any, samples: Sequence[Sample], class_names: Sequence[str] | None) -> list[Question]:
    """What ``targets`` asks for.

    Args:
        targets: ``"label"``, ``"predicted"``, ``"both"``, or a class, by index or name, a score function, or a list of
            these; None for the label where all images have one, else for the predicted class.
        samples: the images.
        class_names: by index, where they are known.

    Raises:
        UsageError: a label where an image has none, or a class that isn't there.
    """
    unlabelled = [each.name for each in samples if each.label is None]
    if targets is None:
        targets = "predicted" if unlabelled else "label"
    if isinstance(targets, str) and targets in WHICH:
        if unlabelled and targets != "predicted":
            raise UsageError(
                f"targets={targets!r} needs a class index as each image's label, and {unlabelled[0]} has none: give "
                "labels=, or take targets='predicted'"
            )
        return [Question((name,)) for name in (WHICH[:2] if targets == "both" else (targets,))]
    if isinstance(targets, str | int) or callable(targets):
        targets = [targets]
    if not isinstance(targets, Sequence) or not targets:
        raise UsageError(f"targets is {', '.join(map(repr, WHICH))}, or a list of classes; got {targets!r}")
    given = tuple(_as_target(each, class_names) for each in targets)
    names = [f"class{each}" if isinstance(each, int) else f"target{number}" for number, each in enumerate(given)]
    return [Question(tuple(names), given)]


class Explainer:
    """Explains samples, always at the same layers, those of the first time.

    Args:
        cam: what explains.
        methods: in place of its own.
        asked: for which targets.
        samples: the images.
        chunk_size: how many run through the network at a time, at most.
        class_names: by index, where they are known.
        activation: what makes probabilities of logits.
    """

    def __init__(
        self,
        cam: CAM,
        methods: Sequence[Method],
        asked: Sequence[Question],
        samples: Sequence[Sample],
        *,
        chunk_size: int,
        class_names: Sequence[str] | None,
        activation: Activation,
    ) -> None:
        self.samples = samples
        self._cam = cam
        self._methods = methods
        self._asked = asked
        self._chunk_size = chunk_size
        self._class_names = class_names
        self._activation = activation
        self._layers: TargetLayers | None = None

    def explain(self) -> Iterator[tuple[list[int], Question, list[Explanation]]]:
        """Explain all samples: the numbers of a chunk, what was asked for, and an explanation per method."""
        for chunk in self._chunks():
            shown = [self.samples[number] for number in chunk]
            images = self._cam.network.prepare(torch.stack([each.inputs for each in shown]))
            for question in self._asked:
                targets = question.targets(shown)
                found = self._cam.compute(images, targets, self._methods, layers=self._layers)
                self._layers = self._layers or self._frozen(found)
                yield chunk, question, found

    def views(self) -> list[list[View]]:
        """The views of each sample, method by method."""
        views: list[list[View]] = [[] for _ in self.samples]
        seen: set[tuple[int, str]] = set()
        for chunk, question, found in self.explain():
            for explanation in found:
                for place, number in enumerate(chunk):
                    is_new = explanation.depends_on_targets or (number, explanation.method) not in seen
                    seen.add((number, explanation.method))
                    made = self._views(explanation, place, self.samples[number], question, is_new=is_new)
                    views[number].extend(made)
        return [sorted(each, key=self._place) for each in views]

    def _place(self, view: View) -> int:
        return [method.name for method in self._methods].index(view.method)

    def _chunks(self) -> Iterator[list[int]]:
        """Numbers of samples of one size."""
        sizes: dict[tuple[int, ...], list[int]] = {}
        for number, sample in enumerate(self.samples):
            sizes.setdefault(tuple(sample.inputs.shape), []).append(number)
        for numbers in sizes.values():
            for start in range(0, len(numbers), self._chunk_size):
                yield numbers[start : start + self._chunk_size]

    def _frozen(self, found: Sequence[Explanation]) -> TargetLayers:
        pairs = zip(self._methods, found, strict=True)
        return self._cam.layers.freeze(
            {method.default_layer: each.layers for method, each in pairs if method.of_layers}
        )

    def _views(
        self, explanation: Explanation, place: int, sample: Sample, question: Question, *, is_new: bool
    ) -> Iterator[View]:
        picture, factor = enlarged(sample.picture)
        maps = explanation.maps[place : place + 1].float().cpu()
        if factor > 1:
            maps = functional.interpolate(maps, scale_factor=factor, mode="bilinear").clamp(0, 1)
        maps = maps[0, :, : picture.shape[0], : picture.shape[1]]  # inputs may be padded at the end
        drawn = explanation.pictures(picture, image_index=place, maps=maps)
        if explanation.finds_concepts:
            yield View(explanation.method, "concepts", "", drawn[0], is_new=is_new)
            return
        for index, name in enumerate(question.names):
            signed = {layer: raw[place, index].float().cpu().clone() for layer, raw in explanation.raw.items()}
            caption = self._caption(explanation, place, index)
            is_repeated = index > 0 and not explanation.depends_on_targets
            yield View(explanation.method, name, caption, drawn[index], signed, is_new=is_new and not is_repeated)

    def _caption(self, explanation: Explanation, place: int, index: int) -> str:
        empty = ", empty" if (place, index) in explanation.empty else ""
        target: Any = explanation.targets[place][index]
        if callable(target):
            return f"score {float(explanation.scores[place, index]):.2f}{empty}"
        category, logits = int(target), explanation.logits[place].double()
        names = self._class_names
        name = f" {names[category]}" if names is not None and 0 <= category < len(names) else ""
        if not 0 <= category < len(logits):
            return f"{category}{name}{empty}"
        probabilities = logits.sigmoid() if self._activation == "sigmoid" else logits.softmax(0)
        return f"{category}{name} ({float(probabilities[category]):.2f}){empty}"


def page(name: str, picture: Picture, views: Sequence[View]) -> Picture:
    """An image with its maps beside it: a row per method, a column per target, each with the class and its score."""
    rows = list(dict.fromkeys(view.method for view in views))
    columns = list(dict.fromkeys(view.target for view in views))
    titles = {view.target: view.title for view in views}
    by_place = {(view.method, view.target): view.picture for view in views}
    cells = [[picture, *(by_place.get((row, column), "") for column in columns)] for row in rows]
    return grid(cells, rows, [name, *(titles[column] for column in columns)])


def enlarged(picture: Picture) -> tuple[Picture, int]:
    """A picture enlarged by a whole factor to be at least :data:`WIDE` pixels wide, and the factor."""
    factor = -(-WIDE // picture.shape[1])
    return np.ascontiguousarray(picture.repeat(factor, 0).repeat(factor, 1)), factor


def _as_target(given: Any, class_names: Sequence[str] | None) -> Any:
    if isinstance(given, str):
        return find_category(given, class_names, "the network")
    if callable(given):
        return given
    try:
        return whole(given)
    except TypeError as error:
        raise UsageError(
            f"a target is a class index, a class name or a function of the output; got {given!r}"
        ) from error
