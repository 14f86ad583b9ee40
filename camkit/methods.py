"""The methods: pure functions of a layer's activations and their gradient, and the two reductions over channels.

A method makes weights for the activations; a reduction makes one map of the weighted channels. Both work on any number
of spatial dimensions, on the gradients of several targets at once, and leave their arguments alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from camkit.errors import UsageError, closest
from camkit.shapes import Activations, Gradients, SignedMaps

GRADCAMPP_EPS = 1e-6
"""Keeps the denominator of Grad-CAM++'s alpha away from zero."""
SQUARINGS = 24
"""Tells eigenvalues apart that differ by a millionth, which is what float32 can tell."""
XGRADCAM_EPS = 1e-7
"""Keeps XGrad-CAM's sum of activations away from zero."""

Weights = Tensor | None
"""Weights by channel, (T, B, C, 1, ...), or by channel and place, (T, B, C, *S); None where all weigh the same."""
Weigh = Callable[[Activations, Gradients], Weights]
Reduction = Callable[[Activations, Weights], SignedMaps]


def channel_sum(activations: Activations, weights: Weights) -> SignedMaps:
    """Weighted sum over channels, (B, C, *S) and weights to (T, B, *S)."""
    if weights is None:
        return activations.sum(1)[None]
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
    weighted = activations[None] if weights is None else weights * activations
    rows = weighted.flatten(0, 1).flatten(2).transpose(1, 2)
    projection = _first_component(rows - rows.mean(1, keepdim=True))
    energy = torch.linalg.vector_norm(rows, dim=2).square()
    signed = projection * _sign(projection, energy - energy.mean(1, keepdim=True))
    return signed.reshape(*weighted.shape[:2], *weighted.shape[3:])


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
    return torch.nn.functional.normalize(column, dim=1).to(gram.dtype)


def _sign(projection: Tensor, energy: Tensor) -> Tensor:
    """+1 or -1 per image, (B, P) and (B, P) to (B, 1)."""
    product = (projection * energy).sum(1, keepdim=True)
    noise = torch.finfo(projection.dtype).eps * projection.shape[1]
    tied = product.abs() <= noise * projection.norm(dim=1, keepdim=True) * energy.norm(dim=1, keepdim=True)
    largest = projection.gather(1, projection.abs().argmax(1, keepdim=True))
    return torch.where(torch.where(tied, largest, product) < 0, -1.0, 1.0).to(projection.dtype)


@dataclass(frozen=True)
class Method:
    """A registered method.

    Attributes:
        name: as in its paper.
        weigh: activations (B, C, *S) and gradients (T, B, C, *S) of T targets to weights.
        reduction: activations and weights to signed maps (T, B, *S).
        weighting: what ``weigh`` does, in words.
        needs_gradients: whether a backward pass is needed.
        paper: authors, year and equation.
    """

    name: str
    weigh: Weigh
    reduction: Reduction
    weighting: str
    needs_gradients: bool
    paper: str

    def signed_maps(
        self, activations: Activations, gradients: Gradients, reduction: Reduction | None = None
    ) -> SignedMaps:
        """Signed maps (T, B, *S); ``reduction`` in place of the method's own."""
        return (reduction or self.reduction)(activations, self.weigh(activations, gradients))

    @property
    def identifier(self) -> str:
        """The name as Python can spell it: GradCAM++ is GradCAMPlusPlus."""
        return self.name.replace("+", "Plus")


METHODS: dict[str, Method] = {}
"""Every method there is, by name. The CLI, the tests, the benchmarks and the README's table read it."""


def method(
    name: str, *, paper: str, weighting: str, reduction: Reduction = channel_sum, needs_gradients: bool = True
) -> Callable[[Weigh], Weigh]:
    """Register a weighting as a method."""

    def register(weigh: Weigh) -> Weigh:
        METHODS[name] = Method(name, weigh, reduction, weighting, needs_gradients, paper)
        return weigh

    return register


def find_method(name: str | Method) -> Method:
    """The method called ``name`` in any case; ``GradCAMPlusPlus`` is an accepted spelling of ``GradCAM++``.

    Raises:
        UsageError: there is no such method.
    """
    if isinstance(name, Method):
        return name
    spellings = {spelling.lower(): known for known in METHODS.values() for spelling in (known.name, known.identifier)}
    if not isinstance(name, str) or name.lower() not in spellings:
        offered = closest(name, METHODS) if isinstance(name, str) else ""
        raise UsageError(f"no method {name!r}{offered}; there are: {', '.join(METHODS)}")
    return spellings[name.lower()]


def over_space(tensor: Tensor) -> tuple[int, ...]:
    """The spatial dimensions of a (T, B, C, *S) tensor."""
    return tuple(range(3, tensor.ndim))


@method("GradCAM", paper="Selvaraju et al. 2017, eq. 1-2", weighting="mean over space of G, per channel")
def gradcam(activations: Activations, gradients: Gradients) -> Weights:
    """Weight every channel by the mean of its gradient."""
    return gradients.mean(over_space(gradients), keepdim=True)


@method(
    "GradCAM++",
    paper="Chattopadhay et al. 2018, eq. 7 and 19",
    weighting="sum over space of relu(G) alpha, per channel",
)
def gradcampp(activations: Activations, gradients: Gradients) -> Weights:
    """Weight every channel by its positive gradients, each with its alpha = G^2 / (2 G^2 + sum(A) G^3)."""
    space = over_space(gradients)
    positive = gradients.relu()
    square = positive.square()
    totals = activations[None].sum(space, keepdim=True)
    denominator = 2 * square + totals * square * positive + GRADCAMPP_EPS
    # A position without a positive gradient weighs nothing, so alpha is needed nowhere else.
    weights = torch.where(gradients <= 0, 0, positive * square / denominator)
    return weights.sum(space, keepdim=True)


@method("XGradCAM", paper="Fu et al. 2020, eq. 8", weighting="sum over space of G A / sum(A), per channel")
def xgradcam(activations: Activations, gradients: Gradients) -> Weights:
    """Weight every channel by its gradient averaged with the activations as weights."""
    space = over_space(gradients)
    share = activations[None] / (activations[None].sum(space, keepdim=True) + XGRADCAM_EPS)
    return (gradients * share).sum(space, keepdim=True)


@method(
    "EigenCAM",
    paper="Muhammad and Yeasin 2020, O V_1",
    weighting="none",
    reduction=principal_component,
    needs_gradients=False,
)
def eigencam(activations: Activations, gradients: Gradients) -> Weights:
    """Leave the activations as they are: the principal component says what dominates them."""
    return None


@method(
    "EigenGradCAM",
    paper="Muhammad and Yeasin 2020, O V_1 of G A",
    weighting="G, elementwise",
    reduction=principal_component,
)
def eigengradcam(activations: Activations, gradients: Gradients) -> Weights:
    """Weight every position by its own gradient."""
    return gradients


@method("LayerCAM", paper="Jiang et al. 2021, eq. 5", weighting="relu(G), elementwise")
def layercam(activations: Activations, gradients: Gradients) -> Weights:
    """Weight every position by its own positive gradient."""
    return gradients.relu()
