"""Layouts of the outputs of well-known layers. camkit finds them by itself: a reshape_transform can be left out."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from camkit.errors import LayerError


def vit_reshape_transform(tensor: Tensor, height: int = 14, width: int = 14) -> Tensor:
    """Tokens (B, 1 + height * width, C) with one in front to (B, C, height, width)."""
    return _on_grid(tensor[:, 1:], height, width, front=1)


def swinT_reshape_transform(tensor: Tensor, height: int = 7, width: int = 7) -> Tensor:  # noqa: N802
    """Tokens (B, height * width, C), or (B, height, width, C), to (B, C, height, width)."""
    return _on_grid(tensor.flatten(1, -2), height, width, front=0)


def fasterrcnn_reshape_transform(x: Mapping[str, Tensor]) -> Tensor:
    """The levels of a feature pyramid to one map: sizes of values, resized to the level ``"pool"`` and concatenated.

    Args:
        x: level to (B, C, H, W).

    Returns:
        (B, levels * C, h, w).
    """
    size = x["pool"].shape[-2:]
    return torch.cat([interpolate(level.abs(), size, mode="bilinear") for level in x.values()], dim=1)


def _on_grid(tokens: Tensor, height: int, width: int, *, front: int) -> Tensor:
    if tokens.shape[1] != height * width:
        raise LayerError(
            f"{tokens.shape[1]} tokens{f' behind the first {front}' if front else ''} don't make a grid of {height} x "
            f"{width}: pass height= and width=, or leave reshape_transform out"
        )
    return tokens.mT.reshape(len(tokens), tokens.shape[2], height, width)
