"""The first image of a new run: which layers, which maps, how many classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from camkit.datasets import manifest as manifests
from camkit.datasets.boxes import find_rule
from camkit.datasets.explaining import Explainer, Found, said
from camkit.datasets.local import load_image
from camkit.datasets.manifest import Manifest
from camkit.datasets.schema import MapColumn
from camkit.datasets.settings import Settings
from camkit.datasets.sources import Source
from camkit.errors import CamkitError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from camkit.models.classifier import Classifier
    from camkit.models.loader import Loader

PROBED = 100
"""Readable images that are tried for one that shows which layers and maps there are."""


class Probe:
    """Explains the first image that can be, and so finds what the manifest of a new run says.

    Args:
        classifier: The model.
        loader: Of images.
        settings: Of the run.
    """

    def __init__(self, classifier: Classifier, loader: Loader, settings: Settings) -> None:
        self._classifier = classifier
        self._loader = loader
        self._settings = settings
        self._explainer = Explainer(classifier, settings)
        self._readable: Iterator[tuple[str, int, Tensor]] = iter(())
        self._first: tuple[str, int, Tensor] | None = None
        self._failed: list[str] = []
        self.class_count = 0

    def try_images(self, source: Source, order: Sequence[int]) -> None:
        """Run the network on the first image that can be read and that it takes.

        Raises:
            CamkitError: None can be read, or the network fails on all that are tried; or it is no classifier.
        """
        self._source = source
        self._readable = islice(self._read(order), PROBED)
        for each in self._readable:
            try:
                logits = self._explainer.logits(each[2])
            except UsageError:
                raise
            except Exception as error:  # noqa: BLE001 (whatever a network does to one image)
                self._fail(each[0], error)
                continue
            if logits.ndim != 2 or not logits.shape[1]:
                raise UsageError(
                    f"runs need a classifier's logits (batch, classes), the model returns {tuple(logits.shape)}"
                )
            self._first = each
            self.class_count = logits.shape[1]
            return
        raise self._refusal()

    def _read(self, order: Sequence[int]) -> Iterator[tuple[str, int, Tensor]]:
        """Id, position and input of the images that can be read.

        Raises:
            CamkitError: None can.
        """
        problem, count = "", 0
        for position in order:
            try:
                if known := self._source.problems.get(position):
                    raise CamkitError(known)
                pixels = load_image(self._loader, self._source.path(position)).pixels
            except Exception as error:  # noqa: BLE001 (what a decoder raises)
                problem = problem or str(error)
                continue
            count += 1
            yield self._source.ids[position].as_py(), position, self._loader.inputs(pixels[None])
        if not count:
            raise CamkitError(f"none of the {len(order)} images of {self._source.name} can be read: {problem}")

    def _fail(self, name: str, error: Exception) -> None:
        self._failed.append(f"{name}: {said(error)}")

    def _refusal(self) -> CamkitError:
        return CamkitError(
            f"none of the first {len(self._failed)} images of {self._source.name} that can be read can be explained: "
            f"{self._failed[0]}"
        )

    def manifest(self, labels: Sequence[int | None], fingerprint: dict[str, Any]) -> Manifest:
        """The manifest of the run.

        Raises:
            CamkitError: The images tried can't be explained.
        """
        rule = find_rule(self._classifier.prepare)
        found = self._found(labels)
        columns = []
        for each in found.explanations:
            for layer, raw in each.raw.items():
                count, *grid = raw.shape[1:]
                shape = (count, *grid) if rule.input_size is not None else (count, *[0] * len(grid))
                columns.append(
                    MapColumn(
                        f"{each.method}/{layer}",
                        each.method,
                        layer,
                        shape,
                        self._settings.map_dtype,
                        concepts=each.method in found.concepts,
                        saliency=each.pixels is not None,
                    )
                )
        classes = self._classifier.classes
        return Manifest(
            fingerprint=fingerprint,
            layers={each.method: list(each.layers) for each in found.explanations},
            columns=columns,
            rule=rule,
            class_count=self.class_count,
            classes=None if classes is None or len(classes) != self.class_count else list(classes),
            about=manifests.about(self._classifier, self._loader) | {"notes": found.notes()},
        )

    def _found(self, labels: Sequence[int | None]) -> Found:
        for name, position, inputs in chain([self._first] if self._first else [], self._readable):
            try:
                return self._explainer.explain(inputs, [labels[position]])
            except UsageError:
                raise
            except Exception as error:  # noqa: BLE001 (whatever a network does to one image)
                self._fail(name, error)
        raise self._refusal()
