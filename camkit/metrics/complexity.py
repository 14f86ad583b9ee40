"""How much a map says at once: few pixels that count, or many."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from camkit.metrics.maps import even_maps
from camkit.metrics.registry import metric
from camkit.metrics.trial import Trial
from camkit.metrics.values import Values

EPSILON = 1e-7
"""Added to each pixel of a map whose maximum is 1, as in Quantus."""


@metric(
    "Sparseness",
    family="complexity",
    paper="Chalasani et al. 2020, Gini index",
    formula="Gini index of |M|",
    better="higher",
)
def sparseness(trial: Trial) -> Values:
    """Measure by the Gini index how few pixels a map consists of.

        sparseness = sum_i (2 i - n - 1) a_i / (n sum_i a_i),  a = |M| / max |M| + 1e-7, ascending, i from 1 to n

    Higher is sparser, in [0, 1 - 1/n]: 0 where all pixels are the same, the highest where a single one isn't 0. It says
    nothing of whether the pixels are the right ones.

    Paper: Chalasani et al. 2020, Gini index; Hurley and Rickard 2009 for the index.

    Args:
        trial: maps.

    Example:
        >>> found = camkit.metrics.measure("Sparseness", maps)
        >>> found["Sparseness"].values.shape
        torch.Size([2])
    """
    a = (_scaled(trial.maps) + EPSILON).sort(1).values
    n = a.shape[1]
    weights = 2 * torch.arange(1, n + 1, dtype=torch.float64) - n - 1
    found = (a @ weights / (n * a.sum(1))).clamp(min=0)
    return Values(_defined(found, notes := even_maps(trial.maps), 0.0), notes=notes)


@metric(
    "Complexity",
    family="complexity",
    paper="Bhatt et al. 2020, definition 4",
    formula="entropy of |M| / sum |M|",
    better="lower",
)
def complexity(trial: Trial) -> Values:
    """Measure by the entropy over how many pixels a map spreads.

        complexity = -sum_i q_i ln q_i,  q = |M| / sum |M|

    Lower is simpler, in [0, ln n]: 0 where a single pixel isn't 0, ln n where all are the same, which is also what a
    map gets that is zero everywhere. It says nothing of whether the pixels are the right ones.

    Paper: Bhatt et al. 2020, definition 4.

    Args:
        trial: maps.

    Example:
        >>> found = camkit.metrics.measure("Complexity", maps)
        >>> found["Complexity"].values.shape
        torch.Size([2])
    """
    a = _scaled(trial.maps)
    q = a / a.sum(1, keepdim=True).clamp(min=torch.finfo(a.dtype).tiny)
    found = -torch.special.xlogy(q, q).sum(1)
    return Values(_defined(found, notes := even_maps(trial.maps), math.log(a.shape[1])), notes=notes)


def _scaled(maps: Tensor) -> Tensor:
    """Magnitudes (N, n) with a maximum of 1; zeros of a map that is zero."""
    flat = maps.flatten(1).abs()
    top = flat.amax(1, keepdim=True)
    return flat / top.where(top > 0, 1)


def _defined(values: Tensor, even: dict[int, str], value: float) -> Tensor:
    """Values with that of maps that are the same everywhere, which rounding would miss by a little."""
    found = values.clone()
    found[list(even)] = value
    return found
