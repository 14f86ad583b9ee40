"""From signed maps at layer resolution to one finished map per image: rectify, normalise, resize, fuse."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from camkit.shapes import InputMap, Map

NORMALISE_EPS = 1e-7
"""Keeps a map that is zero everywhere from being divided by zero."""
CACHE_NUMBERS = 2**19
"""On a CPU so many numbers of finished maps are made at a time, as many as its cache holds while they are worked on."""
_INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}


def normalise(maps: Map) -> Map:
    """Subtract each map's minimum and divide by its maximum, into [0, 1]."""
    low, high = extremes(maps, 1)
    shape = (-1, *[1] * (maps.ndim - 1))
    # The maximum of what is shifted is high - low, to the last bit: rounding keeps the order.
    return (maps - low.view(shape)).div_((high - low + NORMALISE_EPS).view(shape))


def extremes(maps: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """Minimum and maximum over the dimensions from ``first`` on; NaN where there is NaN."""
    flat = maps.flatten(first)
    return flat.amin(first), flat.amax(first)  # aminmax with a dimension takes eight times as long on a CPU


def resize(maps: Map, size: Sequence[int]) -> InputMap:
    """Linear interpolation to ``size``, half-pixel centres, no antialiasing."""
    mode = _INTERPOLATION[maps.ndim - 1]
    return functional.interpolate(maps[:, None], size=tuple(size), mode=mode, align_corners=False)[:, 0]


def finish(layers: Sequence[Tensor], size: Sequence[int], fusion: str = "mean") -> InputMap:
    """Make finished maps of signed ones.

    Args:
        layers: one tensor of signed maps per target layer, (B, *spatial) each at its own resolution.
        size: the input's spatial size (H, W) or (D, H, W).
        fusion: what several layers become one by: ``"mean"`` or ``"product"``.

    Returns:
        (B, *size) float32 in [0, 1]: per layer rectified, normalised and resized; the mean over layers, or their
        product, normalised again.
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
