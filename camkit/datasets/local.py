"""The local engine: worker processes read and prepare images, this process explains them in batches of one size."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from camkit.datasets.explaining import Image, RowMaker, said
from camkit.datasets.places import as_file
from camkit.datasets.sources import Source
from camkit.errors import CamkitError
from camkit.models.loader import Loaded, Loader

PREFETCHED = 2
"""Batches that each worker prepares ahead."""
DYING_SECONDS = 2.0
"""What a process may take to be dead after it was last heard of."""
WAITING_BYTES = 256 << 20
WAITING_IMAGES = 1000
"""Images of sizes that don't fill a batch yet: no more than this is kept waiting."""


class Failure(NamedTuple):
    """An image that couldn't be read or prepared."""

    position: int
    error: str
    seconds: float


class Ready(NamedTuple):
    """Images of one size, prepared: their positions, whole sizes and seconds, and (B, C, H, W) of pixels."""

    positions: list[int]
    sizes: list[tuple[int, int]]
    seconds: list[float]
    pixels: Tensor


Gathered = tuple[list[Ready], list[Failure]]
"""What became of a number of images."""


class Images(Dataset[Any]):
    """Reads and prepares a data set's images, by position. Errors are returned, not raised."""

    def __init__(self, source: Source, loader: Loader) -> None:
        self._source = source
        self._loader = loader

    def __getitem__(self, position: int) -> tuple[int, Loaded, float] | Failure:
        started = time.perf_counter()
        try:
            if problem := self._source.problems.get(position):
                raise CamkitError(problem)
            loaded = load_image(self._loader, self._source.path(position))
        except Exception as error:  # noqa: BLE001 (whatever a decoder raises, the others go on)
            return Failure(position, said(error), time.perf_counter() - started)
        return position, loaded, time.perf_counter() - started


def load_image(loader: Loader, path: str) -> Loaded:
    """Read and prepare an image of this machine, or at an address.

    Raises:
        CamkitError: See :meth:`camkit.models.loader.Loader.load`.
    """
    with as_file(path) as file:
        return loader.load(file)


def gather(found: Sequence[tuple[int, Loaded, float] | Failure]) -> Gathered:
    """Put images of one size together; runs in the worker, so that few large tensors are handed over."""
    groups: dict[Any, list[tuple[int, Loaded, float]]] = {}
    failures = []
    for each in found:
        if isinstance(each, Failure):
            failures.append(each)
        else:
            groups.setdefault((each[1].pixels.shape, each[1].pixels.dtype), []).append(each)
    ready = []
    for group in groups.values():
        positions, loaded, seconds = (list(column) for column in zip(*group, strict=True))
        ready.append(Ready(positions, [each.size for each in loaded], seconds, torch.stack([e.pixels for e in loaded])))
    return ready, failures


def explain_locally(
    maker: RowMaker,
    loader: Loader,
    source: Source,
    labels: Sequence[int | None],
    positions: Sequence[int],
    *,
    batch_size: int,
    workers: int,
    say: Callable[[str], None],
) -> Iterator[pa.RecordBatch]:
    """Rows of the images at some positions, in whatever order they are ready.

    Args:
        maker: Of rows.
        loader: Of images.
        source: The data set.
        labels: Of all its images.
        positions: Which images.
        batch_size: How many go through the network together.
        workers: How many processes read images; 0 for this one.
        say: Called with a line about what happens: workers that die.
    """

    def about(position: int, size: tuple[int, int] = (0, 0), seconds: float = 0.0) -> Image:
        own, path = source.ids[position].as_py(), source.paths[position].as_py()
        return Image(position, own, path, labels[position], size, seconds)

    def explained(ready: Ready) -> Iterator[pa.RecordBatch]:
        images = [about(*each) for each in zip(ready.positions, ready.sizes, ready.seconds, strict=True)]
        yield from maker.rows(images, loader.inputs(ready.pixels))

    waiting = Waiting(batch_size)
    for groups, failures in gathered(Images(source, loader), positions, batch_size, workers, say):
        if failures:
            images = [about(failure.position, seconds=failure.seconds) for failure in failures]
            yield maker.failures(images, [failure.error for failure in failures])
        for group in groups:
            for ready in waiting.add(group):
                yield from explained(ready)
    for ready in waiting.rest():
        yield from explained(ready)


class Waiting:
    """Images that wait for others of their size, until there is a batch of them."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._groups: dict[Any, Ready] = {}
        self._images = self._bytes = 0

    def add(self, ready: Ready) -> Iterator[Ready]:
        """Add images; yield those that go on now."""
        key = ready.pixels.shape[1:], ready.pixels.dtype
        if key in self._groups:
            ready = _together(self._taken(key), ready)
        while len(ready.positions) >= self._batch_size:
            yield part(ready, slice(None, self._batch_size))
            ready = part(ready, slice(self._batch_size, None))
        if ready.positions:
            self._groups[key] = ready
            self._images += len(ready.positions)
            self._bytes += ready.pixels.nbytes
        while self._images > WAITING_IMAGES or self._bytes > WAITING_BYTES:
            # The largest groups waste the least of a batch.
            yield self._taken(max(self._groups, key=lambda each: len(self._groups[each].positions)))

    def rest(self) -> Iterator[Ready]:
        """Yield all that is left."""
        while self._groups:
            yield self._taken(next(iter(self._groups)))

    def _taken(self, key: Any) -> Ready:
        ready = self._groups.pop(key)
        self._images -= len(ready.positions)
        self._bytes -= ready.pixels.nbytes
        return ready


def _together(first: Ready, second: Ready) -> Ready:
    return Ready(
        first.positions + second.positions,
        first.sizes + second.sizes,
        first.seconds + second.seconds,
        torch.cat([first.pixels, second.pixels]),
    )


def part(ready: Ready, rows: slice) -> Ready:
    """Some of the images."""
    return Ready(ready.positions[rows], ready.sizes[rows], ready.seconds[rows], ready.pixels[rows])


def gathered(
    images: Images, positions: Sequence[int], batch_size: int, workers: int, say: Callable[[str], None]
) -> Iterator[Gathered]:
    """Read images, in their order, in batches; one that kills its worker process is a failure like others."""
    if workers == 0:
        for at in range(0, len(positions), batch_size):
            yield gather([images[position] for position in positions[at : at + batch_size]])
        return
    at = 0
    while at < len(positions):
        batches = [positions[start : start + batch_size] for start in range(at, len(positions), batch_size)]
        with reading(images, batches, workers) as (found, dead):
            for each in found:
                yield each
                at = min(at + batch_size, len(positions))
        if at < len(positions):
            # One of those that were being read may be to blame: they are read one by one.
            say(f"a worker process {dead() or 'died'}; the images that it may have held are read again one by one")
            suspects = positions[at : at + workers * PREFETCHED * batch_size]
            for position in suspects:
                yield _alone(images, position)
            at += len(suspects)


def _alone(images: Images, position: int) -> Gathered:
    """Read one image in a process of its own."""
    started = time.perf_counter()
    with reading(images, [[position]], 1) as (found, dead):
        for each in found:
            return each
        why = f"the process that read it {dead() or 'died'}"
    return [], [Failure(position, why, time.perf_counter() - started)]


@contextmanager
def reading(
    images: Images, batches: Sequence[Sequence[int]], workers: int
) -> Iterator[tuple[Iterator[Gathered], Callable[[], str]]]:
    """Batches as worker processes prepare them, until one of these dies; and a function that says how it died."""
    before = set(multiprocessing.active_children())
    handler = signal.getsignal(signal.SIGCHLD) if _may_handle_signals() else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of more workers than cores
        loader: DataLoader[Any] = DataLoader(
            images,
            batch_sampler=batches,  # type: ignore[arg-type]
            num_workers=workers,
            collate_fn=gather,
            worker_init_fn=_begin_worker,
            prefetch_factor=PREFETCHED,
            generator=torch.Generator(),  # the seed of workers is drawn from torch's own, else
        )
        iterator = iter(loader)
    if handler is not None:
        # torch's handler would raise wherever this process is: in the middle of a forward, or of a file.
        signal.signal(signal.SIGCHLD, handler)
    started = [each for each in multiprocessing.active_children() if each not in before]

    def until_one_dies() -> Iterator[Gathered]:
        while True:
            try:
                each = next(iterator)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError):  # the latter where it died while it handed something over
                until = time.monotonic() + DYING_SECONDS
                while not dead() and time.monotonic() < until:
                    time.sleep(0.01)
                if dead():
                    return
                raise
            yield each

    def dead() -> str:
        codes = [each.exitcode for each in started if each.exitcode not in (None, 0)]
        killed = [signal.Signals(-code).name for code in codes if code is not None and code < 0]
        return f"was killed ({killed[0]})" if killed else f"ended with {codes[0]}" if codes else ""

    try:
        yield until_one_dies(), dead
    finally:
        del iterator, loader


def _may_handle_signals() -> bool:
    return hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread()


def _begin_worker(_: int) -> None:
    """In a new worker process: Ctrl-C is the parent's business, and OpenCV starts no threads."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cv2: Any = sys.modules.get("cv2")
    if cv2 is not None:
        cv2.setNumThreads(0)


def usual_workers(device: torch.device) -> int:
    """How many worker processes are of use: one where the processor computes, too, for decoding is a small part."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(1 if device.type == "cpu" else 8, cores - 1)
