"""The first image of a new run: which layers, which maps, how many classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from camkit.datasets import manifest as manifests
from camkit.datasets.boxes import find_rule
from camkit.datasets.explaining import Explainer, Found
from camkit.datasets.local import load_image
from camkit.datasets.manifest import Manifest
from camkit.datasets.schema import MapColumn
from camkit.datasets.settings import Settings
from camkit.datasets.sources import Source
from camkit.errors import CamkitError, UsageError

if TYPE_CHECKING:
    from camkit.models.classifier import Classifier
    from camkit.models.loader import Loader

PROBED = 3
"""Images that are tried for one that shows which layers and maps there are."""


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
        self._inputs: list[tuple[int, Any]] = []
        self.class_count = 0

    def try_images(self, source: Source, order: Sequence[int]) -> None:
        """Load images until some can be read, and run the network on the first.

        Raises:
            CamkitError: None can be read, or the network is no classifier.
        """
        problem = ""
        for position in order:
            try:
                if known := source.problems.get(position):
                    raise CamkitError(known)
                pixels = load_image(self._loader, source.path(position)).pixels
            except CamkitError as error:
                problem = problem or str(error)
                continue
            except Exception as error:  # noqa: BLE001 (what a decoder raises)
                problem = problem or str(error)
                continue
            self._inputs.append((position, self._loader.inputs(pixels[None])))
            if len(self._inputs) == PROBED:
                break
        if not self._inputs:
            raise CamkitError(f"none of the {len(order)} images of {source.name} can be read: {problem}")
        logits = self._explainer.logits(self._inputs[0][1])
        if logits.ndim != 2 or not logits.shape[1]:
            raise UsageError(
                f"runs need a classifier's logits (batch, classes), the model returns {tuple(logits.shape)}"
            )
        self.class_count = logits.shape[1]

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
            about=manifests.about(self._classifier, self._loader),
        )

    def _found(self, labels: Sequence[int | None]) -> Found:
        first: CamkitError | None = None
        for position, inputs in self._inputs:
            try:
                return self._explainer.explain(inputs, [labels[position]])
            except UsageError:
                raise
            except CamkitError as error:
                first = first or error
        assert first is not None  # noqa: S101 (there is an image)
        raise first
