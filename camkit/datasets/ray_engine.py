"""The ray engine: Ray Data reads images in tasks and explains them in actors that hold the model; shards are ours.

What stands in committed shards is done: nothing else is asked on resume, and rows that come twice are dropped here.
Rows travel as Arrow's own bytes, for Ray would turn the maps into tensors of its own.
"""

from __future__ import annotations

import logging
import pickle
import queue
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch

from camkit.datasets.boxes import Boxes
from camkit.datasets.cluster import Cluster, connected, count_actors
from camkit.datasets.explaining import Explainer, Image, RowMaker
from camkit.datasets.local import Failure, Images, Waiting, gather
from camkit.datasets.manifest import Manifest
from camkit.datasets.preparing import preparing
from camkit.datasets.schema import POSITION, make_schema
from camkit.datasets.settings import Settings
from camkit.datasets.sources import Source
from camkit.datasets.stopping import Stop
from camkit.errors import CamkitError, reason

if TYPE_CHECKING:
    from camkit.models.classifier import Classifier
    from camkit.models.loader import Loader

BLOCK_IMAGES = 128
"""Images that one task reads."""
RETRIES = 2
"""How often work is done again whose process died, before its images are tried one by one."""
SUSPECTS = 256
"""Images that are tried one by one at a time."""
BYTES = "bytes"
"""The only column of what tasks and actors return."""


def explain_on_ray(
    cluster: Cluster,
    work: Work,
    source: Source,
    labels: Sequence[int | None],
    positions: Sequence[int],
    *,
    batch_size: int,
    stop: Stop,
    say: Callable[[str], None],
) -> Iterator[pa.RecordBatch]:
    """Rows of the images at some positions, in whatever order they are ready.

    Args:
        cluster: Where.
        work: What.
        source: The data set.
        labels: Of all its images.
        positions: Which images.
        batch_size: How many go through the network together.
        stop: Whether to stop.
        say: Called with lines about what happens.

    Raises:
        CamkitError: Ray can't be reached, lacks CPUs or GPUs, gives no results, or fails.
    """
    with connected(cluster) as ray:
        stop.listen()  # Ray has put its own handler in place
        actors = count_actors(cluster, ray.cluster_resources(), ray.available_resources(), say)
        handed = ray.put(ray.cloudpickle.dumps(work))
        missing = set(positions)
        heard = Heard()

        def explained(chosen: Sequence[int], together: int, block: int) -> Iterator[pa.RecordBatch]:
            blocks = [_table(source, labels, chosen[at : at + block]) for at in range(0, len(chosen), block)]
            found = _results(blocks, handed, cluster, actors, together, heard)
            for batch in _patient(found, cluster.timeout, stop):
                fresh = [position in missing for position in batch[POSITION].to_pylist()]
                missing.difference_update(batch[POSITION].to_pylist())
                yield batch if all(fresh) else batch.filter(pa.array(fresh))

        yield from explained(positions, batch_size, BLOCK_IMAGES)
        left = [position for position in positions if position in missing]
        if not left or stop.is_asked():
            return
        if heard.fault:  # images that fail are rows; this would fail again
            raise CamkitError(f"Ray can't do the work: {heard.fault}; the same command goes on")
        say(f"{len(left)} images were held by processes that died; they are tried one by one")
        maker = make_maker(work, work.classifier)
        for at in range(0, len(left), SUSPECTS):
            suspects = left[at : at + SUSPECTS]
            yield from explained(suspects, 1, 1)
            if stop.is_asked():
                return
            lost = [position for position in suspects if position in missing]
            if len(lost) == len(suspects) > 1:
                raise CamkitError(
                    f"every process dies on Ray ({heard.crash}): is there enough memory for {actors} actors?"
                )
            if lost:
                images = [_image(source, labels, position) for position in lost]
                yield maker.failures(images, ["the process that held it died, several times"] * len(lost))


@dataclass(frozen=True)
class Work:
    """What every process of a run is handed."""

    classifier: Classifier
    loader: Loader
    settings: Settings
    manifest: Manifest


class Heard(logging.Handler):
    """Keeps the last errors that Ray Data logs, of blocks that it leaves out.

    Attributes:
        fault: Of code that raised; empty where none did.
        crash: Of a process that died.
    """

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.fault = self.crash = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        from ray.exceptions import RayTaskError

        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, RayTaskError):
            # Its text is a traceback of several errors, with advice below it.
            raised = re.findall(r"^\s*([A-Z]\w*(?:Error|Exception): .+)$", str(error), re.MULTILINE)
            self.fault = raised[-1] if raised else reason(error)
        elif error is not None:
            self.crash = reason(error)


def _results(
    blocks: Sequence[pa.Table], handed: Any, cluster: Cluster, actors: int, batch_size: int, heard: Heard
) -> Iterator[pa.RecordBatch]:
    """Rows of the pipeline: read and prepare in tasks, explain in actors. Blocks whose processes die are left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the next releases of Ray, and of fewer blocks than actors
        explained = _pipeline(blocks, handed, cluster, actors, batch_size)
    log = logging.getLogger("ray.data")
    log.handlers, log.propagate = [heard], False  # what it says is said here, in a line
    log.setLevel(logging.ERROR)

    def rows() -> Iterator[pa.RecordBatch]:
        for batch in explained.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
            for content in batch[BYTES]:
                with pa.ipc.open_stream(content.as_buffer()) as stream:
                    yield from stream

    return rows()


def _pipeline(blocks: Sequence[pa.Table], handed: Any, cluster: Cluster, actors: int, batch_size: int) -> Any:
    import ray.data
    from ray.data import ActorPoolStrategy, DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1
    prepared = ray.data.from_arrow(list(blocks)).map_batches(
        read_batch,
        batch_size=batch_size,
        batch_format="pyarrow",
        fn_kwargs={"handed": handed},
        num_cpus=1,
        max_retries=RETRIES,
    )
    return prepared.map_batches(
        Actor,
        batch_size=max(1, BLOCK_IMAGES // batch_size),
        batch_format="pyarrow",
        fn_constructor_args=(handed, batch_size),
        compute=ActorPoolStrategy(size=actors),
        num_cpus=0 if cluster.num_gpus else 1,
        num_gpus=cluster.num_gpus or None,
        max_restarts=-1,
        max_task_retries=RETRIES,
    )


def _patient(found: Iterator[pa.RecordBatch], timeout: float, stop: Stop) -> Iterator[pa.RecordBatch]:
    """Pass results on, until the run is asked to stop, or none comes for too long: Ray itself may wait for ever."""
    waiting: queue.Queue[Any] = queue.Queue(maxsize=64)

    def pull() -> None:
        try:
            for each in found:
                waiting.put(each)
            waiting.put(None)
        except BaseException as error:  # noqa: BLE001 (it is raised where the results are asked for)
            waiting.put(error)

    threading.Thread(target=pull, daemon=True).start()
    last = time.monotonic()
    while not stop.is_asked():
        try:
            each = waiting.get(timeout=0.2)
        except queue.Empty:
            if time.monotonic() - last > timeout:
                raise CamkitError(
                    f"nothing came from Ray for {timeout:g} s (--ray-timeout): are its CPUs, GPUs or memory taken? The "
                    "same command goes on"
                ) from None
            continue
        last = time.monotonic()
        if each is None:
            return
        if isinstance(each, BaseException):
            raise CamkitError(f"Ray failed ({reason(each)}); the same command goes on") from each
        yield each


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


def _table(source: Source, labels: Sequence[int | None], positions: Sequence[int]) -> pa.Table:
    """What a task is told of its images."""
    taken = pa.array(positions, pa.int64())
    return pa.table(
        {
            POSITION: taken,
            "id": source.ids.take(taken),
            "path": source.paths.take(taken),
            "label": pa.array([labels[each] for each in positions], pa.int32()),
            "problem": pa.array([source.problems.get(each) for each in positions], pa.string()),
        }
    )


def _image(source: Source, labels: Sequence[int | None], position: int) -> Image:
    return Image(position, source.ids[position].as_py(), source.paths[position].as_py(), labels[position])


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
