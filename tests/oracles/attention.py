"""Maps from a transformer's attention probabilities (heads, N, N), block by block, first block first."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from tests.oracles.channels import Array

FUSIONS: dict[str, Callable[[list[float]], float]] = {
    "mean": lambda values: math.fsum(values) / len(values),
    "max": max,
    "min": min,
}


def places(relevance: Array, grid: tuple[int, ...], front: int, back: int = 0) -> Array:
    """Relevance per token as a map: extra tokens in front and behind left out."""
    return np.asarray(relevance[front : len(relevance) - back].reshape(grid))


def legrad(gradients: Sequence[Array], grid: tuple[int, ...], front: int = 1, back: int = 0) -> Array:
    """LeGrad: every block's own score's gradient with respect to its attention, positive part, mean over everything."""
    maps = []
    for g in gradients:
        heads, queries, keys = g.shape
        relevance = np.zeros(keys)
        for k in range(keys):
            positive = [max(g[h, q, k], 0.0) for h in range(heads) for q in range(queries)]
            relevance[k] = math.fsum(positive) / len(positive)
        maps.append(places(relevance, grid, front, back))
    return np.asarray(np.mean(maps, axis=0))


def read(relevance: Array, rows: Sequence[int]) -> Array:
    """What the tokens in ``rows`` take from every token, on average."""
    return np.asarray(np.mean([relevance[row] for row in rows], axis=0))


def product(left: Array, right: Array) -> Array:
    n = len(left)
    return np.array([[math.fsum(left[i, k] * right[k, j] for k in range(n)) for j in range(n)] for i in range(n)])


def rollout(attentions: Sequence[Array], rows: Sequence[int], fusion: str = "mean") -> Array:
    """Attention rollout (Abnar and Zuidema 2020): relevance per token, (N,)."""
    n = attentions[0].shape[1]
    joint = np.eye(n)
    for attention in attentions:
        step = np.zeros((n, n))
        for i in range(n):
            for j in range(n):
                step[i, j] = 0.5 * FUSIONS[fusion](list(attention[:, i, j])) + 0.5 * (i == j)
            step[i] /= math.fsum(step[i])
        joint = product(step, joint)
    return read(joint, rows)


def gradient_rollout(attentions: Sequence[Array], gradients: Sequence[Array], rows: Sequence[int]) -> Array:
    """Chefer et al. 2021 (ICCV), eq. 5 and 6, self-attention alone: relevance per token, (N,)."""
    n = attentions[0].shape[1]
    joint = np.eye(n)
    for attention, gradient in zip(attentions, gradients, strict=True):
        heads = len(attention)
        step = np.zeros((n, n))
        for i in range(n):
            for j in range(n):
                step[i, j] = math.fsum(max(gradient[h, i, j] * attention[h, i, j], 0.0) for h in range(heads)) / heads
        joint = joint + product(step, joint)
    return read(joint, rows)
