"""Metrics of one map again, from their papers: random changes, localisation, complexity, randomisation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from tests.oracles.channels import Array

Score = Callable[[Array], float]
"""The class's score of an image (C, H, W)."""


def infidelity(heat: Array, image: Array, changes: Sequence[Array], score: Score, *, normalise: bool = False) -> float:
    said, done = [], []
    for change in changes:
        total = 0.0
        for c, i, j in np.ndindex(*change.shape):
            total += change[c, i, j] * heat[i, j]
        said.append(total)
        done.append(score(image) - score(image - change))
    factor = 1.0
    if normalise:
        factor = sum(a * b for a, b in zip(said, done, strict=True)) / sum(a * a for a in said)
    return sum((factor * a - b) ** 2 for a, b in zip(said, done, strict=True)) / len(changes)


def subset_sums_and_drops(
    heat: Array, image: Array, subsets: Sequence[Sequence[tuple[int, int]]], score: Score
) -> tuple[list[float], list[float]]:
    """What the map sums to over each subset of pixels, and what the score loses without it."""
    sums, drops = [], []
    for subset in subsets:
        without = image.copy()
        total = 0.0
        for i, j in subset:
            without[:, i, j] = 0
            total += heat[i, j]
        sums.append(total)
        drops.append(score(image) - score(without))
    return sums, drops


def pearson(a: Sequence[float], b: Sequence[float]) -> float:
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    product = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    return product / math.sqrt(sum((x - mean_a) ** 2 for x in a) * sum((y - mean_b) ** 2 for y in b))


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    return pearson(ranks(a), ranks(b))


def ranks(values: Sequence[float]) -> list[float]:
    """One more than the number of smaller values, and half of the others that are equal."""
    return [1 + sum(v < x for v in values) + (sum(v == x for v in values) - 1) / 2 for x in values]


def max_sensitivity(heat: Array, image: Array, noise: Sequence[Array], explain: Callable[[Array], Array]) -> float:
    norm = math.sqrt(sum(x * x for x in heat.flat)) or 1.0
    found = 0.0
    for each in noise:
        moved = explain(image + each)
        distance = math.sqrt(sum((x - y) ** 2 for x, y in zip(moved.flat, heat.flat, strict=True)))
        found = max(found, distance / norm)
    return found


def pointing_game(heat: Array, region: Array, tolerance: float) -> float:
    best = (0, 0)
    for place in np.ndindex(*heat.shape):
        if heat[place] > heat[best]:
            best = place
    for i, j in np.ndindex(*region.shape):
        if region[i, j] and math.hypot(i - best[0], j - best[1]) <= tolerance:
            return 1.0
    return 0.0


def share_inside(heat: Array, region: Array) -> float:
    """Of what is positive."""
    inside = total = 0.0
    for place in np.ndindex(*heat.shape):
        value = max(heat[place], 0.0)
        total += value
        inside += value if region[place] else 0.0
    return inside / total if total > 1e-7 else 0.0


def gini(heat: Array) -> float:
    top = max(abs(x) for x in heat.flat)
    a = sorted(abs(x) / top + 1e-7 for x in heat.flat)
    n = len(a)
    return sum((2 * i - n - 1) * x for i, x in enumerate(a, 1)) / (n * sum(a))


def entropy(heat: Array) -> float:
    total = sum(abs(x) for x in heat.flat)
    found = 0.0
    for x in heat.flat:
        if x:
            found -= abs(x) / total * math.log(abs(x) / total)
    return found


def histogram_entropy(heat: Array, bins: int = 100) -> float:
    low, high = heat.min(), heat.max()
    edges = np.linspace(low, high, bins + 1)
    counts = [0] * bins
    for x in heat.flat:
        # The last bin has its upper edge too.
        found = next((k for k in range(bins) if edges[k] <= x < edges[k + 1]), bins - 1)
        counts[found] += 1
    return -sum(k / heat.size * math.log(k / heat.size) for k in counts if k)
