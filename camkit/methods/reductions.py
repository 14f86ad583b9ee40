"""Reductions: from weighted channels to one signed map."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional

from camkit.compat import float64
from camkit.methods.options import OptionalPositive, one_of
from camkit.methods.registry import Weighted, Weights
from camkit.typing import Activations, SignedMaps

Kernel = Annotated[str, one_of("sigmoid", "rbf", "poly", "linear", "cosine")]
SQUARINGS = 24
"""Enough to separate eigenvalues that differ by a millionth, the resolution of float32."""


def channel_sum(activations: Activations, weights: Weights) -> SignedMaps:
    """Sum weighted channels, (B, C, *S) and weights to (T, B, *S)."""
    if weights is None:
        return activations.sum(1)[None]
    if isinstance(weights, Weighted):
        return weights.channels.sum(2)
    # On a GPU, matrix products may run in TF32, with ten bits of mantissa; sums do not.
    if weights.shape[3:].numel() > 1 or weights.is_cuda:
        return (weights * activations).sum(2)
    # A matrix product per image never stores the weighted activations, (T, B, C, *S).
    sums = weights.flatten(2).transpose(0, 1) @ activations.flatten(2)
    return sums.transpose(0, 1).reshape(*weights.shape[:2], *activations.shape[2:])


def principal_component(activations: Activations, weights: Weights) -> SignedMaps:
    """Project every position on the first principal component of an image's positions, to (T, B, *S).

    Rows are positions, columns are weighted channels, each column centred; the projection is on the first right
    singular vector (Muhammad and Yeasin 2020, O V_1). Its sign is defined: the inner product with the squared L2 norm
    of each position's uncentred channel vector is not negative, so the map is high where weighted activations are
    large; where that product vanishes, the entry of largest magnitude is positive. An image with NaN or infinity gets a
    map of NaN.
    """
    rows, shape = _rows(activations, weights)
    projection = _first_component(rows - rows.mean(1, keepdim=True))
    return (projection * _energy_sign(projection, rows)).reshape(shape)


def extremes_component(activations: Activations, weights: Weights) -> SignedMaps:
    """As :func:`principal_component`, with its largest entry by size positive (Chung and Ying 2025, eq. 13)."""
    rows, shape = _rows(activations, weights)
    projection = _first_component(rows - rows.mean(1, keepdim=True))
    largest = projection.gather(1, projection.abs().argmax(1, keepdim=True))
    return (projection * torch.where(largest < 0, -1.0, 1.0).to(projection.dtype)).reshape(shape)


def kernel_component(
    activations: Activations, weights: Weights, *, kernel: Kernel = "sigmoid", gamma: OptionalPositive = None
) -> SignedMaps:
    """Project every position on the first kernel principal component of an image's positions, to (T, B, *S).

    Rows as in :func:`principal_component`; K_ij = k(row_i, row_j) is centred in feature space; the projection is its
    leading eigenvector times the root of the eigenvalue (Karmani et al. 2024; Schoelkopf et al. 1998, eq. 12 and 20),
    which is zero where it is no larger than rounding. The sign is that of :func:`principal_component`.

    Args:
        activations: (B, C, *S).
        weights: see :data:`Weights`.
        kernel: similarity of the channels x and y at two positions: ``"sigmoid"`` is tanh(gamma x.y + 1), ``"rbf"``
            exp(-gamma |x - y|^2), ``"poly"`` (gamma x.y + 1)^3, ``"linear"`` x.y, as in Eigen-CAM, and ``"cosine"``
            cos(x, y).
        gamma: scale of the kernel; None is one over the number of channels.
    """
    rows, shape = _rows(activations, weights)
    centred = float64(rows)
    centred = centred - centred.mean(1, keepdim=True)
    similarity = KERNELS[kernel](centred, 1 / centred.shape[2] if gamma is None else gamma)
    rounding = torch.finfo(similarity.dtype).eps * similarity.shape[1] * similarity.abs().amax((1, 2))[:, None]
    similarity = similarity - similarity.mean(1, keepdim=True) - similarity.mean(2, keepdim=True)
    similarity = similarity - similarity.mean((1, 2), keepdim=True)  # minus the mean, after both subtractions above
    finite = similarity.isfinite().all(2).all(1)
    values, vectors = leading_eigenpair(torch.where(finite[:, None, None], similarity, 0))
    leading = torch.where(values[:, None] > rounding, values[:, None], 0)
    projection = vectors * leading.sqrt()
    projection = torch.where(finite[:, None], projection, math.nan).to(rows)
    return (projection * _energy_sign(projection, rows)).reshape(shape)


def _sigmoid(rows: Tensor, gamma: float) -> Tensor:
    return torch.tanh(gamma * rows @ rows.mT + 1)


def _rbf(rows: Tensor, gamma: float) -> Tensor:
    return torch.exp(-gamma * torch.cdist(rows, rows).square())


def _polynomial(rows: Tensor, gamma: float) -> Tensor:
    return (gamma * rows @ rows.mT + 1) ** 3


def _linear(rows: Tensor, gamma: float) -> Tensor:
    return rows @ rows.mT


def _cosine(rows: Tensor, gamma: float) -> Tensor:
    unit = functional.normalize(rows, dim=2)
    return unit @ unit.mT


KERNELS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "sigmoid": _sigmoid,
    "rbf": _rbf,
    "poly": _polynomial,
    "linear": _linear,
    "cosine": _cosine,
}
"""From rows (B, P, C) and gamma to the kernel matrix (B, P, P)."""


def _rows(activations: Activations, weights: Weights) -> tuple[Tensor, tuple[int, ...]]:
    """Return weighted channels as one row per position, (T * B, P, C), and the shape of the maps, (T, B, *S)."""
    if isinstance(weights, Weighted):
        weighted = weights.channels
    else:
        weighted = activations[None] if weights is None else weights * activations
    return weighted.flatten(0, 1).flatten(2).transpose(1, 2), (*weighted.shape[:2], *weighted.shape[3:])


def _first_component(rows: Tensor) -> Tensor:
    """The first left singular vector times its singular value, (B, P, C) to (B, P).

    Computed from the smaller Gram matrix, which is much faster than an SVD. The vector's error is of the same order:
    squaring the singular values also doubles the relative gap between the first and the second.
    """
    wide = rows.shape[1] <= rows.shape[2]
    # Without the scale, tiny gradients would underflow when they are squared.
    scale = torch.maximum(rows.amax((1, 2), keepdim=True), -rows.amin((1, 2), keepdim=True))
    scaled = rows / torch.where(scale > 0, scale, 1)
    if rows.is_cuda:  # products in float32 may run in TF32
        scaled = scaled.double()
    gram = scaled @ scaled.mT if wide else scaled.mT @ scaled
    finite = gram.isfinite().all(2).all(1)
    gram = torch.where(finite[:, None, None], gram, 0)
    leading = leading_eigenvector(gram)
    if wide:
        value = (leading[:, None] @ gram @ leading[:, :, None]).squeeze(2)
        projection = leading * value.clamp(min=0).sqrt()
    else:
        projection = (torch.where(finite[:, None, None], scaled, 0) @ leading[:, :, None]).squeeze(2)
    return torch.where(finite[:, None], projection.to(rows.dtype) * scale[:, :, 0], math.nan)


def leading_eigenvector(gram: Tensor) -> Tensor:
    """The unit eigenvector of the largest eigenvalue of positive semidefinite matrices, (B, N, N) to (B, N)."""
    # On CUDA, eigh synchronises to check that it converged; MPS has none.
    return leading_eigenpair(gram)[1] if gram.device.type == "cpu" else leading_by_squaring(gram)


def leading_eigenpair(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues (B,) of symmetric matrices (B, N, N), and their unit eigenvectors (B, N)."""
    try:
        values, vectors = torch.linalg.eigh(matrices)
    except RuntimeError as error:
        if "converge" not in str(error):
            raise
        # LAPACK now and then fails to converge on matrices of low rank, in float32 above all. Power iteration doesn't;
        # the shift, a bound of all eigenvalues, makes the matrices positive semidefinite.
        bound = matrices.abs().sum(2).amax(1)[:, None, None]
        identity = torch.eye(matrices.shape[1], dtype=matrices.dtype, device=matrices.device)
        vector = leading_by_squaring(matrices + bound * identity)
        return (vector[:, None] @ matrices @ vector[:, :, None])[:, 0, 0], vector
    return values[:, -1], vectors[:, :, -1]


def leading_by_squaring(gram: Tensor) -> Tensor:
    """Compute :func:`leading_eigenvector` without synchronising the device.

    Power iteration by squaring the matrix repeatedly: after :data:`SQUARINGS` squarings the other eigenvalues have
    vanished, and each column is a multiple of the eigenvector. In float64, as errors add up.
    """
    power = float64(gram)
    for _ in range(SQUARINGS):
        size = power.diagonal(dim1=1, dim2=2).amax(1)[:, None, None]  # the largest entry of a semidefinite matrix
        power = power / torch.where(size > 0, size, 1)
        power = power @ power
    largest = power.diagonal(dim1=1, dim2=2).argmax(1)
    column = power.gather(2, largest[:, None, None].expand(-1, power.shape[1], 1)).squeeze(2)
    return functional.normalize(column, dim=1).to(gram)


def _energy_sign(projection: Tensor, rows: Tensor) -> Tensor:
    """The sign, +1 or -1 per image, that makes projections high where rows are long; (B, P), (B, P, C) to (B, 1)."""
    energy = torch.linalg.vector_norm(rows, dim=2).square()
    energy = energy - energy.mean(1, keepdim=True)
    product = (projection * energy).sum(1, keepdim=True)
    noise = torch.finfo(projection.dtype).eps * projection.shape[1]
    tied = product.abs() <= noise * projection.norm(dim=1, keepdim=True) * energy.norm(dim=1, keepdim=True)
    largest = projection.gather(1, projection.abs().argmax(1, keepdim=True))
    return torch.where(torch.where(tied, largest, product) < 0, -1.0, 1.0).to(projection.dtype)
