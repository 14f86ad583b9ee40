"""A progress bar for methods that take long."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from typing_extensions import Self

PATIENCE = 2.0
"""Seconds after which the bar appears."""


class Bar:
    """A progress bar for the ``progress`` argument of the library, as a context manager.

    It appears on standard error, if that is a terminal, after :data:`PATIENCE`, and leaves nothing behind.

    Args:
        title: Text in front of the bar.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._started = time.monotonic()
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._last = (0, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def __call__(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` are through. A smaller ``done`` or another ``total`` starts a new bar."""
        if not sys.stderr.isatty() or time.monotonic() - self._started < PATIENCE:
            return
        if self._progress is None:
            self._progress = _bar()
            self._progress.start()
        if self._task is None or total != self._last[1] or done < self._last[0]:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._task = self._progress.add_task(self._title, total=total)
        self._last = (done, total)
        self._progress.update(self._task, completed=done)


def _bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)
