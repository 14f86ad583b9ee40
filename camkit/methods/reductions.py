"""From weighted channels to one signed map."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional

from camkit.methods.options import OptionalPositive, one_of
from camkit.methods.registry import Weighted, Weights
from camkit.shapes import Activations, SignedMaps

Kernel = Annotated[str, one_of("sigmoid", "rbf", "poly", "linear", "cosine")]
SQUARINGS = 24
"""Tells eigenvalues apart that differ by a millionth, which is what float32 can tell."""


def channel_sum(activations: Activations, weights: Weights) -> SignedMaps:
    """Weighted sum over channels, (B, C, *S) and weights to (T, B, *S)."""
    if weights is None:
        return activations.sum(1)[None]
    if isinstance(weights, Weighted):
        return weights.channels.sum(2)
    # On a GPU products may be set to ten bits, sums are not.
    if weights.shape[3:].numel() > 1 or weights.is_cuda:
        return (weights * activations).sum(2)
    # A matrix product per image: the weighted activations, as many as gradients, are never made.
    sums = weights.flatten(2).transpose(0, 1) @ activations.flatten(2)
    return sums.transpose(0, 1).reshape(*weights.shape[:2], *activations.shape[2:])


def principal_component(activations: Activations, weights: Weights) -> SignedMaps:
    """Project every position on the first principal component of an image's positions, to (T, B, *S).

    Rows are positions, columns are weighted channels, each column centred; the projection is on the first right
    singular vector (Muhammad and Yeasin 2020, O V_1). Its sign is defined: the inner product with the squared L2 norm
    of each position's uncentred channel vector is not negative, so that hot is where the layer has energy; where that
    product vanishes, the entry of largest magnitude is positive. An image with NaN or infinity gets a map of NaN.
    """
    rows, shape = _rows(activations, weights)
    projection = _first_component(rows - rows.mean(1, keepdim=True))
    return (projection * _energy_sign(projection, rows)).reshape(shape)


def extremes_component(activations: Activations, weights: Weights) -> SignedMaps:
    """Like :func:`principal_component`, but its largest entry by size is positive (Chung and Ying 2025, eq. 13)."""
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
        kernel: one of :data:`KERNELS`.
        gamma: of the kernel; None is 1 / C.
    """
    rows, shape = _rows(activations, weights)
    centred = rows.double()
    centred = centred - centred.mean(1, keepdim=True)
    similarity = KERNELS[kernel](centred, 1 / centred.shape[2] if gamma is None else gamma)
    rounding = torch.finfo(similarity.dtype).eps * similarity.shape[1] * similarity.abs().amax((1, 2))[:, None]
    similarity = similarity - similarity.mean(1, keepdim=True) - similarity.mean(2, keepdim=True)
    similarity = similarity - similarity.mean((1, 2), keepdim=True)  # which the two steps before left at minus the mean
    finite = similarity.isfinite().all(2).all(1)
    values, vectors = torch.linalg.eigh(torch.where(finite[:, None, None], similarity, 0))
    leading = torch.where(values[:, -1:] > rounding, values[:, -1:], 0)
    projection = vectors[:, :, -1] * leading.sqrt()
    projection = torch.where(finite[:, None], projection, math.nan).to(rows.dtype)
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
"""(B, P, C) and gamma to (B, P, P): tanh(gamma x y + 1), exp(-gamma |x - y|^2), (gamma x y + 1)^3, x y, cos(x, y)."""


def _rows(activations: Activations, weights: Weights) -> tuple[Tensor, tuple[int, ...]]:
    """Weighted channels by position, (T * B, P, C), and the shape of the maps, (T, B, *S)."""
    if isinstance(weights, Weighted):
        weighted = weights.channels
    else:
        weighted = activations[None] if weights is None else weights * activations
    return weighted.flatten(0, 1).flatten(2).transpose(1, 2), (*weighted.shape[:2], *weighted.shape[3:])


def _first_component(rows: Tensor) -> Tensor:
    """Left singular vector times singular value of the largest singular value, (B, P, C) to (B, P).

    The smaller of the two Gram matrices has the same leading vector as the SVD, and an error of the same order for
    that vector: squaring the singular values also doubles the relative gap to the second.
    """
    wide = rows.shape[1] <= rows.shape[2]
    # The scale keeps tiny gradients from underflowing when they are squared.
    scale = torch.maximum(rows.amax((1, 2), keepdim=True), -rows.amin((1, 2), keepdim=True))
    scaled = rows / torch.where(scale > 0, scale, 1)
    if rows.is_cuda:  # where products in float32 may be set to ten bits
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
    # An eigendecomposition on an accelerator waits for it, to look whether it converged.
    return leading_by_squaring(gram) if gram.is_cuda else torch.linalg.eigh(gram).eigenvectors[:, :, -1]


def leading_by_squaring(gram: Tensor) -> Tensor:
    """What :func:`leading_eigenvector` says, without waiting for the device.

    Power iteration on a matrix that is squared again and again: after :data:`SQUARINGS` of them what belongs to the
    other eigenvalues is gone, and every column is the eigenvector times a number. In float64, as errors add up.
    """
    power = gram.double()
    for _ in range(SQUARINGS):
        size = power.diagonal(dim1=1, dim2=2).amax(1)[:, None, None]  # no entry is larger
        power = power / torch.where(size > 0, size, 1)
        power = power @ power
    largest = power.diagonal(dim1=1, dim2=2).argmax(1)
    column = power.gather(2, largest[:, None, None].expand(-1, power.shape[1], 1)).squeeze(2)
    return functional.normalize(column, dim=1).to(gram.dtype)


def _energy_sign(projection: Tensor, rows: Tensor) -> Tensor:
    """+1 or -1 per image, (B, P) and (B, P, C) to (B, 1)."""
    energy = torch.linalg.vector_norm(rows, dim=2).square()
    energy = energy - energy.mean(1, keepdim=True)
    product = (projection * energy).sum(1, keepdim=True)
    noise = torch.finfo(projection.dtype).eps * projection.shape[1]
    tied = product.abs() <= noise * projection.norm(dim=1, keepdim=True) * energy.norm(dim=1, keepdim=True)
    largest = projection.gather(1, projection.abs().argmax(1, keepdim=True))
    return torch.where(torch.where(tied, largest, product) < 0, -1.0, 1.0).to(projection.dtype)
