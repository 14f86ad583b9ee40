"""What an evaluation does: reads images, gets maps of them, measures batch by batch, counts what fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from camkit.datasets.boxes import Boxes, find_rule
from camkit.datasets.counting import KEPT_FAILURES, Progress
from camkit.datasets.explaining import said
from camkit.datasets.local import Images, Ready, Waiting, gathered, part, usual_workers
from camkit.datasets.preparing import preparing
from camkit.datasets.sources import Source
from camkit.engine.network import Network
from camkit.errors import CamkitError, UsageError
from camkit.metrics.collecting import Collected
from camkit.metrics.comparing import RANDOMCAM, control_maps, explainer_of, items_of
from camkit.metrics.comparison import Comparison
from camkit.metrics.controls import make_controls
from camkit.metrics.explained import Explainers, Found, FromNetwork, Maps
from camkit.metrics.measuring import measure_methods
from camkit.metrics.mosaics import Mosaics
from camkit.metrics.pool import Pool
from camkit.metrics.regions import Regions, read_regions
from camkit.metrics.registry import Metric
from camkit.metrics.values import Values

if TYPE_CHECKING:
    from camkit.models.classifier import Classifier

AT_ONCE = 8
"""Images that are explained together, at most; those that are changed fill batches of their own."""


@dataclass(frozen=True)
class Evaluation:
    """How an evaluation ended.

    Attributes:
        comparison: The methods and the controls.
        images: How many images, or mosaics, were measured.
        failed: How many images were not, since they can't be read, explained or measured.
        failures: The first of them, and why.
        layers: Method to its target layers.
        seconds: That it took.
    """

    comparison: Comparison
    images: int
    failed: int = 0
    failures: Sequence[str] = ()
    layers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Plan:
    """What is measured, and how; see :func:`camkit.metrics.evaluating.evaluate`."""

    metrics: Sequence[Metric]
    controls: Sequence[str]
    boxes: str | Path | None = None
    mosaic: int = 0
    min_confidence: float = 0.5
    batch_size: int | None = None
    workers: int | None = None
    limit: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "limit"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise UsageError(f"{name} is a whole number of at least 1, got {value!r}")
        if isinstance(self.min_confidence, bool) or not 0 <= self.min_confidence <= 1:
            raise UsageError(f"min_confidence is a probability, 0 to 1, got {self.min_confidence!r}")
        if not isinstance(self.mosaic, int) or self.mosaic < 0 or self.mosaic == 1:
            raise UsageError(f"a mosaic has n x n images, n at least 2, got n={self.mosaic!r}")


@dataclass(frozen=True)
class Batch:
    """Maps of some images, and what belongs to them.

    Attributes:
        names: The images'.
        positions: In the data set.
        inputs: (B, C, H, W).
        found: Their maps, without controls.
        regions: (B, T, H, W) bool, empty where an image has none; None without boxes.
    """

    names: Sequence[str]
    positions: Sequence[int]
    inputs: Tensor
    found: Found
    regions: Tensor | None = None


class Evaluator:
    """Measures the maps of a data set or of a run.

    Args:
        classifier: The model.
        plan: What is measured.
        source: The images.
        maps: Where their maps come from.
        progress: Called with how far it is.
        say: Called with lines about what happens.
    """

    def __init__(
        self,
        classifier: Classifier,
        plan: Plan,
        source: Source,
        maps: Maps,
        progress: Callable[[Progress], object] | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self._classifier = classifier
        self._plan = plan
        self._source = source
        self._maps = maps
        self._progress = progress
        self._say = say or (lambda _: None)
        self._loader = classifier.loader()
        self._order = source.order(limit=plan.limit)
        self._total = len(self._order)
        self._collected = Collected()
        self._failures: list[str] = []
        self._failed = self._done = 0
        self._started = time.perf_counter()

    def run(self) -> Evaluation:
        """Measure all images, or mosaics of them.

        Raises:
            UsageError: Classes or labels that don't exist, boxes of other images, too few images for a mosaic.
            CamkitError: No image can be measured.
        """
        self._regions = None if self._plan.boxes is None else self._read_regions(self._plan.boxes)
        if self._plan.mosaic:
            self._measure_mosaics()
        else:
            for ready in self._ready():
                self._try(self._names(ready), partial(_of_part, self._measure_images, ready))
        notes = self._regions.lines() if self._regions is not None else []
        names = [each.name for each in self._plan.metrics]
        if not self._done:
            raise CamkitError(
                f"none of the {len(self._order)} images of {self._source.name} can be measured: {self._failures[0]}"
            )
        without = [name for name in names if name not in self._collected]
        if len(without) == len(names):
            raise CamkitError(f"none of the {self._done} images has a region: {notes[-1]}")
        if without:
            notes.append(f"{', '.join(without)}: no image has a region")
        return Evaluation(
            self._collected.comparison(names, self._controls, self._plan.seed, notes),
            self._done,
            self._failed,
            tuple(self._failures),
            self._maps.layers,
            time.perf_counter() - self._started,
        )

    @property
    def _controls(self) -> list[str]:
        """The controls that there are: RandomCAM is none where no method is at a layer."""
        return [name for name in self._plan.controls if name != RANDOMCAM or name in self._maps.names]

    def _read_regions(self, boxes: str | Path) -> Regions:
        ids = self._source.ids.to_pylist()
        rule = self._maps.rule or find_rule(self._classifier.prepare)
        self._views = Boxes(rule, preparing(self._classifier))
        return read_regions(boxes, [ids[each] for each in self._order], self._classifier.find_category)

    def _ready(self) -> Iterator[Ready]:
        """Images of one size, as many as are explained together; those that can't be read are counted."""
        together = min(AT_ONCE, self._plan.batch_size or AT_ONCE)
        workers = usual_workers(self._classifier.device) if self._plan.workers is None else self._plan.workers
        workers = min(workers, len(self._order) - 1)  # none for a single image
        waiting = Waiting(together)
        for groups, failures in gathered(Images(self._source, self._loader), self._order, together, workers, self._say):
            for failure in failures:
                self._fail(self._name(failure.position), failure.error)
            for group in groups:
                yield from waiting.add(group)
        yield from waiting.rest()

    def _of_images(self, ready: Ready) -> Batch:
        """Maps and regions of images that were read."""
        inputs = self._loader.inputs(ready.pixels)
        batch = Batch(self._names(ready), ready.positions, inputs, self._maps.maps(ready.positions, inputs))
        return batch if self._regions is None else replace(batch, regions=self._find(batch, ready.sizes, self._regions))

    def _find(self, batch: Batch, sizes: Sequence[tuple[int, int]], regions: Regions) -> Tensor:
        """Where the objects of each image's targets are."""
        size = batch.inputs.shape[2], batch.inputs.shape[3]
        found = torch.zeros(*batch.found.targets.shape, *size, dtype=torch.bool)
        for row, (position, whole) in enumerate(zip(batch.positions, sizes, strict=True)):
            view = self._views.find(self._source.paths[position].as_py(), whole, size)
            for column, category in enumerate(batch.found.targets[row].tolist()):
                region = regions.find(batch.names[row], category, whole, view, size)
                if region is not None:
                    found[row, column] = region
        return found

    def _measure_mosaics(self) -> None:
        """Measure maps of mosaics: one pass over the images finds those that the network is sure of."""
        if not isinstance(self._maps, FromNetwork):
            raise UsageError("a run has no maps of mosaics: leave out the run, or the mosaics")
        pool = Pool(self._maps.classifier, self._loader, self._plan.min_confidence)
        for ready in self._ready():
            self._try(self._names(ready), partial(_of_part, pool.add, ready))
        if not self._done:
            return
        mosaics = pool.mosaics(self._plan.mosaic, self._plan.seed, self._say)
        names = [" + ".join(map(self._name, row)) for row in pool.positions_of(mosaics)]
        self._total, self._done = len(names), 0
        for start in range(0, len(names), AT_ONCE):
            rows = slice(start, start + AT_ONCE)
            self._try(names[rows], partial(self._measure_part, mosaics, names, start, self._maps))

    def _measure_part(self, mosaics: Mosaics, names: Sequence[str], start: int, maps: FromNetwork, rows: slice) -> None:
        """Measure some mosaics, counted from number ``start``."""
        rows = slice(start + rows.start, start + rows.stop)
        images = mosaics.images[rows]
        found = maps.of_targets(images, mosaics.targets[rows])
        self._measure(Batch(names[rows], range(len(names))[rows], images, found, mosaics.regions[rows].cpu()))

    def _measure_images(self, ready: Ready) -> None:
        self._measure(self._of_images(ready))

    def _measure(self, batch: Batch) -> None:
        """Measure a batch, the controls beside the methods; all of it, or nothing where it fails."""
        # As the network sees them: what controls draw depends on the image, and metrics explain it again.
        inputs = Network(self._classifier.model).prepare(batch.inputs)
        targets, given, grid = batch.found
        count = targets.shape[1]
        controls = {name: each for name, each in make_controls(grid, self._plan.seed).items() if name in self._controls}
        maps = given | {name: control_maps(each, inputs, count).cpu() for name, each in controls.items()}
        explain = self._maps.explainers() | {name: explainer_of(each) for name, each in controls.items()}
        of_places = [each for each in self._plan.metrics if "region" in each.needs]
        others = [each for each in self._plan.metrics if "region" not in each.needs]
        items = items_of(batch.names, targets, count)
        places = [position for position in batch.positions for _ in range(count)]
        measured = []
        if others:
            found = self._measured(others, maps, inputs, targets, explain)
            measured.append((found, items, places))
        known = [] if batch.regions is None else batch.regions.flatten(0, 1).flatten(1).any(1).nonzero()[:, 0].tolist()
        if of_places and known and batch.regions is not None:
            # Map by map, for an image may have a region of some of its targets only.
            found = self._measured(
                of_places,
                {name: each.flatten(0, 1)[known] for name, each in maps.items()},
                inputs.repeat_interleave(count, 0)[known],
                targets.flatten()[known],
                explain,
                batch.regions.flatten(0, 1)[known],
            )
            measured.append((found, [items[each] for each in known], [places[each] for each in known]))
        for values, own, where in measured:
            self._collected.add(values, own, where)

    def _measured(
        self,
        metrics: Sequence[Metric],
        maps: Mapping[str, Tensor],
        images: Tensor,
        targets: Tensor,
        explain: Explainers,
        regions: Tensor | None = None,
    ) -> dict[str, dict[str, Values]]:
        return measure_methods(
            metrics,
            maps,
            images,
            self._maps.classifier,
            targets,
            regions=regions,
            explain=explain,
            batch_size=self._plan.batch_size,
            seed=self._plan.seed,
            progress=partial(self._report, len(images)),
        )

    def _try(self, names: Sequence[str], do: Callable[[slice], object]) -> None:
        """Do something with images or mosaics; where that fails, with fewer, so that none but the bad ones are lost."""
        left = [slice(0, len(names))]
        while left:
            rows = left.pop()
            count = rows.stop - rows.start
            try:
                do(rows)
            except Exception as error:  # whatever a network does to one image, the others go on
                if count > 1:
                    half = rows.start + count // 2
                    left += [slice(half, rows.stop), slice(rows.start, half)]
                    continue
                if isinstance(error, UsageError) and not self._done:
                    raise
                self._fail(names[rows.start], said(error))
                continue
            self._done += count
            self._report()

    def _fail(self, name: str, error: str) -> None:
        self._failed += 1
        if len(self._failures) < KEPT_FAILURES:
            self._failures.append(f"{name}: {error}")
        self._report()

    def _name(self, position: int) -> str:
        name: str = self._source.ids[position].as_py()
        return name

    def _names(self, ready: Ready) -> list[str]:
        return [self._name(position) for position in ready.positions]

    def _report(self, images: int = 0, done: int = 0, total: int = 1) -> None:
        """Say how far it is; of some images that are being measured, how many of how many changed ones are through."""
        if self._progress is not None:
            # Explaining again, which comes after the changed images and says nothing of itself, may take as long.
            part = 0.5 if any("explainer" in each.needs for each in self._plan.metrics) else 1.0
            ready = self._done + part * images * done / max(total, 1)
            seconds = time.perf_counter() - self._started
            self._progress(Progress(self._total, ready + self._failed, self._failed, ready, seconds))


def _of_part(do: Callable[[Ready], object], ready: Ready, rows: slice) -> None:
    do(part(ready, rows))
