"""Correlations, which are defined for constant values too."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Correlation = Callable[[Tensor, Tensor], float]


def pearson(first: Tensor, second: Tensor) -> float:
    """Pearson's correlation of two rows (n,) in float64, in [-1, 1]; 0 where one of them is constant."""
    if _is_constant(first) or _is_constant(second):
        return 0.0
    a, b = (each.double() - each.double().mean() for each in (first, second))
    # Scaled first, so that neither tiny nor huge values leave the range of squares.
    a, b = a / a.abs().max(), b / b.abs().max()
    return float((a @ b / (a.norm() * b.norm())).clamp(-1, 1))


def spearman(first: Tensor, second: Tensor) -> float:
    """Spearman's rank correlation of two rows (n,), equal values at their mean rank; 0 where one is constant."""
    return pearson(mean_ranks(first), mean_ranks(second))


def mean_ranks(values: Tensor) -> Tensor:
    """Ranks (n,) float64 from 1 on, in ascending order; equal values get the mean of their ranks."""
    _, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
    middle: Tensor = counts.cumsum(0).double() - (counts.double() - 1) / 2
    return middle[inverse]


def _is_constant(values: Tensor) -> bool:
    return bool(values.min() == values.max())
