"""Finished maps against the slow oracle, and what they promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from camkit.methods.maps import finish, normalise, resize
from tests import oracles


def random_maps(*grid: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, *grid, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("grids", "size"),
    [
        ([(4, 5)], (16, 20)),
        ([(4, 5), (8, 10), (2, 2)], (16, 20)),
        ([(9, 9)], (5, 4)),
        ([(2, 3, 4)], (8, 7, 9)),
        ([(1, 7)], (6, 6)),
    ],
    ids=["one layer", "three layers", "smaller", "volume", "one row"],
)
def test_agrees_with_the_slow_oracle(grids: list[tuple[int, ...]], size: tuple[int, ...]) -> None:
    layers = [random_maps(*grid, seed=index) for index, grid in enumerate(grids)]
    slow = [oracles.finish([layer[image].numpy() for layer in layers], size) for image in range(2)]
    made = finish(layers, size)
    assert made.dtype == torch.float32
    assert_close(made, torch.from_numpy(np.stack(slow)).float(), rtol=0, atol=1e-6)
    exact = torch.stack([resize(normalise(layer.relu()), size) for layer in layers]).mean(0)
    assert_close(normalise(exact), torch.from_numpy(np.stack(slow)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("together", [1, 2, 3, 7])
def test_parts_make_the_whole(monkeypatch: pytest.MonkeyPatch, together: int) -> None:
    generator = torch.Generator().manual_seed(0)
    layers = [torch.randn(7, *grid, generator=generator) for grid in ((4, 5), (8, 10))]
    whole = finish(layers, (16, 20))
    monkeypatch.setattr("camkit.methods.maps.CACHE_NUMBERS", together * 16 * 20)
    assert_close(finish(layers, (16, 20)), whole, rtol=0, atol=1e-6)
    assert_close(whole, torch.cat([finish([maps[i : i + 1] for maps in layers], (16, 20)) for i in range(7)]))


def test_lies_in_zero_to_one_and_reaches_both() -> None:
    made = finish([1e-4 * random_maps(5, 5)], (30, 30))
    assert_close(made.amin((1, 2)), torch.zeros(2), rtol=0, atol=0)
    assert_close(made.amax((1, 2)), torch.ones(2), rtol=0, atol=1e-5)


def test_leaves_its_arguments_alone() -> None:
    layer = random_maps(4, 4)
    kept = layer.clone()
    finish([layer], (8, 8))
    assert_close(layer, kept, rtol=0, atol=0)


def test_negative_evidence_leaves_an_empty_map() -> None:
    assert_close(finish([-random_maps(4, 4).abs()], (8, 8)), torch.zeros(2, 8, 8), rtol=0, atol=0)
