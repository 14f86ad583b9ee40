"""Run a network many times on perturbed images or activations.

The one place that knows chunks, lack of memory, and networks that take whole batches only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TypeVar

import torch
from torch import Tensor

from camkit.engine.network import Network
from camkit.errors import CamkitError, ForwardError, UsageError, is_out_of_memory
from camkit.typing import Progress

CACHE_BYTES = 20 * 2**20
"""On a CPU the largest tensors of a chunk take no more memory than this: larger chunks aren't faster."""
MEMORY_SHARE = 16
"""The largest tensors of a chunk take no more than this part of the memory that is free."""
MOST_ROWS = 256

Change = Callable[[int | None, Tensor], Tensor]
"""(image index, or None for the whole batch; perturbation ids (n,)) to results (n, ...), one per perturbed row."""
Result = TypeVar("Result")


def rows_at_a_time(row_bytes: int, device: torch.device) -> int:
    """How many rows run at a time, the largest tensor of one of which takes ``row_bytes``."""
    if device.type == "cuda":
        room = torch.cuda.mem_get_info(device)[0] // MEMORY_SHARE
    else:
        room = CACHE_BYTES
        with suppress(AttributeError, ValueError):  # not every system says how much memory is free
            room = min(room, os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // MEMORY_SHARE)
    return max(1, min(MOST_ROWS, room // max(row_bytes, 1)))


def rerun(network: Network, change: Change, items: Tensor, row_bytes: int) -> Tensor:
    """Run perturbations of each image, in chunks of one image's.

    A network that takes whole batches only gets each image once at a time, each with its own perturbation.

    Args:
        network: borrowed; its ``batch_size`` and ``progress`` are followed.
        change: runs some perturbations.
        items: (B, N), the ids of each image's perturbations.
        row_bytes: of the largest tensor of one perturbed row.

    Returns:
        (B, N, ...), what ``change`` returns.

    Raises:
        ForwardError: the network fails on the perturbed images.
        CamkitError: half of a chunk doesn't fit into memory either.
    """
    batch, count = items.shape
    total = batch * count
    # Not in inference mode: what a network keeps of a forward, such as a mask by batch size, its owner may train with.
    with torch.no_grad():
        if not network.takes_whole_batches:
            chunks = Chunks(network.batch_size or rows_at_a_time(row_bytes, items.device), total, network.progress)

            def of_image(image: int) -> Tensor:
                return torch.cat([*chunks.run(count, lambda part: change(image, items[image, part]))])

            try:
                return torch.stack([of_image(image) for image in range(batch)])
            except ForwardError:
                network.found_whole()
        together = Chunks(batch, total, network.progress, each=batch)
        return torch.cat([*together.run(count, lambda part: change(None, items[:, part.start])[:, None])], 1)


def rerun_batch(
    network: Network, change: Callable[[slice], Result], count: int, batch: int, rows: int, *, quiet: bool = False
) -> Iterator[Result]:
    """Run perturbations of the whole batch, as many at a time as make ``rows`` images.

    Args:
        network: a network that takes whole batches only gets one perturbation at a time.
        change: runs a range of perturbations, each of all images.
        count: the number of perturbations.
        batch: the number of images.
        rows: how many perturbed images run at a time, at least one perturbation of all.
        quiet: tell nobody of the progress.

    Yields:
        What ``change`` returns, in order.

    Raises:
        ForwardError, CamkitError: as in :func:`rerun`.
    """
    size = batch if network.takes_whole_batches else rows
    chunks = Chunks(size, count * batch, None if quiet else network.progress, each=batch)
    return chunks.run(count, change, on_failure=network.found_whole)


def alone_or_whole(network: Network, attempt: Callable[[int | None], Result]) -> Result:
    """``attempt(0)``, for the first image alone, or ``attempt(None)`` where the network takes whole batches only.

    A network may fail on one image, or return something else than for several (``.squeeze()``).
    """
    if network.takes_whole_batches:
        return attempt(None)
    try:
        return attempt(0)
    except (ForwardError, UsageError) as error:
        alone = error
    try:
        made = attempt(None)
    except CamkitError:  # it fails on any number of images
        raise alone from alone.__cause__
    network.found_whole()
    return made


class Chunks:
    """Runs something for successive slices; a slice that doesn't fit into memory is halved once.

    Args:
        rows: how many rows are tried at a time.
        total: how many rows there will be, for the progress.
        progress: called with how many of how many are through.
        each: how many rows go together; slices count these.
        advice: what needs less memory.
    """

    def __init__(
        self,
        rows: int,
        total: int,
        progress: Progress | None = None,
        *,
        each: int = 1,
        advice: str = "a smaller input or a later target layer",
    ) -> None:
        self.size = max(1, rows // each)
        self._asked = self.size
        self._each = each
        self._progress = progress
        self._total = total
        self._done = 0
        self._advice = advice

    def run(
        self, count: int, step: Callable[[slice], Result], on_failure: Callable[[], None] | None = None
    ) -> Iterator[Result]:
        """Yield ``step`` of slices of ``count``, one after the other.

        Args:
            count: of what the slices are.
            step: runs a slice.
            on_failure: where given, a slice that the network fails on is run one by one, after a call of this.

        Raises:
            CamkitError: half of the chunk doesn't fit into memory either.
        """
        start = 0
        while start < count:
            chunk = slice(start, min(start + self.size, count))
            length = chunk.stop - chunk.start
            try:
                made = step(chunk)
            except ForwardError:
                if on_failure is None or length == 1:
                    raise
                on_failure()
                self.size = self._asked = 1
                continue
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self._halve(length, error)
                continue
            start = chunk.stop
            yield made
            self._done += length * self._each
            if self._progress:
                self._progress(self._done, self._total)

    def _halve(self, length: int, error: Exception) -> None:
        rows = length * self._each
        if length == 1:
            what = "a single one" if rows == 1 else rows
            raise CamkitError(f"out of memory with {what} at a time: use {self._advice}") from error
        if self.size < self._asked:
            raise CamkitError(
                f"out of memory with {rows} at a time, half of what was tried first: pass a smaller batch_size "
                f"(--batch-size), {self._advice}"
            ) from error
        self.size = length // 2
