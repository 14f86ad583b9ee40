"""What the processes of a cluster do: tasks read and prepare images, actors explain them.

Rows travel as Arrow's own bytes, for Ray would turn the maps into tensors of its own.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch

from camkit.datasets.boxes import Boxes
from camkit.datasets.explaining import Explainer, Image, RowMaker
from camkit.datasets.local import Failure, Images, Waiting, gather
from camkit.datasets.manifest import Manifest
from camkit.datasets.preparing import preparing
from camkit.datasets.schema import POSITION, make_schema
from camkit.datasets.settings import Settings
from camkit.datasets.sources import Source

if TYPE_CHECKING:
    from camkit.models.classifier import Classifier
    from camkit.models.loader import Loader

BYTES = "bytes"
"""The only column of what tasks and actors return."""


@dataclass(frozen=True)
class Work:
    """What every process of a run is handed."""

    classifier: Classifier
    loader: Loader
    settings: Settings
    manifest: Manifest


def read_batch(batch: pa.Table, handed: Any) -> pa.Table:
    """In a task: read and prepare images; a row of bytes with all of them."""
    work = _unpacked(handed)
    rows = batch.to_pylist()
    images = [Image(row[POSITION], row["id"], row["path"], row["label"]) for row in rows]
    source = Source("", batch["id"].combine_chunks(), batch["path"].combine_chunks(), [])
    source.problems.update({number: row["problem"] for number, row in enumerate(rows) if row["problem"]})
    found = Images(source, work.loader)
    ready, failures = gather([found[number] for number in range(len(rows))])
    return pa.table({BYTES: pa.array([pickle.dumps((images, ready, failures))], pa.large_binary())})


class Actor:
    """Holds the model, and explains what tasks have prepared."""

    def __init__(self, handed: Any, batch_size: int) -> None:
        work = _unpacked(handed)
        device = torch.device("cuda" if torch.cuda.is_available() and _gpus() else "cpu")
        classifier = replace(work.classifier, device=device)
        classifier.model.to(device)
        self._loader = _on_device(work.loader, device)
        self._batch_size = batch_size
        self._maker = make_maker(work, classifier)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """From rows of prepared images to rows of bytes, each a stream of Arrow."""
        waiting = Waiting(self._batch_size)
        made: list[pa.RecordBatch] = []
        known: dict[int, Image] = {}

        def explain(ready: Any) -> None:
            pairs = zip(ready.positions, ready.sizes, ready.seconds, strict=True)
            images = [known[at]._replace(size=size, seconds=seconds) for at, size, seconds in pairs]
            made.extend(self._maker.rows(images, self._loader.inputs(ready.pixels)))

        for content in batch[BYTES].to_pylist():
            images, groups, failures = pickle.loads(content)  # noqa: S301 (of our own task)
            start = len(known)  # positions of a task's images are numbers in its batch
            known |= {start + number: image for number, image in enumerate(images)}
            if failures:
                made.append(self._failures([each._replace(position=start + each.position) for each in failures], known))
            for group in groups:
                for ready in waiting.add(group._replace(positions=[start + at for at in group.positions])):
                    explain(ready)
        for ready in waiting.rest():
            explain(ready)
        return pa.table({BYTES: pa.array([_stream(made)], pa.large_binary())})

    def _failures(self, failures: Sequence[Failure], known: dict[int, Image]) -> pa.RecordBatch:
        images = [known[each.position]._replace(seconds=each.seconds) for each in failures]
        return self._maker.failures(images, [each.error for each in failures])


def make_maker(work: Work, classifier: Classifier) -> RowMaker:
    """What makes the run's rows, with a model where it is."""
    columns = work.manifest.columns
    explainer = Explainer(classifier, work.settings, work.manifest.layers)
    boxes = Boxes(work.manifest.rule, preparing(classifier))
    return RowMaker(explainer, columns, make_schema(columns), boxes)


def _stream(batches: Sequence[pa.RecordBatch]) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    content: bytes = sink.getvalue().to_pybytes()
    return content


_KNOWN: dict[Any, Work] = {}


def _unpacked(handed: Any) -> Work:
    """What a run hands to its processes; unpacked once in each."""
    import ray

    if handed not in _KNOWN:
        _KNOWN.clear()
        _KNOWN[handed] = pickle.loads(ray.get(handed))  # noqa: S301 (of our own driver)
    return _KNOWN[handed]


def _gpus() -> bool:
    import ray

    return bool(ray.get_gpu_ids())


def _on_device(loader: Any, device: torch.device) -> Loader:
    """The loader with its second half on a device; MMPretrain's follows its model."""
    moved: Loader = replace(loader, device=device) if hasattr(loader, "device") else loader
    return moved
