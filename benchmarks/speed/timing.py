"""Rounds in which everybody runs once, in a new order each time."""

from __future__ import annotations

import gc
import random
import statistics
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.speed.contestants import Contestant

NEAR = 1.5
"""Who stays within so many times the slower of camkit and the first contestant also runs in extra rounds: percents
decide there, and who takes many times as long would spend the time for them."""


@dataclass
class Times:
    """Seconds by round; ``why_not`` where there are none."""

    by_round: dict[int, float] = field(default_factory=dict)
    why_not: str = ""

    @property
    def seconds(self) -> list[float]:
        """In the order of rounds."""
        return list(self.by_round.values())


def interleaved(
    contestants: Sequence[Contestant],
    rounds: tuple[int, int],
    seconds: float,
    device: str = "cpu",
) -> list[Times]:
    """Time contestants against each other.

    A round runs each of them once, in a new order, so that what slows the machine slows all of them alike and nobody
    always runs on the caches that the same other one left. After the rounds with everybody, camkit and whoever is about
    as fast or faster have further rounds of their own.

    Args:
        contestants: the first is the one that the others are held against.
        rounds: how many everybody runs in at least, and at most.
        seconds: time after which no further round starts, the least aside; half of it is for everybody's rounds.
        device: what is waited for before the clock is read.
    """
    times = [Times(why_not=each.why_not) for each in contestants]
    shuffle = random.Random(0).shuffle

    def run(index: int, round_: int | None) -> None:
        try:
            each = contestants[index]
            taken = once(each if round_ is not None else each.warm or each, device)
        except Exception as error:  # noqa: BLE001  the row says so
            times[index] = Times(why_not=f"fails: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
        else:
            if round_ is not None:
                times[index].by_round[round_] = taken

    def turn(indices: Sequence[int], round_: int | None) -> None:
        order = [index for index in indices if not times[index].why_not]
        shuffle(order)
        gc.collect()
        for index in order:
            run(index, round_)

    with quiet():
        everybody = range(len(contestants))
        turn(everybody, None)
        gc.freeze()  # what the packages brought along needn't be looked through again, in anybody's time
        start = time.perf_counter()
        for done in range(rounds[1]):
            if done >= rounds[0] and time.perf_counter() - start > seconds / 2:
                break
            turn(everybody, done)
        if times[0].why_not:
            raise RuntimeError(times[0].why_not)
        ran = [index for index in everybody if times[index].by_round]
        limit = NEAR * max(_median(times[index]) for index in ran if index == 0 or contestants[index].who == "camkit")
        near = [index for index in ran if _median(times[index]) < limit]
        for done in range(len(times[0].by_round), 2 * rounds[1]):
            if time.perf_counter() - start > seconds:
                break
            turn(near, done)
        gc.unfreeze()
    return times


def once(contestant: Contestant, device: str = "cpu") -> float:
    """Seconds that one call takes, its own hooks and clean-up aside."""
    with contestant.around():
        synchronise(device)
        start = time.perf_counter()
        result = contestant.call()
        synchronise(device)
        taken = time.perf_counter() - start
        del result
    return taken


def synchronise(device: str) -> None:
    """Wait for an accelerator."""
    if device == "cuda":
        torch.cuda.synchronize()


@contextmanager
def quiet() -> Iterator[None]:
    """Without warnings, for which no time must go."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def summary(times: Times, against: Times) -> dict[str, Any]:
    """Median and quartiles, of seconds and of the ratios in the rounds that both ran in."""
    ratios = [times.by_round[each] / against.by_round[each] for each in times.by_round if each in against.by_round]
    return {
        "rounds": len(times.by_round),
        "seconds": _median(times),
        "quartiles": quartiles(times.seconds),
        "ratio": statistics.median(ratios),
        "ratio_quartiles": quartiles(ratios),
    }


def quartiles(values: Sequence[float]) -> list[float]:
    """The first and the third; of one value, itself."""
    if len(values) < 2:
        return [values[0]] * 2
    return statistics.quantiles(values, method="inclusive")[::2]


def _median(times: Times) -> float:
    return statistics.median(times.seconds)
