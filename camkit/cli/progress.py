"""Progress bars: for methods that take long, and for data sets."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, TaskID
    from typing_extensions import Self

PATIENCE = 2.0
"""Seconds after which the bar appears."""


class _OnTerminal:
    """A bar that is there while a context lasts, from when it is first drawn."""

    _bar: Progress | None = None
    _task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _begun(self, *behind: ProgressColumn) -> Progress:
        """The bar, with columns behind how many of how many."""
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), *behind)
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
        return self._bar


class Bar(_OnTerminal):
    """A progress bar for the ``progress`` argument of the library, as a context manager.

    It appears on standard error, if that is a terminal, after :data:`PATIENCE`, and leaves nothing behind.

    Args:
        title: Text in front of the bar.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._started = time.monotonic()
        self._last = (0, 0)

    def __call__(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` are through. A smaller ``done`` or another ``total`` starts a new bar."""
        if not sys.stderr.isatty() or time.monotonic() - self._started < PATIENCE:
            return
        from rich.progress import TimeRemainingColumn

        bar = self._begun(TimeRemainingColumn())
        if self._task is None or total != self._last[1] or done < self._last[0]:
            if self._task is not None:
                bar.remove_task(self._task)
            self._task = bar.add_task(self._title, total=total)
        self._last = (done, total)
        bar.update(self._task, completed=done)


class RunProgress(_OnTerminal):
    """How far a data set is, as a context manager: a bar on a terminal, else a line every half a minute.

    Both say images per second, failures and the time left, on standard error.
    """

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._said = time.monotonic()

    def __call__(self, now: Rows) -> None:
        """Show how far it is."""
        if self._is_terminal:
            self._draw(now)
        elif time.monotonic() - self._said >= SILENCE:
            self._said = time.monotonic()
            left = f", {duration(seconds_left(now))} left" if now.new else ""
            print(f"camkit: {int(now.done)} of {now.total} images{_pace(now)}{left}", file=sys.stderr, flush=True)

    def say(self, line: str) -> None:
        """Print a line, above the bar where there is one."""
        if self._bar is not None:
            self._bar.console.print(f"camkit: {line}", markup=False, highlight=False)
        else:
            print(f"camkit: {line}", file=sys.stderr, flush=True)

    def _draw(self, now: Rows) -> None:
        from rich.progress import TextColumn

        bar = self._begun(TextColumn("{task.fields[about]}", markup=False))
        if self._task is None:
            self._task = bar.add_task("images", total=now.total, about="")
        left = f", {duration(seconds_left(now))} left" if now.new else ""
        bar.update(self._task, completed=now.done, about=f"{_pace(now).removeprefix(', ')}{left}")


SILENCE = 30.0
"""Seconds between two lines where there is no terminal."""


class Rows(Protocol):
    """What :class:`RunProgress` is told, see :class:`camkit.datasets.counting.Progress`."""

    @property
    def total(self) -> int:
        """Images asked for."""

    @property
    def done(self) -> float:
        """Rows there are."""

    @property
    def failed(self) -> int:
        """How many of them are errors."""

    @property
    def new(self) -> float:
        """Rows that were made now."""

    @property
    def seconds(self) -> float:
        """In how many seconds."""


def seconds_left(now: Rows) -> float:
    """How long the rest takes at this pace."""
    return (now.total - now.done) * now.seconds / max(now.new, 1e-6)


def duration(seconds: float) -> str:
    """A time as people say it: ``42 s``, ``3 min``, ``1 h 20 min``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _pace(now: Rows) -> str:
    speed = f", {now.new / now.seconds:.1f} images/s" if now.new and now.seconds else ""
    return f"{speed}, {now.failed} failed" if now.failed else speed
