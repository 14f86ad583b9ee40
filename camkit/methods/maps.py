"""Finish maps: rectify, normalise, resize to the input and fuse the signed maps of several layers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from camkit.typing import InputMap, Map

NORMALISE_EPS = 1e-7
"""Added to a map's range, which is zero where the map is constant."""
CACHE_NUMBERS = 2**19
"""Maps are finished in chunks of this many numbers on a CPU, which its cache holds."""
_INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}


def normalise(maps: Map) -> Map:
    """Scale each map to [0, 1]: subtract its minimum, divide by its range."""
    low, high = extremes(maps, 1)
    shape = (-1, *[1] * (maps.ndim - 1))
    # Rounding keeps the order, so high - low is the maximum of the shifted map to the last bit.
    return (maps - low.view(shape)).div_((high - low + NORMALISE_EPS).view(shape))


def extremes(maps: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """Minimum and maximum over the dimensions from ``first`` on; NaN where there is NaN."""
    flat = maps.flatten(first)
    return flat.amin(first), flat.amax(first)  # aminmax with a dimension takes eight times as long on a CPU


def resize(maps: Map, size: Sequence[int]) -> InputMap:
    """Interpolate linearly to ``size``, with half-pixel centres and no antialiasing."""
    mode = _INTERPOLATION[maps.ndim - 1]
    return functional.interpolate(maps[:, None], size=tuple(size), mode=mode, align_corners=False)[:, 0]


def finish(layers: Sequence[Tensor], size: Sequence[int], fusion: str = "mean") -> InputMap:
    """Finish signed maps: rectify, normalise and resize those of each layer, fuse layers, normalise again.

    Args:
        layers: signed maps (B, *spatial) per target layer, each at its own resolution.
        size: the input's spatial size, (H, W) or (D, H, W).
        fusion: how maps of several layers are fused: ``"mean"`` or ``"product"``.

    Returns:
        (B, *size) float32 in [0, 1].
    """
    small = [normalise(maps.relu()) for maps in layers]
    count = len(small[0])
    together = max(1, CACHE_NUMBERS // math.prod(size)) if small[0].device.type == "cpu" else count
    if count <= together:
        return _fused(small, size, fusion).float()
    finished = small[0].new_empty((count, *size), dtype=torch.float32)
    for start in range(0, count, together):
        part = slice(start, start + together)
        finished[part] = _fused([maps[part] for maps in small], size, fusion)
    return finished


def _fused(small: Sequence[Tensor], size: Sequence[int], fusion: str) -> InputMap:
    resized = [resize(maps, size) for maps in small]
    if len(resized) == 1:
        return normalise(resized[0])
    together = torch.stack(resized)
    return normalise(together.prod(0) if fusion == "product" else together.mean(0))
