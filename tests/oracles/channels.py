"""Maps from one layer's activations and gradients, as slow float64 loops over single numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def positions(array: Array) -> list[tuple[int, ...]]:
    return list(itertools.product(*(range(length) for length in array.shape[1:])))


def at(*index: int) -> tuple[int, ...]:
    """An index of one number: a channel, then a position."""
    return index


GRADCAM = ("GradCAM", "FinerCAM")
"""FinerCAM is Grad-CAM of the gradient of another objective."""
GRADCAM_PLUS_PLUS = ("GradCAM++", "RefineCAM")
"""RefineCAM is Grad-CAM++ of several layers, multiplied when finished."""


def weighted(method: str, a: Array, g: Array) -> Array:
    """Weighted activations of one image, (C, *S)."""
    if method == "FEM":
        return marked(a)
    out = np.zeros_like(a)
    places = positions(a)
    for c in range(a.shape[0]):
        total = math.fsum(a[at(c, *p)] for p in places)
        if method in GRADCAM:
            w = math.fsum(g[at(c, *p)] for p in places) / len(places)
        elif method == "CAM":
            w = math.fsum(g[at(c, *p)] for p in places)
        elif method in GRADCAM_PLUS_PLUS:
            w = 0.0
            for p in places:
                d = g[at(c, *p)]
                alpha = 0.0 if d == 0 else d**2 / (2 * d**2 + total * d**3 + 1e-6)
                w += alpha * max(d, 0.0)
        elif method == "XGradCAM":
            w = math.fsum(g[at(c, *p)] * a[at(c, *p)] / (total + 1e-7) for p in places)
        for p in places:
            if method in (*GRADCAM, *GRADCAM_PLUS_PLUS, "CAM", "XGradCAM"):
                out[at(c, *p)] = w * a[at(c, *p)]
            elif method in ("EigenCAM", "KPCA-CAM"):
                out[at(c, *p)] = a[at(c, *p)]
            elif method == "EigenGradCAM":
                out[at(c, *p)] = g[at(c, *p)] * a[at(c, *p)]
            elif method == "LayerCAM":
                out[at(c, *p)] = max(g[at(c, *p)], 0.0) * a[at(c, *p)]
            elif method == "HiResCAM":
                out[at(c, *p)] = g[at(c, *p)] * a[at(c, *p)]
            elif method == "GradCAMElementWise":
                out[at(c, *p)] = max(g[at(c, *p)] * a[at(c, *p)], 0.0)
            elif method == "SegEigenCAM":
                out[at(c, *p)] = abs(g[at(c, *p)]) * a[at(c, *p)]
            else:
                raise NotImplementedError(method)
    return out


def channel_sum(w: Array) -> Array:
    out = np.zeros(w.shape[1:])
    for p in positions(w):
        out[p] = math.fsum(w[at(c, *p)] for c in range(w.shape[0]))
    return out


def rows_of(w: Array) -> Array:
    """Positions x channels."""
    return np.array([[w[at(c, *p)] for c in range(w.shape[0])] for p in positions(w)])


def along_energy(projection: Array, w: Array) -> Array:
    """One number per position, turned so that it does not run against the energy of the uncentred positions."""
    energy = [math.fsum(value**2 for value in row) for row in rows_of(w)]
    product = math.fsum(q * e for q, e in zip(projection, energy, strict=True))
    return np.asarray((-projection if product < 0 else projection).reshape(w.shape[1:]))


def projected(w: Array) -> Array:
    """Column-centred (positions, channels) matrix on its first right singular vector, of either sign."""
    rows = rows_of(w)
    centred = rows - rows.mean(0)
    _, _, vt = np.linalg.svd(centred)
    return np.asarray(centred @ vt[0])


def principal_component(w: Array) -> Array:
    """Projection on the first right singular vector of the column-centred (positions, channels) matrix."""
    return along_energy(projected(w), w)


def peak_component(w: Array) -> Array:
    """The same, turned so that the entry of largest magnitude is positive (Seg-Eigen-CAM)."""
    projection = projected(w)
    if abs(projection.min()) > abs(projection.max()):
        projection = -projection
    return np.asarray(projection.reshape(w.shape[1:]))


def raw(method: str, a: Array, g: Array, eigen: bool = False) -> Array:
    w = weighted(method, a, g)
    if method == "SegEigenCAM":
        return peak_component(w)
    if method == "KPCA-CAM":
        return kernel_component(w)
    return principal_component(w) if eigen or method.startswith("Eigen") else channel_sum(w)


def spread(a: Array, w: Array) -> Array:
    """Activations by one weight per channel, (C,)."""
    out = np.zeros_like(a)
    for c in range(a.shape[0]):
        for p in positions(a):
            out[at(c, *p)] = w[c] * a[at(c, *p)]
    return out


def combined(a: Array, w: Array) -> Array:
    """One weight per channel, (C,): CAM (Zhou et al. 2016) with the classifier's, RandomCAM with any."""
    return channel_sum(spread(a, w))


def shapley_weights(g: Array, hvp: Array) -> Array:
    """ShapleyCAM: gradient less half of the Hessian's product with the activations, averaged over places."""
    places = positions(g)
    return np.array(
        [math.fsum(g[at(c, *p)] - hvp[at(c, *p)] / 2 for p in places) / len(places) for c in range(g.shape[0])],
    )


def shapley(a: Array, g: Array, hvp: Array) -> Array:
    return combined(a, shapley_weights(g, hvp))


def smooth_weights(a: Array, gradients: Sequence[Array], numerator: int = 2) -> Array:
    """Smooth Grad-CAM++ of the clean activations; ``numerator`` 1 is D1 over the samples, as the paper prints it."""
    weights = np.zeros(a.shape[0])
    for c in range(a.shape[0]):
        total = math.fsum(a[at(c, *p)] for p in positions(a))
        for p in positions(a):
            d = {power: math.fsum(g[at(c, *p)] ** power for g in gradients) / len(gradients) for power in (1, 2, 3)}
            if d[1] > 0:
                weights[c] += d[numerator] / (2 * d[2] + total * d[3] + 1e-6) * d[1]
    return weights


def smooth_plus_plus(a: Array, gradients: Sequence[Array], numerator: int = 2) -> Array:
    return combined(a, smooth_weights(a, gradients, numerator))


def marked(a: Array, k: float = 2.0) -> Array:
    """FEM: where a channel stands out by ``k`` of its standard deviations, its mean."""
    out = np.zeros_like(a)
    places = positions(a)
    for c in range(a.shape[0]):
        mean = math.fsum(a[at(c, *p)] for p in places) / len(places)
        deviation = math.sqrt(math.fsum((a[at(c, *p)] - mean) ** 2 for p in places) / len(places))
        for p in places:
            if a[at(c, *p)] >= mean + k * deviation:
                out[at(c, *p)] = mean
    return out


def fem(a: Array, k: float = 2.0) -> Array:
    return channel_sum(marked(a, k))


def kernel_value(kernel: str, x: Array, y: Array, gamma: float) -> float:
    inner = math.fsum(p * q for p, q in zip(x, y, strict=True))
    if kernel == "linear":
        return inner
    if kernel == "poly":
        return (gamma * inner + 1) ** 3
    if kernel == "sigmoid":
        return math.tanh(gamma * inner + 1)
    if kernel == "rbf":
        return math.exp(-gamma * math.fsum((p - q) ** 2 for p, q in zip(x, y, strict=True)))
    if kernel == "cosine":
        return inner / ((math.hypot(*x) * math.hypot(*y)) or 1.0)
    raise NotImplementedError(kernel)


def kernel_component(a: Array, kernel: str = "sigmoid", gamma: float | None = None) -> Array:
    """KPCA-CAM: leading component of the doubly centred kernel matrix over channel-centred positions."""
    rows = rows_of(a)
    rows = rows - rows.mean(0)
    gamma = 1 / a.shape[0] if gamma is None else gamma
    matrix = np.array([[kernel_value(kernel, x, y, gamma) for y in rows] for x in rows])
    matrix = matrix - matrix.mean(0) - matrix.mean(1)[:, None] + matrix.mean()
    values, vectors = np.linalg.eigh(matrix)
    return along_energy(vectors[:, -1] * math.sqrt(max(values[-1], 0.0)), a)


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


def refined(layers: list[Array], size: tuple[int, ...]) -> Array:
    """RefineCAM: the layers' maps, each rectified, scaled to [0, 1] and resized, multiplied and scaled again."""
    return normalise(np.prod([resize(normalise(np.maximum(m, 0)), size) for m in layers], axis=0))
