"""Deep feature factorisation, against its slow oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from camkit.errors import UsageError
from camkit.methods import METHODS, Maps
from camkit.methods.concept import deep_feature_factorization, factorise, start
from tests import oracles
from tests.methods.helpers import BATCH, CHANNELS, close, each_space, random
from tests.oracles import Array


def factors(maps: Maps) -> tuple[Tensor, Tensor]:
    """Maps (K, B, *S) and concepts (K, C)."""
    assert maps.concepts is not None
    assert maps.pixels is None
    return maps.signed, maps.concepts


def started(matrix: Array, count: int, seed: int) -> tuple[Array, Array]:
    """Random factors, of the size that the mean asks for."""
    generator = torch.Generator().manual_seed(seed)
    scale = float(np.sqrt(matrix.mean() / count))
    shapes = (len(matrix), count), (count, matrix.shape[1])
    w, h = (torch.randn(shape, dtype=torch.float64, generator=generator).abs().numpy() for shape in shapes)
    return scale * w, scale * h


@each_space
@pytest.mark.parametrize(("count", "seed"), [(1, 0), (3, 0), (4, 7)])
def test_deep_feature_factorization(spatial: tuple[int, ...], size: tuple[int, ...], count: int, seed: int) -> None:
    a = random(BATCH, CHANNELS, *spatial).relu() + 0.1 * random(1, CHANNELS, *[1] * len(spatial), seed=1)
    places, concepts = factors(deep_feature_factorization(a, num_concepts=count, seed=seed))
    matrix = oracles.offset(a.numpy())
    w, maps = oracles.factorized(a.numpy(), *started(matrix, count, seed))
    close(places, np.moveaxis(maps, 1, 0))
    lowest = np.moveaxis(a.numpy(), 1, 0).reshape(CHANNELS, -1).min(1)
    close(concepts, (w + lowest[:, None]).T)


def test_concepts_by_default_are_four() -> None:
    a = random(BATCH, CHANNELS, 3, 4).relu()
    given = factors(METHODS["DFF"].maps(a))
    assert_close(given, factors(deep_feature_factorization(a, num_concepts=4, seed=0)))
    assert given[0].shape == (4, BATCH, 3, 4)
    assert given[1].shape == (4, CHANNELS)


def test_factors_of_what_has_so_many_are_found() -> None:
    """A product of non-negative factors comes out as one."""
    left, right = random(6, 2).relu() + 0.1, random(2, 30, seed=1).relu()
    matrix = left @ right
    found = factorise(matrix, *start(matrix, 2, 0))
    assert all((each >= 0).all() for each in found)
    assert_close(found[0] @ found[1], matrix, rtol=0, atol=2e-3 * float(matrix.max()))


def test_factors_of_nothing_are_nothing() -> None:
    a = torch.full((2, 3, 2, 2), 0.5)
    places, concepts = factors(deep_feature_factorization(a, num_concepts=2))
    assert not places.any()
    assert_close(concepts, torch.full((2, 3), 0.5))


@pytest.mark.parametrize(("channels", "side", "count"), [(3, 4, 4), (8, 2, 9), (8, 1, 3)])
def test_more_concepts_than_there_is_room_for(channels: int, side: int, count: int) -> None:
    a = random(2, channels, side, side)
    with pytest.raises(UsageError, match=rf"num_concepts is {count}.* {channels} channels and {2 * side**2} places"):
        deep_feature_factorization(a, num_concepts=count)
