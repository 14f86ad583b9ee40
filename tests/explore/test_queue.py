"""One job at a time, a bound, and jobs that end when they are told to."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event

import pytest

from camkit.errors import UsageError
from camkit.explore.lru import Lately
from camkit.explore.queue import FullError, Queue
from camkit.typing import Progress
from tests.explore.serving import until


@pytest.fixture
def queue() -> Iterator[Queue]:
    """With room for two that wait."""
    made = Queue(2)
    yield made
    made.close()


def endless(progress: Progress) -> None:
    """A job that ends when it is stopped."""
    while True:
        progress(1, 2)


def test_jobs_are_done_in_order_one_at_a_time(queue: Queue) -> None:
    found: list[int] = []
    go = Event()

    def wait(progress: Progress) -> None:
        go.wait()
        found.append(1)

    first = queue.add(wait)
    until(lambda: first.is_running)
    others = [queue.add(lambda progress, number=number: found.append(number)) for number in (2, 3)]
    assert [queue.ahead(job) for job in (first, *others)] == [0, 1, 2]
    go.set()
    assert all(job.wait(30) for job in (first, *others))
    assert found == [1, 2, 3]


def test_a_full_queue_says_when_to_come_back(queue: Queue) -> None:
    running = queue.add(endless)
    until(lambda: running.is_running)
    waiting = [queue.add(endless) for _ in range(2)]
    with pytest.raises(FullError) as caught:
        queue.add(endless)
    assert caught.value.seconds >= 1
    queue.stop(waiting[0])
    queue.add(endless)


def test_a_job_that_is_stopped_makes_room(queue: Queue) -> None:
    running = queue.add(endless)
    until(lambda: running.progress == (1, 2))
    queue.stop(running)
    assert running.wait(30)
    assert running.error == "stopped"
    assert queue.add(lambda progress: 5).wait(30)


def test_errors_are_one_line_and_the_next_job_runs(queue: Queue, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(progress: Progress) -> None:
        raise UsageError("no such thing")

    def fail(progress: Progress) -> None:
        raise ValueError("of several\nlines")

    jobs = [queue.add(refuse), queue.add(fail)]
    assert all(job.wait(30) for job in jobs)
    assert [job.error for job in jobs] == ["no such thing", "ValueError: of several"]
    assert "in fail" in capsys.readouterr().err, "where it arose stands on standard error"
    assert queue.add(lambda progress: 5).wait(30)


def test_closing_ends_what_runs() -> None:
    queue = Queue()
    running = queue.add(endless)
    until(lambda: running.is_running)
    queue.close()
    assert running.wait(30)


def test_what_was_found_lately_stays_within_its_bound() -> None:
    kept: Lately[str] = Lately(10)
    kept.keep("a", "A", 4)
    kept.keep("b", "B", 4)
    assert kept.find("a") == "A"
    kept.keep("c", "C", 4)
    assert [kept.find(key) for key in "abc"] == ["A", None, "C"]
    kept.keep("a", "A'", 2)
    assert (kept.find("a"), kept.nbytes) == ("A'", 6)
    assert kept.keep("d", "D", 11) == "D", "larger than all there may be"
    assert (kept.find("d"), len(kept), kept.nbytes) == (None, 2, 6)
