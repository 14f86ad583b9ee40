"""Random signals, and how maps are compared with those of the slow oracles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from camkit.methods import Method, find_method
from tests.oracles import Array

BATCH, TARGETS, CHANNELS = 3, 2, 5
each_space = pytest.mark.parametrize(
    ("spatial", "size"), [((3, 4), (7, 6)), ((2, 3, 2), (4, 5, 3)), ((5,), (11,))], ids=["2d", "3d", "1d"]
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def double(numbers: Any) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def signed(method: str | Method, *signal: Any, reduction: Any = None, **options: Any) -> Tensor:
    """Signed maps (T, B, *S) of a method."""
    made: Tensor = find_method(method).configured(**options).maps(*signal, reduction=reduction).signed
    return made


def close(made: Tensor, slow: Any) -> None:
    """Maps, which are not flat, agree with the oracle's to 1e-9."""
    expected = torch.from_numpy(np.asarray(slow))
    assert expected.std() > 0
    assert_close(made, expected, rtol=1e-9, atol=1e-9)


def by_target_and_image(made: Callable[[int, int], Array]) -> Array:
    """An oracle's maps of each target and image, (T, B, *S)."""
    return np.stack([np.stack([made(target, image) for image in range(BATCH)]) for target in range(TARGETS)])


def slow_batch(function: Callable[..., Array], *batches: Tensor) -> Tensor:
    """An oracle of one image's arrays, image by image."""
    rows = zip(*(each.numpy() for each in batches), strict=True)
    return torch.from_numpy(np.stack([function(*row) for row in rows]))


def random_layer(seed: int = 0, *, spatial: tuple[int, ...] = (4, 5), batch: int = 3) -> tuple[Tensor, Tensor]:
    """Random activations and gradients, (batch, 6, *spatial) each."""
    both = random(2 * batch, 6, *spatial, seed=seed)
    return both[:batch], both[batch:]
