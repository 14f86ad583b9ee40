"""Ctrl-C and SIGTERM: the first ends a run when what is ready is written, the second at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM") if hasattr(signal, name))


class Stop:
    """Whether the run was asked to stop.

    Args:
        say: Called with a line when it is.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._asked = False
        self._say = say
        self._before: dict[int, Any] = {}

    def is_asked(self) -> bool:
        """Whether it was."""
        return self._asked

    def listen(self) -> None:
        """Listen to the signals, also where another package has put its handlers in place; in the main thread alone."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                before = signal.signal(number, self._handle)
                self._before.setdefault(number, before)

    def leave(self) -> None:
        """Put the handlers back that were there first."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        self._say("stopping when what is ready is written; once more stops at once")


@contextmanager
def listening(say: Callable[[str], None]) -> Iterator[Stop]:
    """Listen to the signals while the context lasts.

    Raises:
        KeyboardInterrupt: In the middle of it, at the second signal.
    """
    stop = Stop(say)
    stop.listen()
    try:
        yield stop
    finally:
        stop.leave()
