"""Methods that perturb images or activations, and look at what becomes of the score."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from camkit.maps import resize
from camkit.methods.options import Count, NotNegative, OptionalCount, Seed
from camkit.methods.reductions import channel_sum
from camkit.methods.registry import Weights, method
from camkit.methods.requests import AblatedScore, AblatedScores, MaskedScore, MaskedScores
from camkit.shapes import Activations

MASK_EPS = 1e-8
"""Added to what a channel is divided by, its range."""

perturbing = partial(method, family="perturbation", reduction=channel_sum)
masking = partial(perturbing, request=MaskedScores)


@masking(
    "ScoreCAM",
    paper="Wang et al. 2020, eq. 5-10",
    weighting="softmax over channels of the score behind A",
    cost="1 + C",
)
def scorecam(activations: Activations, score: MaskedScore, *, top_k: OptionalCount = None) -> Weights:
    """Weight every channel by what the image scores where the channel is active.

    Args:
        activations: (B, C, *S).
        score: of the masked images.
        top_k: only the channels that vary the most over space, as many of every image; None for all.
    """
    channels = most_varied(activations, top_k)
    masks = _masks(activations, score.size)
    return _softmax(activations, channels, score(masks, channels))


@masking(
    "SS-CAM",
    paper="Wang et al. 2020, SS-CAM, algorithm 2",
    weighting="softmax over channels of the mean score behind A with noise",
    cost="1 + num_samples C",
)
def sscam(
    activations: Activations,
    score: MaskedScore,
    *,
    num_samples: Count = 35,
    std: NotNegative = 2.0,
    seed: Seed = 0,
    top_k: OptionalCount = None,
) -> Weights:
    """Weight as Score-CAM does, with noise added to the normalised masks; all channels get the same noise.

    Args:
        activations: (B, C, *S).
        score: of the masked images.
        num_samples: how many times noise is added.
        std: of the noise; masks go from 0 to 1.
        seed: of the noise.
        top_k: see :func:`scorecam`.
    """
    channels = most_varied(activations, top_k)
    generator = torch.Generator().manual_seed(seed)
    noise = std * torch.randn(num_samples, *score.size, generator=generator).to(activations)
    plain = _masks(activations, score.size)

    def masks(images: Tensor, items: Tensor) -> Tensor:
        return plain(images, items // num_samples) + noise[items % num_samples]

    return _softmax(activations, channels, _mean_of(score, masks, channels, num_samples))


@masking(
    "IS-CAM",
    paper="Naidu et al. 2020, M_i",
    weighting="softmax over channels of the mean score behind growing parts of A",
    cost="1 + num_samples C",
)
def iscam(
    activations: Activations, score: MaskedScore, *, num_samples: Count = 10, top_k: OptionalCount = None
) -> Weights:
    """Weight as Score-CAM does, with masks that grow: the i-th is sum_{j < i} j / num_samples times the channel.

    Args:
        activations: (B, C, *S).
        score: of the masked images.
        num_samples: how many steps there are.
        top_k: see :func:`scorecam`.
    """
    channels = most_varied(activations, top_k)
    steps = torch.arange(num_samples, device=activations.device, dtype=activations.dtype)
    factors = (steps / num_samples).cumsum(0)
    plain = _masks(activations, score.size)

    def masks(images: Tensor, items: Tensor) -> Tensor:
        factor = factors[items % num_samples].view(-1, *[1] * len(score.size))
        return factor * plain(images, items // num_samples)

    return _softmax(activations, channels, _mean_of(score, masks, channels, num_samples))


@perturbing(
    "AblationCAM",
    paper="Desai and Ramaswamy 2020, eq. 3-4",
    weighting="(y - y without the channel) / |y|, per channel",
    request=AblatedScores,
    cost="2 + C tails",
)
def ablationcam(activations: Activations, score: AblatedScore, *, top_k: OptionalCount = None) -> Weights:
    """Weight every channel by the share of the score that is lost without it.

    The size of y divides, not y, as the paper has it: below zero y would turn the map over.

    Args:
        activations: (B, C, *S).
        score: of the activations without a channel.
        top_k: only the channels with the largest activations (by their L2 norm), as many of every image; others weigh
            nothing. None for all.
    """
    channels = _largest(torch.linalg.vector_norm(activations.flatten(2), dim=2), top_k)
    scores = score.scores[:, :, None]
    size = scores.abs().clamp(min=torch.finfo(scores.dtype).tiny)
    return _spread(activations, channels, (scores - score(channels)) / size)


def most_varied(activations: Activations, top_k: int | None) -> Tensor:
    """The channels that vary the most over space, (B, N) of integers in rising order."""
    return _largest(activations.flatten(2).std(2), top_k)


def _largest(sizes: Tensor, top_k: int | None) -> Tensor:
    """Indices of the ``top_k`` largest of (B, C), (B, N) in rising order."""
    count = sizes.shape[1]
    if top_k is None or top_k >= count:
        return torch.arange(count, device=sizes.device).expand(len(sizes), -1)
    return sizes.topk(top_k, dim=1).indices.sort(1).values


def _masks(activations: Activations, size: tuple[int, ...]) -> Callable[[Tensor, Tensor], Tensor]:
    """Images and channels to masks in [0, 1]: the channel at the input's size, then from its minimum to its maximum."""

    def masks(images: Tensor, channels: Tensor) -> Tensor:
        large = resize(activations[images, channels], size)
        flat = large.flatten(1)
        low, high = (each.view(-1, *[1] * len(size)) for each in (flat.amin(1), flat.amax(1)))
        # What is the same everywhere differs by rounding when it is resized, and masks everything all the same.
        rounding = 8 * torch.finfo(large.dtype).eps * torch.maximum(low.abs(), high.abs())
        return (large - low) / torch.where(high - low > rounding, high - low + MASK_EPS, math.inf)

    return masks


def _mean_of(
    score: MaskedScore, masks: Callable[[Tensor, Tensor], Tensor], channels: Tensor, num_samples: int
) -> Tensor:
    """Mean scores (T, B, N) over samples; the item of a channel's i-th sample is channel * num_samples + i."""
    samples = torch.arange(num_samples, device=channels.device)
    items = channels[:, :, None] * num_samples + samples
    return torch.unflatten(score(masks, items.flatten(1), num_samples), 2, (-1, num_samples)).mean(3)


def _softmax(activations: Activations, channels: Tensor, scores: Tensor) -> Tensor:
    return _spread(activations, channels, scores.softmax(2))


def _spread(activations: Activations, channels: Tensor, weights: Tensor) -> Tensor:
    """Weights (T, B, N) of some channels as weights (T, B, C, 1, ...) of all; the others weigh nothing."""
    made = weights.new_zeros(*weights.shape[:2], activations.shape[1])
    made.scatter_(2, channels.expand(len(weights), -1, -1), weights)
    return made.to(activations.dtype).view(*made.shape, *[1] * (activations.ndim - 2))
