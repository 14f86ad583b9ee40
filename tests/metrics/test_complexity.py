"""Sparseness and complexity."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from camkit.metrics import METRICS
from camkit.metrics.trial import Trial
from camkit.metrics.values import Values
from tests.oracles import trusted

PIXELS = 20 * 14


def of(name: str, maps: Tensor) -> Values:
    return METRICS[name].values(Trial(maps))


def maps() -> Tensor:
    """Dense and signed, mostly zero, a single pixel."""
    generator = torch.Generator().manual_seed(2)
    made = torch.randn(3, 20, 14, generator=generator, dtype=torch.float64)
    made[1] = (made[1] - 1.5).relu()
    made[2] = 0
    made[2, 4, 9] = 0.3
    return made


@pytest.mark.parametrize(("name", "oracle"), [("Sparseness", trusted.gini), ("Complexity", trusted.entropy)])
def test_is_the_loops(name: str, oracle: object) -> None:
    expected = [oracle(each.numpy()) for each in maps()]  # type: ignore[operator]
    np.testing.assert_allclose(of(name, maps()).values, expected, rtol=1e-9, atol=1e-12)


def test_a_single_pixel_is_the_best() -> None:
    single = maps()[2:]
    # 1e-7 at every other pixel.
    assert float(of("Sparseness", single).values[0]) == pytest.approx(1 - 1 / PIXELS, abs=1e-4)
    assert float(of("Complexity", single).values[0]) == 0


@pytest.mark.parametrize("value", [0.0, 0.37, -2.0])
def test_a_map_that_is_the_same_everywhere_is_the_worst(value: float) -> None:
    even = torch.full((2, 20, 14), value, dtype=torch.float64)
    sparse, complicated = of("Sparseness", even), of("Complexity", even)
    assert sparse.values.tolist() == [0, 0]
    assert complicated.values.tolist() == pytest.approx(2 * [math.log(PIXELS)], rel=1e-12)
    assert sparse.notes == complicated.notes == dict.fromkeys([0, 1], f"the map is {value:g} everywhere")


@pytest.mark.parametrize("name", ["Sparseness", "Complexity"])
@pytest.mark.parametrize("factor", [1e-30, -1, 255, 1e30])
def test_the_scale_does_not_count(name: str, factor: float) -> None:
    assert_close(of(name, factor * maps()).values, of(name, maps()).values, rtol=1e-9, atol=1e-12)


def test_sharper_maps_are_sparser_and_simpler() -> None:
    rows, columns = torch.meshgrid(torch.arange(20.0), torch.arange(14.0), indexing="ij")
    distance = (rows - 10).square() + (columns - 6).square()
    blobs = torch.stack([(-distance / (2 * width**2)).exp() for width in (1, 3, 9)]).double()
    sparse, complicated = of("Sparseness", blobs).values, of("Complexity", blobs).values
    assert sparse.tolist() == sorted(sparse.tolist(), reverse=True)
    assert complicated.tolist() == sorted(complicated.tolist())
