"""How far a run is, and how it ended."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pyarrow as pa

from camkit.datasets.settings import Summary

KEPT_FAILURES = 3
"""Errors that a summary holds."""


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        total: Images asked for.
        done: Rows there are, those of earlier calls among them; a part of one where it is known.
        failed: How many of them are errors.
        new: Rows that this call made.
        seconds: Since its first image.
    """

    total: int
    done: float
    failed: int
    new: float
    seconds: float


class Counts:
    """What a call of :func:`run` has done so far."""

    def __init__(self, total: int, done: int, failed: int) -> None:
        self.total, self.done, self.failed = total, done, failed
        self._new = self._new_failed = 0
        self._failures: list[str] = []
        self._started = self._last = time.perf_counter()

    def start(self) -> None:
        """Begin to count the time."""
        self._started = self._last = time.perf_counter()

    def add(self, batch: pa.RecordBatch) -> None:
        """Count rows."""
        errors = [each for each in batch["error"].to_pylist() if each is not None]
        self.done += len(batch)
        self._new += len(batch)
        self.failed += len(errors)
        self._new_failed += len(errors)
        self._failures += errors[: KEPT_FAILURES - len(self._failures)]
        self._last = time.perf_counter()

    def progress(self) -> Progress:
        """How far it is."""
        return Progress(self.total, self.done, self.failed, self._new, self._last - self._started)

    def summary(self, path: str) -> Summary:
        """How it ended."""
        return Summary(
            path=path,
            total=self.total,
            done=self.done,
            failed=self.failed,
            new=self._new,
            new_failed=self._new_failed,
            seconds=self._last - self._started,
            failures=tuple(self._failures),
        )
