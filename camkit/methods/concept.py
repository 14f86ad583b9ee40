"""Methods that find concepts: patterns that the images of a batch have in common, without asking for a class."""

from __future__ import annotations

import torch
from torch import Tensor

from camkit.errors import UsageError
from camkit.methods.needs import ConceptsNeed
from camkit.methods.options import Count, Seed
from camkit.methods.registry import Maps, method
from camkit.typing import Activations

SWEEPS = 200
"""At most so many sweeps over the components."""
TOLERANCE = 1e-4
"""Sweeps end when the projected gradients are smaller than in the first sweep by this factor."""


@method(
    "DFF",
    paper="Collins et al. 2018, min |A - H W|",
    formula="non-negative factors of the activations of all images",
    reduction=None,
    need=ConceptsNeed,
    family="concept",
    cost="2 + num_concepts tails",
    identifier="DeepFeatureFactorization",
)
def deep_feature_factorization(activations: Activations, *, num_concepts: Count = 4, seed: Seed = 0) -> Maps:
    """Factorise the activations of all images into a few concepts and a map of each.

    Shows what the images of a batch have in common, such as an object's parts; each concept is named by the class that
    the network gives to it. It ignores the targets, and other images in the batch change an image's maps.

        min ||A - H W||,  H >= 0,  W >= 0

    where row i of A holds the layer's activations of all channels at position i of all images, less each channel's
    minimum. Column c of H is the map of concept c, row c of W its activations by channel.

    Paper: Collins et al. 2018, "Deep Feature Factorization For Concept Discovery", min |A - H W|.

    Args:
        activations: (B, C, *S).
        num_concepts: number of concepts K.
        seed: seed of the factors to start from.

    Returns:
        Maps (K, B, *S), not negative, and the concepts (K, C).

    Raises:
        UsageError: more concepts than channels or positions.

    Example:
        >>> cam = camkit.DeepFeatureFactorization(model, ["features"], num_concepts=3)
        >>> cam(images).shape
        torch.Size([2, 3, 32, 32])
    """
    matrix = activations.transpose(0, 1).flatten(1)
    if num_concepts > min(matrix.shape):
        raise UsageError(
            f"num_concepts is {num_concepts}, and the layer has {matrix.shape[0]} channels and {matrix.shape[1]} "
            "places in all images"
        )
    offset = matrix.amin(1, keepdim=True)
    channels, places = factorise(matrix - offset, *start(matrix - offset, num_concepts, seed))
    maps = places.view(num_concepts, len(activations), *activations.shape[2:])
    return Maps(maps, concepts=(channels + offset).T)


def start(matrix: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw random factors (C, count) and (count, P), scaled so that their product has the mean of ``matrix`` (C, P)."""
    generator = torch.Generator().manual_seed(seed)
    size = (matrix.mean() / count).sqrt()
    shapes = (matrix.shape[0], count), (count, matrix.shape[1])
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64).abs().to(matrix) for shape in shapes]
    return size * drawn[0], size * drawn[1]


def factorise(matrix: Tensor, channels: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Find non-negative factors whose product is close to ``matrix``.

    Cyclic coordinate descent: each component in turn takes its best value while the others are held (Cichocki and Phan
    2009, HALS).

    Args:
        matrix: (C, P), not negative.
        channels: (C, K) to start from.
        places: (K, P) to start from.

    Returns:
        (C, K) and (K, P).
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
    """Update each column of ``factor`` (N, K) in place and return the sum of its projected gradients' sizes."""
    violation = factor.new_zeros(())
    for column in range(factor.shape[1]):
        gradient = factor @ gram[:, column] - product[:, column]
        own = factor[:, column]
        violation += torch.where(own == 0, gradient.clamp(max=0), gradient).abs().sum()
        if gram[column, column] > 0:
            own.copy_((own - gradient / gram[column, column]).clamp(min=0))
    return float(violation)
