"""Where ``camkit evaluate`` takes maps from: the network explains each batch, or a finished run has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import torch
from torch import Tensor

from camkit.datasets import manifest as manifests
from camkit.datasets.boxes import Rule
from camkit.datasets.explaining import Explainer
from camkit.datasets.labels import labelled
from camkit.datasets.settings import Settings, find_target
from camkit.datasets.sources import Source
from camkit.errors import CamkitError, UsageError
from camkit.explanation import Explanation
from camkit.methods import Method, find_method, find_methods
from camkit.metrics.comparing import RANDOMCAM, grid_of
from camkit.metrics.rows import classes_of_row, refuse_concepts

if TYPE_CHECKING:
    from camkit.datasets.reading import Run
    from camkit.models.classifier import Classifier


class Found(NamedTuple):
    """Maps of some images.

    Attributes:
        targets: (B, T).
        maps: (B, T, H, W) by method.
        grid: the layer's resolution; None where no method is at a layer.
    """

    targets: Tensor
    maps: dict[str, Tensor]
    grid: tuple[int, ...] | None


class FromNetwork:
    """Maps that the network makes now, at layers that are chosen with the first images.

    Args:
        classifier: The model.
        settings: What is explained, and how; RandomCAM among the methods where it is a control.
        source: The images.
    """

    def __init__(self, classifier: Classifier, settings: Settings, source: Source | None = None) -> None:
        self.classifier = scored(classifier, settings)
        """The model, whose output is the one that is explained."""
        self.rule: Rule | None = None
        """Where in the images the network's input lies, where that is known."""
        self._settings = settings
        self._source = source
        self._explainer = Explainer(classifier, settings)
        self._labels: Sequence[int | None] | None = None
        self.layers: dict[str, list[str]] = {}
        """Method to its target layers, once there are maps."""

    @property
    def names(self) -> list[str]:
        """The methods."""
        return [each.name for each in self._settings.methods]

    def maps(self, positions: Sequence[int], inputs: Tensor) -> Found:
        """Explain images (B, C, H, W) at some positions of the data set."""
        found = self._explainer.explain(inputs, self._labels_of(positions, inputs))
        self._settle(found.explanations)
        targets = found.logits.argmax(1, keepdim=True) if found.classes is None else found.classes
        return _found(targets, found.explanations)

    def of_targets(self, inputs: Tensor, targets: Tensor) -> Found:
        """Explain classes (B, T) of images."""
        found = self._explainer.compute(inputs, targets.tolist(), self._settings.methods)
        self._settle(found)
        return _found(targets, found)

    def explainers(self) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
        """By method, what explains other images (N, C, H, W) for targets (N,)."""
        return {each.name: _explainer_of(self._explainer, each) for each in self._settings.methods}

    def _settle(self, explanations: Sequence[Explanation]) -> None:
        """Explain all other images at the layers of the first ones."""
        if self.layers:
            return
        self.layers = {each.method: list(each.layers) for each in explanations}
        self._explainer = Explainer(self.classifier, self._settings, self.layers)

    def _labels_of(self, positions: Sequence[int], inputs: Tensor) -> list[int | None]:
        if self._source is None or not self._settings.target.needs_labels:
            return [None] * len(positions)
        if self._labels is None:
            classes = self._explainer.logits(inputs[:1]).shape[1]
            labels, line = labelled(self._source, self.classifier, classes)
            if not any(label is not None for label in labels):
                raise UsageError(
                    f"--target {self._settings.target} needs labels, and no image has one{f'; {line}' if line else ''}"
                )
            self._labels = labels
        return [self._labels[position] for position in positions]


class FromRun:
    """Maps of a finished run, which are read and not made again.

    Args:
        run: Its rows that have maps.
        classifier: The model that made them.
        methods: Some of the run's.
        controls: Whether RandomCAM is made beside them, at the run's layers.

    Raises:
        UsageError: No such method, one that explains no class, or a run whose settings can't be told from its manifest.
        CamkitError: The run was made with another network.
    """

    def __init__(self, run: Run, classifier: Classifier, methods: Sequence[str], *, with_random: bool) -> None:
        self._run = run
        self._names = list(dict.fromkeys(run.column_method(name) for name in methods)) or run.methods
        refuse_concepts([find_method(name) for name in self._names])
        self.layers: dict[str, list[str]] = {name: list(run.manifest.layers.get(name, ())) for name in self._names}
        settings = settings_of(run, self._names)
        require_same_network(run, classifier, settings)
        self.classifier = scored(classifier, settings)
        """See :class:`FromNetwork`."""
        self.rule: Rule | None = run.manifest.rule
        """See :class:`FromNetwork`."""
        at_layers = next((each for each in settings.methods if each.of_layers), None)
        self._random = None
        if with_random and at_layers is not None and RANDOMCAM not in self._names:
            self._random = find_method(RANDOMCAM)
            settings = replace(settings, methods=(*settings.methods, self._random))
            self.layers[RANDOMCAM] = self.layers[at_layers.name]
        self._methods = settings.methods
        self._explainer = Explainer(classifier, settings, self.layers)
        columns = [each for each in run.manifest.columns if each.method in self._names and not each.saliency]
        self._column = columns[0] if columns else None

    @property
    def names(self) -> list[str]:
        """The methods."""
        return [each.name for each in self._methods]

    def maps(self, positions: Sequence[int], inputs: Tensor) -> Found:
        """Read the maps of rows, whose network inputs are (B, C, H, W)."""
        rows = [self._run.row(position) for position in positions]
        for row in rows:
            size = row["input_height"], row["input_width"]
            if size != tuple(inputs.shape[2:]):
                raise CamkitError(
                    f"the network's input of {row['id']} was {size[0]} x {size[1]} in the run, and is "
                    f"{inputs.shape[2]} x {inputs.shape[3]} now"
                )
        targets = torch.tensor([classes_of_row(row) for row in rows])
        maps = {
            name: torch.stack([self._run.finished(position, name) for position in positions]) for name in self._names
        }
        if self._random is not None:
            maps[RANDOMCAM] = self._explainer.compute(inputs, targets.tolist(), [self._random])[0].maps
        grid = None
        if self._column is not None:
            grid = tuple(self._run.map(positions[0], self._column.method, self._column.layer).shape[1:])
        return Found(targets, maps, grid)

    def explainers(self) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
        """See :meth:`FromNetwork.explainers`; with the run's settings."""
        return {each.name: _explainer_of(self._explainer, each) for each in self._methods}


def _found(targets: Tensor, explanations: Sequence[Explanation]) -> Found:
    made = {each.method: each for each in explanations}
    return Found(targets.cpu(), {name: each.maps.cpu() for name, each in made.items()}, grid_of(made))


def scored(classifier: Classifier, settings: Settings) -> Classifier:
    """The classifier with the output that is explained, which is the one to score."""
    return classifier if settings.output is None else replace(classifier, output=settings.output)


def settings_of(run: Run, names: Sequence[str]) -> Settings:
    """The settings that a run was made with, of some of its methods."""
    told = run.manifest.fingerprint
    layers = told["target layers"]
    methods = [find_methods(name, told["methods"][name])[0] for name in names]
    return Settings(
        methods=tuple(methods),
        target=find_target(told["target"].split(" "), run.find_category),
        target_layers=() if layers == "default" else tuple(layers),
        eigen_smooth="eigen" in told["smoothing"],
        aug_smooth="aug" in told["smoothing"],
        num_extra_tokens=told["num_extra_tokens"],
        output=told["output"],
        autocast="" if told["precision"] == "as loaded" else told["precision"],
    )


def require_same_network(run: Run, classifier: Classifier, settings: Settings) -> None:
    """Check that a network is the one that a run was made with.

    Raises:
        CamkitError: It isn't; the message says what differs.
    """
    theirs = run.manifest.fingerprint
    ours = manifests.fingerprint(classifier, classifier.loader(), settings, theirs["data"])
    differing = [key for key in ("network", "checkpoint", "preprocessing") if ours[key] != theirs.get(key)]
    if differing:
        raise CamkitError(
            f"{run.path} was made with another {' and '.join(differing)} than {classifier.source} has now: give the "
            f"CONFIG and the CHECKPOINT of the run, {theirs['config']}"
        )


def source_of(run: Run, failed: dict[int, str]) -> Source:
    """The images of a run's rows, as a data set."""
    table = run.table.select(["id", "path", "label"])
    labels: list[Any] = table["label"].to_pylist()
    return Source(
        name=run.path,
        ids=pa.array(table["id"].to_pylist(), pa.string()),
        paths=pa.array(table["path"].to_pylist(), pa.string()),
        labels=labels,
        problems=failed,
    )


def _explainer_of(explainer: Explainer, method: Method) -> Callable[[Tensor, Tensor], Tensor]:
    def explained(images: Tensor, targets: Tensor) -> Tensor:
        return explainer.compute(images, [[each] for each in targets.tolist()], [method])[0].maps[:, 0]

    return explained


Maps = FromNetwork | FromRun
Explainers = Mapping[str, Callable[[Tensor, Tensor], Tensor]]
