"""A bounded queue in front of one thread: the model does one thing at a time, and nobody waits without an end."""

from __future__ import annotations

import sys
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable
from threading import Condition, Event, Thread
from typing import Any

from camkit.errors import CamkitError, first_line, is_out_of_memory
from camkit.typing import Progress

MOST_WAITING = 16
"""Jobs that may wait; another one is refused."""

Work = Callable[[Progress], Any]
"""Does a job; calls what it is given with how many of how many are through."""


class FullError(CamkitError):
    """The queue is full.

    Attributes:
        seconds: After which there should be room.
    """

    def __init__(self, seconds: int) -> None:
        super().__init__(f"too many others are waiting for the model: try again in {seconds} s")
        self.seconds = seconds


class Stopped(Exception):  # noqa: N818 (no error, and none of camkit's own, which the engine answers)
    """Ends a job from within its progress."""


class Job:
    """Something that the model does.

    Attributes:
        progress: How many of how many are through; None where that isn't known.
        is_running: Whether the model is at it.
        result: What came out, once it is done.
        error: One line that says why nothing did.
    """

    def __init__(self, work: Work, changed: Callable[[], None]) -> None:
        self.progress: tuple[int, int] | None = None
        self.is_running = False
        self.result: Any = None
        self.error = ""
        self._work = work
        self._changed = changed
        self._stopped = Event()
        self._done = Event()

    @property
    def is_done(self) -> bool:
        """Whether it came to an end, whichever."""
        return self._done.is_set()

    def stop(self) -> None:
        """Ask it to end as soon as it can."""
        self._stopped.set()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the end; whether it came."""
        return self._done.wait(seconds)

    def run(self) -> None:
        """Do it, in the thread of the queue."""
        self.is_running = True
        self._changed()
        try:
            if self._stopped.is_set():
                raise Stopped
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # explanations hold camkit's own
                self.result = self._work(self._told)
        except Stopped:
            self.error = "stopped"
        except CamkitError as error:
            self.error = str(error)
        except Exception as error:  # noqa: BLE001 (whatever a network does)
            self.error = _in_one_line(error)
        finally:
            self.is_running = False
            self._done.set()
            self._changed()

    def _told(self, done: int, total: int) -> None:
        if self._stopped.is_set():
            raise Stopped
        self.progress = (done, total)
        self._changed()


class Queue:
    """Does one job at a time, in the order in which they came.

    Args:
        most: How many may wait.
    """

    def __init__(self, most: int = MOST_WAITING) -> None:
        self._most = most
        self._waiting: deque[Job] = deque()
        self._condition = Condition()
        self._running: Job | None = None
        self._seconds = 1.0
        self._closed = False
        self._thread = Thread(target=self._run, name="camkit explore", daemon=True)
        self._thread.start()

    def add(self, work: Work, changed: Callable[[], None] = lambda: None) -> Job:
        """Put something at the end of the queue.

        Args:
            work: What.
            changed: Called in the queue's thread whenever there is something new to tell.

        Raises:
            FullError: There is no room.
        """
        job = Job(work, changed)
        with self._condition:
            if len(self._waiting) >= self._most:
                raise FullError(min(60, max(1, round(self._seconds * len(self._waiting)))))
            self._waiting.append(job)
            self._condition.notify()
        return job

    def ahead(self, job: Job) -> int:
        """How many jobs come before one that waits."""
        with self._condition:
            running = self._running is not None
            return self._waiting.index(job) + running if job in self._waiting else 0

    def stop(self, job: Job) -> None:
        """End a job; one that waits makes room at once."""
        job.stop()
        with self._condition:
            if job in self._waiting:
                self._waiting.remove(job)

    @property
    def is_closed(self) -> bool:
        """Whether nothing more is done."""
        return self._closed

    def end(self) -> None:
        """Do nothing more: whatever waits or runs is stopped."""
        with self._condition:
            self._closed = True
            self._waiting.clear()
            if self._running is not None:
                self._running.stop()
            self._condition.notify()

    def close(self, seconds: float = 5.0) -> None:
        """End all jobs and the thread, or leave it behind after so many seconds."""
        self.end()
        self._thread.join(seconds)

    def _run(self) -> None:
        while True:
            with self._condition:
                self._running = None
                while not self._waiting and not self._closed:
                    self._condition.wait()
                if self._closed:
                    return
                job = self._running = self._waiting.popleft()
            started = time.perf_counter()
            job.run()
            self._seconds = 0.7 * self._seconds + 0.3 * (time.perf_counter() - started)
            del job  # what it made may be large


def _in_one_line(error: Exception) -> str:
    """The message for an error that isn't one of camkit's; where it arose stands on standard error."""
    if is_out_of_memory(error):
        return f"out of memory: use a smaller input, a later layer or another --device ({first_line(str(error))})"
    traceback.print_exception(error, file=sys.stderr)
    return f"{type(error).__name__}: {first_line(str(error))}"
