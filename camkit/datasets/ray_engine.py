"""The ray engine: Ray Data reads images in tasks and explains them in actors that hold the model; shards are ours.

What stands in committed shards is done: nothing else is asked on resume, and rows that come twice are dropped here.
Rows travel as Arrow's own bytes, for Ray would turn the maps into tensors of its own.
"""

from __future__ import annotations

import logging
import queue
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from camkit.datasets.cluster import Cluster, connected, count_actors
from camkit.datasets.explaining import Image
from camkit.datasets.ray_worker import BYTES, Actor, Work, make_maker, read_batch
from camkit.datasets.schema import POSITION
from camkit.datasets.sources import Source
from camkit.datasets.stopping import Stop
from camkit.errors import CamkitError, reason

BLOCK_IMAGES = 128
"""Images that one task reads."""
RETRIES = 2
"""How often work is done again whose process died, before its images are tried one by one."""
SUSPECTS = 256
"""Images that are tried one by one at a time."""


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
