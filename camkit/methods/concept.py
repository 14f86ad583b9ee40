"""Deep feature factorisation: what the images of a batch have in common, without asking for a class."""

from __future__ import annotations

import torch
from torch import Tensor

from camkit.errors import UsageError
from camkit.methods.options import Count, Seed
from camkit.methods.registry import method
from camkit.methods.requests import Concepts
from camkit.shapes import Activations

SWEEPS = 200
TOLERANCE = 1e-4
"""Sweeps end when the projected gradients are this much smaller than in the first one."""


@method(
    "DFF",
    paper="Collins et al. 2018, min |A - H W|",
    weighting="non-negative factors of the activations of all images",
    reduction=None,
    request=Concepts,
    family="concept",
    cost="2 + num_concepts tails",
    identifier="DeepFeatureFactorization",
)
def deep_feature_factorization(
    activations: Activations, *, num_concepts: Count = 4, seed: Seed = 0
) -> tuple[Tensor, Tensor]:
    """Factorise channels by places, of all images together, into concepts and where they are.

    Args:
        activations: (B, C, *S); each channel's minimum is taken off first, so that nothing is negative.
        num_concepts: how many, K.
        seed: of the start.

    Returns:
        Where each concept is, (K, B, *S), not negative, and the concepts as channels (K, C).

    Raises:
        UsageError: more concepts than channels or places.
    """
    matrix = activations.transpose(0, 1).flatten(1)
    if num_concepts > min(matrix.shape):
        raise UsageError(
            f"num_concepts is {num_concepts}, and the layer has {matrix.shape[0]} channels and {matrix.shape[1]} "
            "places in all images"
        )
    offset = matrix.amin(1, keepdim=True)
    channels, places = factorise(matrix - offset, *start(matrix - offset, num_concepts, seed))
    return places.view(num_concepts, len(activations), *activations.shape[2:]), (channels + offset).T


def start(matrix: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random factors (C, count) and (count, P) of the size that the mean of ``matrix`` (C, P) asks for."""
    generator = torch.Generator().manual_seed(seed)
    size = (matrix.mean() / count).sqrt()
    shapes = (matrix.shape[0], count), (count, matrix.shape[1])
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64).abs().to(matrix) for shape in shapes]
    return size * drawn[0], size * drawn[1]


def factorise(matrix: Tensor, channels: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Factors whose product is close to ``matrix``, neither of them negative, by cyclic coordinate descent.

    One component after the other takes its best value while the others are held (Cichocki and Phan 2009, HALS), in at
    most :data:`SWEEPS` sweeps.

    Args:
        matrix: (C, P), not negative.
        channels: (C, K) to start from.
        places: (K, P) to start from.
    """
    left, right = channels.clone(), places.T.clone()
    first = None
    for _ in range(SWEEPS):
        violation = _sweep(left, right.T @ right, matrix @ right) + _sweep(right, left.T @ left, matrix.T @ left)
        first = violation if first is None else first
        if violation <= TOLERANCE * first:
            break
    return left, right.T


def _sweep(factor: Tensor, gram: Tensor, product: Tensor) -> float:
    """Update every column of ``factor`` (N, K) in place; how far it was from the best, in projected gradients."""
    violation = factor.new_zeros(())
    for column in range(factor.shape[1]):
        gradient = factor @ gram[:, column] - product[:, column]
        own = factor[:, column]
        violation += torch.where(own == 0, gradient.clamp(max=0), gradient).abs().sum()
        if gram[column, column] > 0:
            own.copy_((own - gradient / gram[column, column]).clamp(min=0))
    return float(violation)
