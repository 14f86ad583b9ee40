"""When hooks record."""

from __future__ import annotations

from typing import Any

import pytest

from camkit.integrations.schedule import Schedule
from tests.helpers.networks import SmallCNN, seeded
from tests.helpers.training import examples


class Nothing:
    """A logger that keeps nothing."""

    def add_image(self, name: str, image: Any, step: int) -> None:
        pass

    def add_scalar(self, name: str, value: float, step: int) -> None:
        pass


def started(*every: int | None, epoch: int = 0, step: int = 0, **how: Any) -> Schedule:
    schedule = Schedule(*every, at_start=how.pop("at_start", False), options={"target_layers": "norm2", **how})
    schedule.start(seeded(SmallCNN()), examples(1)[0], epoch=epoch, step=step, logger=Nothing())
    return schedule


@pytest.mark.parametrize(
    ("done", "counts", "expected"),
    [
        (0, [1, 9, 10, 11, 20], [10, 20]),
        # Two optimisers count two steps per batch, gradients that add up none.
        (0, [8, 9, 9, 11, 11, 13], [11]),
        # A training that is resumed.
        (25, [26, 29, 30, 31], [30]),
    ],
)
def test_is_time_whenever_a_multiple_is_reached(done: int, counts: list[int], expected: list[int]) -> None:
    schedule = started(None, 10, step=done)
    assert [count for count in counts if schedule.after_step(count) is not None] == expected


def test_epochs_and_steps_do_not_mix() -> None:
    schedule = started(2, None)
    assert schedule.after_step(2) is None
    assert [schedule.after_epoch(epoch) is not None for epoch in (1, 2, 3, 4)] == [False, True, False, True]
    assert started(None, None).after_epoch(1) is not None


def test_at_start_is_a_record_of_what_is_done() -> None:
    schedule = started(1, None, epoch=7, at_start=True)
    assert schedule.recorder is not None
    assert schedule.recorder.records == 1
    assert schedule.unit == "epoch"


def test_what_the_user_gives_goes_before_what_is_found() -> None:
    class Counts(Nothing):
        images = 0

        def add_image(self, name: str, image: Any, step: int) -> None:
            self.images += 1

    own = Counts()
    started(None, 1, logger=own).after_step(1)
    assert own.images == 1
