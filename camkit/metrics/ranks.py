"""The order of a map's pixels, with ties broken the same way everywhere: row by row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from camkit.metrics.maps import even_maps

if TYPE_CHECKING:
    from numpy.typing import NDArray


def descending(heat: Tensor) -> Tensor:
    """Positions of a map's pixels from the highest value to the lowest; equal values in reading order.

    Args:
        heat: (H, W) on the CPU.

    Returns:
        (H * W,) indices into the flattened map.
    """
    return _sorted(-_flat(heat))


def ascending(heat: Tensor) -> Tensor:
    """Positions of a map's pixels from the lowest value to the highest; equal values in reading order."""
    return _sorted(_flat(heat))


def share_of_ties(maps: Tensor) -> Tensor:
    """The share of pixels whose rank is their position's alone, since others have the same value.

    Args:
        maps: (N, H, W) on the CPU.

    Returns:
        (N,) float64, from 0 where all values differ to 1 where each has its equal.
    """
    counts = [np.unique(_flat(heat), return_counts=True)[1] for heat in maps]
    return torch.tensor([float(each[each > 1].sum() / each.sum()) for each in counts], dtype=torch.float64)


def even_notes(maps: Tensor) -> dict[int, str]:
    """Notes of the maps (N, H, W) that are the same everywhere, which are ranked all the same."""
    return {number: f"{line}: its pixels go row by row" for number, line in even_maps(maps).items()}


def _flat(heat: Tensor) -> NDArray[Any]:
    values: NDArray[Any] = heat.numpy().ravel()
    return values


def _sorted(values: NDArray[Any]) -> Tensor:
    # Not by torch: threads sort too, and each would start threads of its own.
    return torch.from_numpy(np.argsort(values, kind="stable"))
