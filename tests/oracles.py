"""The methods again, written from their papers as slow float64 loops over single numbers. Independent of camkit."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def positions(array: Array) -> list[tuple[int, ...]]:
    return list(itertools.product(*(range(length) for length in array.shape[1:])))


def weighted(method: str, a: Array, g: Array) -> Array:
    """Weighted activations of one image, (C, *S)."""
    out = np.zeros_like(a)
    places = positions(a)
    for c in range(a.shape[0]):
        total = math.fsum(a[(c, *p)] for p in places)
        if method == "GradCAM":
            w = math.fsum(g[(c, *p)] for p in places) / len(places)
        elif method == "GradCAM++":
            w = 0.0
            for p in places:
                d = g[(c, *p)]
                alpha = 0.0 if d == 0 else d**2 / (2 * d**2 + total * d**3 + 1e-6)
                w += alpha * max(d, 0.0)
        elif method == "XGradCAM":
            w = math.fsum(g[(c, *p)] * a[(c, *p)] / (total + 1e-7) for p in places)
        for p in places:
            if method in ("GradCAM", "GradCAM++", "XGradCAM"):
                out[(c, *p)] = w * a[(c, *p)]
            elif method == "EigenCAM":
                out[(c, *p)] = a[(c, *p)]
            elif method == "EigenGradCAM":
                out[(c, *p)] = g[(c, *p)] * a[(c, *p)]
            elif method == "LayerCAM":
                out[(c, *p)] = max(g[(c, *p)], 0.0) * a[(c, *p)]
            else:
                raise NotImplementedError(method)
    return out


def channel_sum(w: Array) -> Array:
    out = np.zeros(w.shape[1:])
    for p in positions(w):
        out[p] = math.fsum(w[(c, *p)] for c in range(w.shape[0]))
    return out


def principal_component(w: Array) -> Array:
    """Projection on the first right singular vector of the column-centred (positions, channels) matrix."""
    places = positions(w)
    rows = np.array([[w[(c, *p)] for c in range(w.shape[0])] for p in places])
    centred = rows - rows.mean(0)
    _, _, vt = np.linalg.svd(centred)
    projection = centred @ vt[0]
    energy = [sum(value**2 for value in row) for row in rows]
    product = math.fsum(q * e for q, e in zip(projection, energy, strict=True))
    if product < 0:
        projection = -projection
    return np.asarray(projection.reshape(w.shape[1:]))


def raw(method: str, a: Array, g: Array, eigen: bool = False) -> Array:
    w = weighted(method, a, g)
    return principal_component(w) if eigen or method.startswith("Eigen") else channel_sum(w)


def normalise(m: Array) -> Array:
    m = m - m.min()
    return np.asarray(m / (m.max() + 1e-7))


def resize(m: Array, size: tuple[int, ...]) -> Array:
    """Linear interpolation along one axis after the other, half-pixel centres, edges clamped."""
    for axis, length in enumerate(size):
        source = np.moveaxis(m, axis, 0)
        rows: list[Any] = []
        for i in range(length):
            x = min(max((i + 0.5) * source.shape[0] / length - 0.5, 0.0), source.shape[0] - 1.0)
            low = math.floor(x)
            high = min(low + 1, source.shape[0] - 1)
            rows.append(source[low] * (1 - (x - low)) + source[high] * (x - low))
        m = np.moveaxis(np.array(rows), 0, axis)
    return m


def finish(layers: list[Array], size: tuple[int, ...]) -> Array:
    """Finished map of one image from its signed maps."""
    scaled = [resize(normalise(np.maximum(m, 0)), size) for m in layers]
    return normalise(np.mean(scaled, axis=0))
