"""Many changed images, or activations, in chunks that fit into memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import torch

from camkit.errors import CamkitError, is_out_of_memory
from camkit.forward import Setup

CACHE_BYTES = 20 * 2**20
"""On a CPU the largest tensors of a chunk take no more memory than this: larger chunks aren't faster."""
SHARE = 16
"""The largest tensors of a chunk take no more than this part of the memory that is free."""
MOST = 256


def chunk_size(largest: int, device: torch.device) -> int:
    """How many rows go through a network at a time, whose largest tensor takes ``largest`` bytes for one of them."""
    if device.type == "cuda":
        room = torch.cuda.mem_get_info(device)[0] // SHARE
    else:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        room = min(CACHE_BYTES, free // SHARE)
    return max(1, min(MOST, room // max(largest, 1)))


class Chunks:
    """Runs something for ranges of rows; a chunk that doesn't fit into memory is halved once.

    Args:
        setup: its ``batch_size`` and ``progress`` are what is followed.
        size: how many rows are tried at a time where ``batch_size`` isn't given.
        total: how many rows there will be, for the progress.
        each: how many rows go together; ``step`` gets slices of as many.
    """

    def __init__(self, setup: Setup, size: int, total: int, *, each: int = 1) -> None:
        self.size = max(1, (setup.batch_size or size) // each)
        self._asked = self.size
        self._each = each
        self._progress = setup.progress
        self._total = total
        self._done = 0

    def run(self, count: int, step: Callable[[slice], None]) -> None:
        """Call ``step`` for slices of ``count`` times as many rows as go together, one after the other.

        Raises:
            CamkitError: half of the chunk doesn't fit into memory either.
        """
        for rows in self._slices(count, step):
            self._done += rows * self._each
            if self._progress:
                self._progress(self._done, self._total)

    def _slices(self, count: int, step: Callable[[slice], None]) -> Iterator[int]:
        start = 0
        while start < count:
            chunk = slice(start, min(start + self.size, count))
            try:
                step(chunk)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                rows = chunk.stop - chunk.start
                if self.size < self._asked or rows == 1:
                    raise CamkitError(
                        f"out of memory with {rows * self._each} at a time, half of what was tried first: pass a "
                        "smaller batch_size (--batch-size), a smaller input or a later target layer"
                        if rows > 1
                        else f"out of memory with {'a single one' if self._each == 1 else self._each} at a time: use "
                        "a smaller input or a later target layer"
                    ) from error
                self.size = rows // 2
                continue
            start = chunk.stop
            yield chunk.stop - chunk.start
