"""The order of a map's pixels, with ties broken the same way everywhere: row by row."""

from __future__ import annotations

import torch
from torch import Tensor


def descending(heat: Tensor) -> Tensor:
    """Positions of a map's pixels from the highest value to the lowest; equal values in reading order.

    Args:
        heat: (H, W).

    Returns:
        (H * W,) indices into the flattened map, on the map's device.
    """
    return _flat(heat).sort(descending=True, stable=True).indices


def ascending(heat: Tensor) -> Tensor:
    """Positions of a map's pixels from the lowest value to the highest; equal values in reading order."""
    return _flat(heat).sort(stable=True).indices


def share_of_ties(maps: Tensor) -> Tensor:
    """The share of pixels whose rank is their position's alone, since others have the same value.

    Args:
        maps: (N, H, W).

    Returns:
        (N,) float64, from 0 where all values differ to 1 where each has its equal.
    """
    found = []
    for heat in maps:
        counts = torch.unique(_flat(heat), return_counts=True)[1]
        found.append(counts[counts > 1].sum() / heat.numel())
    return torch.stack(found).double()


def _flat(heat: Tensor) -> Tensor:
    return heat.flatten() + 0.0  # which makes -0 the 0 that it equals
