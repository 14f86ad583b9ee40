"""A batch of network inputs to rows: the maps, and what belongs to them. What every engine does with its images."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from camkit.cam import CAM
from camkit.datasets.boxes import BOX_NONE, Boxes
from camkit.datasets.schema import BOX, MapColumn, make_batch
from camkit.datasets.settings import Settings
from camkit.engine.record import record
from camkit.errors import CamkitError, UsageError, is_out_of_memory, printable, reason
from camkit.explanation import Explanation
from camkit.methods import Method
from camkit.smoothing import AugSmooth, EigenSmooth
from camkit.typing import Targets

if TYPE_CHECKING:
    from camkit.models.classifier import Classifier

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Image(NamedTuple):
    """An image of a batch.

    Attributes:
        position: In the data set.
        id: Its own.
        path: Of its file, as text.
        label: Its class, None where unknown.
        size: Height and width of the whole image.
        seconds: That reading and preparing it took.
    """

    position: int
    id: str
    path: str
    label: int | None
    size: tuple[int, int] = (0, 0)
    seconds: float = 0.0


def said(error: Exception) -> str:
    """An error as a row keeps it, in one line."""
    if is_out_of_memory(error):
        text = f"out of memory ({reason(error)})"
    elif isinstance(error, CamkitError):
        text = " ".join(str(error).split())
    else:
        text = f"{type(error).__name__}: {reason(error)}"
    return printable(text)


@dataclass(frozen=True)
class Found:
    """What explaining a batch gave, on the CPU.

    Attributes:
        maps: Map column's name to (B, T, *spatial).
        logits: (B, K) float64.
        classes: (B, T) explained; None where no method asks for a class.
        concepts: Method to classes and logits (B, T) of its concepts.
        explanations: As they were made.
    """

    maps: dict[str, NDArray[np.float32]]
    logits: Tensor
    classes: Tensor | None
    concepts: dict[str, tuple[Tensor, Tensor]]
    explanations: list[Explanation]

    def notes(self) -> list[str]:
        """What was taken among several outputs or calls of a layer, and what can't be told, as lines."""
        return list(dict.fromkeys(line for each in self.explanations for _, line in each.doubts()))

    def beside(self, other: Found) -> Found:
        """This batch with what other methods gave of it, too; logits and classes are theirs."""
        return Found(
            self.maps | other.maps,
            other.logits,
            other.classes,
            self.concepts | other.concepts,
            self.explanations + other.explanations,
        )


def joined(parts: Sequence[Found]) -> Found:
    """Several batches as one, of the same methods."""
    first = parts[0]
    return Found(
        {name: np.concatenate([each.maps[name] for each in parts]) for name in first.maps},
        torch.cat([each.logits for each in parts]),
        None if first.classes is None else torch.cat([each.classes for each in parts if each.classes is not None]),
        {
            name: (
                torch.cat([each.concepts[name][0] for each in parts]),
                torch.cat([each.concepts[name][1] for each in parts]),
            )
            for name in first.concepts
        },
        [explanation for each in parts for explanation in each.explanations],
    )


class Explainer:
    """Explains batches with a run's settings.

    Args:
        classifier: The model.
        settings: What is explained, and how.
        layers: Method to the layers that were chosen for the run; None to choose.
    """

    def __init__(
        self, classifier: Classifier, settings: Settings, layers: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self.classifier = classifier
        self.settings = settings
        cam: CAM = CAM(
            classifier.model,
            target_layers=list(settings.target_layers) or None,
            num_extra_tokens=settings.num_extra_tokens,
            output=classifier.output if settings.output is None else settings.output,
            batch_size=settings.chunk_size,
        )
        self._cam = AugSmooth(EigenSmooth(cam, enabled=settings.eigen_smooth), enabled=settings.aug_smooth)
        self._layers = cam.layers
        if layers is not None:
            self._layers = cam.layers.freeze(
                {each.default_layer: layers[each.name] for each in settings.methods if each.of_layers}
            )

    def logits(self, inputs: Tensor) -> Tensor:
        """(B, K) of inputs, from a forward of its own."""
        network = self._cam.network
        with self._precision(), torch.no_grad(), record(network, network.prepare(inputs), {}) as forward:
            return forward.logits.detach()

    def explain(self, inputs: Tensor, labels: Sequence[int | None]) -> Found:
        """Explain a batch of images of one size.

        Concepts are what the images of a batch have in common; here they are each image's own, whatever the batch.

        Raises:
            CamkitError: See :meth:`camkit.CAM.explain`; also an image without a label where that is explained.
        """
        alone = [each for each in self.settings.methods if each.need.finds_targets]
        if len(inputs) == 1 or not alone:
            return self._together(inputs, labels, self.settings.methods)
        others = [each for each in self.settings.methods if each not in alone]
        rows = [self._together(inputs[at : at + 1], labels[at : at + 1], alone) for at in range(len(inputs))]
        found = joined(rows)
        return found.beside(self._together(inputs, labels, others)) if others else found

    def compute(self, inputs: Tensor, targets: Targets, methods: Sequence[Method]) -> list[Explanation]:
        """Explain classes of a batch with some of the methods; see :meth:`camkit.CAM.compute`."""
        with self._precision():
            return self._cam.compute(self._cam.network.prepare(inputs), targets, methods, layers=self._layers)

    def _together(self, inputs: Tensor, labels: Sequence[int | None], methods: Sequence[Method]) -> Found:
        """Explain a batch with some of the methods."""
        found = self.compute(inputs, self._targets(inputs, labels), methods)
        maps = {
            f"{each.method}/{layer}": raw.float().cpu().numpy() for each in found for layer, raw in each.raw.items()
        }
        logits = found[0].logits.detach().double().cpu()
        if logits.ndim != 2 or not logits.shape[1]:
            raise UsageError(
                f"runs need a classifier's logits (batch, classes), the model returns {tuple(logits.shape)}"
            )
        asked = next((each for each in found if not each.finds_concepts and isinstance(each.targets, Tensor)), None)
        concepts = {
            each.method: (each.targets.cpu(), each.scores.detach().double().cpu())
            for each in found
            if each.finds_concepts and isinstance(each.targets, Tensor)
        }
        classes = asked.targets.cpu() if asked is not None and isinstance(asked.targets, Tensor) else None
        return Found(maps, logits, classes, concepts, found)

    def _targets(self, inputs: Tensor, labels: Sequence[int | None]) -> Targets:
        target = self.settings.target
        if target.needs_labels and None in labels:
            raise CamkitError("has no label, which --target asks for")
        known = [label for label in labels if label is not None]
        if target.kind == "label":
            return [[label] for label in known]
        if target.kind == "classes":
            return [list(target.classes)] * len(labels)
        if not target.needs_logits:
            return None
        logits = self.logits(inputs)
        if target.kind == "both":
            return [[int(top), label] for top, label in zip(logits.argmax(1).tolist(), known, strict=True)]
        if target.top > logits.shape[1]:
            raise UsageError(f"--target top:{target.top}, and the network has {logits.shape[1]} classes")
        # Of equal scores the lower index comes first, as the predicted class is chosen.
        order = logits.double().cpu().argsort(dim=1, descending=True, stable=True)
        rows: list[list[int]] = order[:, : target.top].tolist()
        return rows

    def _precision(self) -> AbstractContextManager[Any]:
        if not self.settings.autocast:
            return nullcontext()
        return torch.autocast(self.classifier.device.type, dtype=_AUTOCAST[self.settings.autocast])


class RowMaker:
    """Makes a run's rows of images.

    Args:
        explainer: With the run's layers.
        columns: The run's map columns.
        schema: The run's.
        boxes: Of the run's preprocessing.
    """

    def __init__(self, explainer: Explainer, columns: Sequence[MapColumn], schema: pa.Schema, boxes: Boxes) -> None:
        self._explainer = explainer
        self._columns = columns
        self._schema = schema
        self._boxes = boxes

    def rows(self, images: Sequence[Image], inputs: Tensor) -> list[pa.RecordBatch]:
        """Explain images of one size, (B, C, H, W). Where a batch fails, its images are tried in smaller ones."""
        started = time.perf_counter()
        try:
            found = self._explainer.explain(inputs, [image.label for image in images])
            self._check(found)
        except Exception as error:  # noqa: BLE001 (whatever a network does to one image, the others go on)
            if len(images) > 1:
                half = len(images) // 2
                return self.rows(images[:half], inputs[:half]) + self.rows(images[half:], inputs[half:])
            return [self.failures(images, [said(error)])]
        return [self._made(images, found, tuple(inputs.shape[2:]), (time.perf_counter() - started) / len(images))]

    def failures(self, images: Sequence[Image], errors: Sequence[str]) -> pa.RecordBatch:
        """Rows of images that can't be explained."""
        return make_batch(
            self._schema,
            self._columns,
            [image.position for image in images],
            self._known(images) | {"error": list(errors), "seconds": [image.seconds for image in images]},
        )

    def _known(self, images: Sequence[Image]) -> dict[str, Any]:
        return {
            "id": [image.id for image in images],
            "path": [image.path for image in images],
            "label": [image.label for image in images],
        }

    def _made(
        self, images: Sequence[Image], found: Found, input_size: tuple[int, ...], seconds: float
    ) -> pa.RecordBatch:
        logits = found.logits
        sigmoid = self._explainer.classifier.activation == "sigmoid"
        probabilities = logits.sigmoid() if sigmoid else logits.softmax(1)
        top = logits.argmax(1)
        rows = range(len(images))
        values = self._known(images) | {
            "predicted": top.numpy(),
            "score": probabilities.gather(1, top[:, None])[:, 0].float().numpy(),
            "logit": logits.gather(1, top[:, None])[:, 0].float().numpy(),
            "label_score": [
                None if image.label is None else float(probabilities[row, image.label])
                for row, image in zip(rows, images, strict=True)
            ],
            "height": [image.size[0] for image in images],
            "width": [image.size[1] for image in images],
            "input_height": [input_size[0]] * len(images),
            "input_width": [input_size[1]] * len(images),
            "seconds": [image.seconds + seconds for image in images],
        }
        if found.classes is not None:
            values["classes"] = list(found.classes.numpy())
            values["scores"] = list(probabilities.gather(1, found.classes).float().numpy())
            values["logits"] = list(logits.gather(1, found.classes).float().numpy())
        for method, (classes, scores) in found.concepts.items():
            values |= {f"{method}.classes": list(classes.numpy()), f"{method}.logits": list(scores.float().numpy())}
        size = input_size[0], input_size[1]
        boxes = [self._boxes.find(image.path, image.size, size) or BOX_NONE for image in images]
        values |= dict(zip(BOX, zip(*boxes, strict=True), strict=True))
        return make_batch(self._schema, self._columns, [image.position for image in images], values, found.maps)

    def _check(self, found: Found) -> None:
        """Refuse maps that don't fit the run's columns."""
        names = [column.name for column in self._columns]
        if sorted(found.maps) != sorted(names):
            raise CamkitError(f"its maps are {', '.join(found.maps)}, the run's {', '.join(names)}")
        for column in self._columns:
            shape = found.maps[column.name].shape[1:]
            if shape[0] != column.shape[0] or not (column.is_ragged or shape == column.shape):
                own, run = ("x".join(map(str, each)) for each in (shape, column.shape))
                raise CamkitError(f"its map {column.name} is {own}, the run's {run}")
