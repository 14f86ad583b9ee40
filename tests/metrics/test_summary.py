"""Means, intervals and paired tests, beside plain loops."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from camkit.errors import UsageError
from camkit.metrics.summary import EXACT, bootstrap, image_means, paired_p, smallest_p, summarise
from camkit.metrics.values import Values

NOISE = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_interval_covers_the_mean_as_theory_says() -> None:
    """Of many normal values the percentile bootstrap's interval is nearly the normal one: 1.96 standard errors."""
    found = summarise(NOISE)
    error = 1.96 * float(NOISE.std()) / 20
    assert found.mean == pytest.approx(float(NOISE.mean()))
    assert found.low is not None
    assert found.high is not None
    assert found.low == pytest.approx(found.mean - error, abs=0.1 * error)
    assert found.high == pytest.approx(found.mean + error, abs=0.1 * error)
    assert found.count == 400


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    truth = 0
    samples = torch.randn(200, 40, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for number, sample in enumerate(samples):
        low, high = bootstrap(sample[:, None], seed=number)
        truth += int(low <= 0 <= high)
    assert 0.88 <= truth / 200 <= 0.99


def test_the_seed_decides_and_the_order_of_images_nearly_doesn_t() -> None:
    assert summarise(NOISE, seed=1) == summarise(NOISE, seed=1)
    assert summarise(NOISE, seed=1) != summarise(NOISE, seed=2)


def test_one_image_has_no_interval_and_that_is_said() -> None:
    found = summarise([0.5])
    assert (found.mean, found.low, found.high, found.count) == (0.5, None, None, 1)
    assert found.note == "no interval: one image"
    assert str(found) == "0.500"


def test_values_of_one_image_count_once() -> None:
    found = summarise([0.0, 1.0, 4.0], images=["a", "a", "b"])
    assert found.mean == pytest.approx(2.25)
    assert found.count == 2
    assert image_means([[0.0, 2.0], [4.0, 6.0], [1.0, 1.0]], ["a", "a", "b"]).tolist() == [[2, 4], [1, 1]]


def test_ties_are_their_mean() -> None:
    values = Values(torch.ones(2, dtype=torch.float64), ties=torch.tensor([0.5, 1.0], dtype=torch.float64))
    assert summarise(values).ties == 0.75
    assert summarise(torch.ones(2)).ties is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "no values"),
        (3.0, "no values"),
        ([1.0, float("nan"), float("inf")], "2 of 3 values are no finite numbers, the first is number 1"),
    ],
)
def test_bad_values_are_refused(values: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        summarise(values)
    with pytest.raises(UsageError, match=r"one per image, \(N,\), got \(3, 2\)"):
        summarise(torch.rand(3, 2))
    with pytest.raises(UsageError, match="values to summarise are numbers, one per image; got str"):
        summarise("abc")
    with pytest.raises(UsageError, match="2 values are of 1 images"):
        summarise([1.0, 2.0], images=["a"])


def oracle(first: list[float], second: list[float]) -> float:
    """Every sign of every difference, one after the other."""
    differences = np.array(first) - np.array(second)
    observed = abs(differences.mean())
    flipped = [abs(np.mean(differences * np.array(signs))) for signs in product((1, -1), repeat=len(differences))]
    return float(np.mean([each >= observed - 1e-12 for each in flipped]))


@pytest.mark.parametrize("count", [1, 2, 5, 9, EXACT])
def test_few_images_are_tested_exactly(count: int) -> None:
    first, second = (NOISE[:count] + 0.6).tolist(), NOISE[100 : 100 + count].tolist()
    assert paired_p(first, second) == pytest.approx(oracle(first, second))
    assert paired_p(first, second) == paired_p(second, first)
    assert paired_p([1.0] * count, [0.0] * count) == pytest.approx(smallest_p(count))


def test_many_images_are_tested_by_drawn_signs() -> None:
    """Near the p of the exact test, of which these are a sample: 4 standard errors of it."""
    first, second = (NOISE[:16] + 0.4).tolist(), NOISE[100:116].tolist()
    exact = oracle(first, second)
    assert abs(paired_p(first, second, seed=5) - exact) < 4 * (exact * (1 - exact) / 9999) ** 0.5
    assert paired_p([1.0] * 50, [0.0] * 50) == smallest_p(50) == 1e-4


def test_equal_methods_don_t_differ() -> None:
    assert paired_p([0.1, 0.2, 0.3], [0.1, 0.2, 0.3]) == 1


def test_methods_that_don_t_differ_are_taken_for_different_as_often_as_the_level_says() -> None:
    pairs = torch.randn(300, 2, 12, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    below = sum(paired_p(first, second) < 0.05 for first, second in pairs)
    assert below / 300 < 0.09


def test_a_paired_test_takes_values_of_the_same_images() -> None:
    with pytest.raises(UsageError, match="values of the same images"):
        paired_p([1.0, 2.0], [1.0])


def test_images_may_be_a_tensor_of_numbers() -> None:
    assert summarise([1, 3, 8], images=torch.tensor([5, 5, 2])) == summarise([1, 3, 8], images=["a", "a", "b"])
