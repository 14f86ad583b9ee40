"""From signed maps at layer resolution to one finished map per image: rectify, normalise, resize, fuse."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from camkit.shapes import InputMap, Map

NORMALISE_EPS = 1e-7
"""Keeps a map that is zero everywhere from being divided by zero."""
_INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}


def normalise(maps: Map) -> Map:
    """Subtract each map's minimum and divide by its maximum, into [0, 1]."""
    low, high = maps.flatten(1).aminmax(dim=1)
    shape = (-1, *[1] * (maps.ndim - 1))
    # The maximum of what is shifted is high - low, to the last bit: rounding keeps the order.
    return (maps - low.view(shape)).div_((high - low + NORMALISE_EPS).view(shape))


def resize(maps: Map, size: Sequence[int]) -> InputMap:
    """Linear interpolation to ``size``, half-pixel centres, no antialiasing."""
    mode = _INTERPOLATION[maps.ndim - 1]
    return functional.interpolate(maps[:, None], size=tuple(size), mode=mode, align_corners=False)[:, 0]


def finish(layers: Sequence[Tensor], size: Sequence[int]) -> InputMap:
    """Make finished maps of signed ones.

    Args:
        layers: one tensor of signed maps per target layer, (B, *spatial) each at its own resolution.
        size: the input's spatial size (H, W) or (D, H, W).

    Returns:
        (B, *size) float32 in [0, 1]: per layer rectified, normalised and resized; the mean over layers normalised
        again.
    """
    resized = [resize(normalise(maps.relu()), size) for maps in layers]
    return normalise(torch.stack(resized).mean(0)).float()
