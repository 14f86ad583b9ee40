"""Methods that perturb images or activations and measure how the score changes; they need no gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from camkit.methods.maps import resize
from camkit.methods.needs import AblatedScore, AblatedScoresNeed, MaskedScore, MaskedScoresNeed
from camkit.methods.options import Count, NotNegative, OptionalCount, Seed
from camkit.methods.reductions import channel_sum
from camkit.methods.registry import Weights, method
from camkit.typing import Activations

MASK_EPS = 1e-8
"""Added to a channel's range when it is scaled to [0, 1]."""

perturbing = partial(method, family="perturbation", reduction=channel_sum)
masking = partial(perturbing, need=MaskedScoresNeed)


@masking(
    "ScoreCAM",
    paper="Wang et al. 2020, eq. 5-10",
    formula="softmax over channels of the score behind A",
    cost="1 + C",
)
def scorecam(activations: Activations, score: MaskedScore, *, top_k: OptionalCount = None) -> Weights:
    """Weight each channel by the score of the image masked with that channel.

    Free of gradients and their saturation, and class-specific. Needs a forward per channel, and the softmax over
    channels gives nearly all weight to a few when scores are large.

        map = sum_k w_k A_k,  w_k = softmax_k y(X * M_k)

    where X is the image, y the class score, and M_k channel k of the layer's activations A, resized to the image and
    scaled to [0, 1].

    Paper: Wang et al. 2020, "Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural Networks",
    eq. 5-10.

    Args:
        activations: (B, C, *S).
        score: scores masked images.
        top_k: use only this many channels of each image, those that vary most over space; the others weigh nothing.
            None uses all.

    Example:
        >>> cam = camkit.ScoreCAM(model, ["features"], top_k=4)
        >>> cam(images, 3).shape
        torch.Size([2, 32, 32])
    """
    channels = most_varied(activations, top_k)
    masks = _masks(activations, score.size)
    return _softmax(activations, channels, score(masks, channels))


@masking(
    "SS-CAM",
    paper="Wang et al. 2020, SS-CAM, algorithm 2",
    formula="softmax over channels of the mean score behind A with noise",
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
    """Weight each channel as Score-CAM does, with scores averaged over noisy masks.

    Sharper and more stable than Score-CAM by its authors' account, and ``num_samples`` times slower.

        map = sum_k w_k A_k,  w_k = softmax_k mean_n y(X * (M_k + e_n))

    where X is the image, y the class score, M_k channel k of the layer's activations A, resized to the image and
    scaled to [0, 1], and e_n normal noise, the same for all channels.

    Paper: Wang et al. 2020, "SS-CAM: Smoothed Score-CAM for Sharper Visual Feature Localization", algorithm 2.

    Args:
        activations: (B, C, *S).
        score: scores masked images.
        num_samples: number of noisy copies of each mask.
        std: standard deviation of the noise; masks range from 0 to 1.
        seed: seed of the noise.
        top_k: use only this many channels of each image, those that vary most over space; the others weigh nothing.
            None uses all.

    Example:
        >>> cam = camkit.SSCAM(model, ["features"], num_samples=2, top_k=4)
        >>> cam(images, 3).shape
        torch.Size([2, 32, 32])
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
    formula="softmax over channels of the mean score behind growing parts of A",
    cost="1 + num_samples C",
)
def iscam(
    activations: Activations, score: MaskedScore, *, num_samples: Count = 10, top_k: OptionalCount = None
) -> Weights:
    """Weight each channel as Score-CAM does, with scores averaged over growing masks.

    Averages along a path from a black image, as Integrated Gradients does, and is ``num_samples`` times slower than
    Score-CAM. As printed, later masks exceed 1 and brighten the image.

        map = sum_k w_k A_k,  w_k = softmax_k mean_i y(X * s_i M_k),  s_i = sum_{j < i} j / N

    where X is the image, y the class score, M_k channel k of the layer's activations A, resized to the image and
    scaled to [0, 1], and i = 1 ... N with N = ``num_samples``.

    Paper: Naidu et al. 2020, "IS-CAM: Integrated Score-CAM for axiomatic-based explanations", M_i.

    Args:
        activations: (B, C, *S).
        score: scores masked images.
        num_samples: number of steps N.
        top_k: use only this many channels of each image, those that vary most over space; the others weigh nothing.
            None uses all.

    Example:
        >>> cam = camkit.ISCAM(model, ["features"], num_samples=3, top_k=4)
        >>> cam(images, 3).shape
        torch.Size([2, 32, 32])
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
    formula="(y - y without the channel) / |y|, per channel",
    need=AblatedScoresNeed,
    cost="2 + C tails",
)
def ablationcam(activations: Activations, score: AblatedScore, *, top_k: OptionalCount = None) -> Weights:
    """Weight each channel by the share of the score that is lost when the channel is set to zero.

    Measures what each channel does instead of estimating it by a gradient. Only the part of the network behind the
    layer runs once per channel; activations with a channel missing may be unlike any that the network was trained on.

        map = sum_k w_k A_k,  w_k = (y - y_k) / |y|

    where A_k is channel k of the layer's activations, y the class score and y_k the score without channel k. The paper
    divides by y, which turns the map over where the score is negative.

    Paper: Desai and Ramaswamy 2020, "Ablation-CAM: Visual Explanations for Deep Convolutional Network via Gradient-free
    Localization", eq. 3-4.

    Args:
        activations: (B, C, *S).
        score: scores images without a channel.
        top_k: use only this many channels of each image, those with the largest L2 norm; the others weigh nothing. None
            uses all.

    Example:
        >>> cam = camkit.AblationCAM(model, ["features"], top_k=4)
        >>> cam(images, 3).shape
        torch.Size([2, 32, 32])
    """
    return lost_shares(activations, score, _largest(torch.linalg.vector_norm(activations.flatten(2), dim=2), top_k))


def lost_shares(activations: Activations, score: AblatedScore, channels: Tensor) -> Tensor:
    """The share of the score that is lost with each of some channels, the weights of AblationCAM.

    Args:
        activations: (B, C, *S).
        score: scores images without a channel.
        channels: (B, N); the others weigh nothing.

    Returns:
        (T, B, C, 1, ...).
    """
    scores = score.scores[:, :, None]
    size = scores.abs().clamp(min=torch.finfo(scores.dtype).tiny)
    return _spread(activations, channels, (scores - score(channels)) / size)


def most_varied(activations: Activations, top_k: int | None) -> Tensor:
    """Indices of the channels with the largest standard deviation over space, (B, N), ascending."""
    return _largest(activations.flatten(2).std(2), top_k)


def _largest(sizes: Tensor, top_k: int | None) -> Tensor:
    """Indices of the ``top_k`` largest of (B, C), (B, N), ascending."""
    count = sizes.shape[1]
    if top_k is None or top_k >= count:
        return torch.arange(count, device=sizes.device).expand(len(sizes), -1)
    return sizes.topk(top_k, dim=1).indices.sort(1).values


def _masks(activations: Activations, size: tuple[int, ...]) -> Callable[[Tensor, Tensor], Tensor]:
    """Make a function from image and channel indices to masks: the channel, resized to the image, scaled to [0, 1]."""

    def masks(images: Tensor, channels: Tensor) -> Tensor:
        large = resize(activations[images, channels], size)
        flat = large.flatten(1)
        low, high = (each.view(-1, *[1] * len(size)) for each in (flat.amin(1), flat.amax(1)))
        # Resizing a constant channel leaves differences of rounding, which must not be scaled up: its mask is zero.
        rounding = 8 * torch.finfo(large.dtype).eps * torch.maximum(low.abs(), high.abs())
        return (large - low) / torch.where(high - low > rounding, high - low + MASK_EPS, math.inf)

    return masks


def _mean_of(
    score: MaskedScore, masks: Callable[[Tensor, Tensor], Tensor], channels: Tensor, num_samples: int
) -> Tensor:
    """Mean scores over samples, (T, B, N); the i-th sample of a channel is item ``channel * num_samples + i``."""
    samples = torch.arange(num_samples, device=channels.device)
    items = channels[:, :, None] * num_samples + samples
    return torch.unflatten(score(masks, items.flatten(1), num_samples), 2, (-1, num_samples)).mean(3)


def _softmax(activations: Activations, channels: Tensor, scores: Tensor) -> Tensor:
    return _spread(activations, channels, scores.softmax(2))


def _spread(activations: Activations, channels: Tensor, weights: Tensor) -> Tensor:
    """Scatter weights (T, B, N) of some channels into (T, B, C, 1, ...), zero elsewhere."""
    made = weights.new_zeros(*weights.shape[:2], activations.shape[1])
    made.scatter_(2, channels.expand(len(weights), -1, -1), weights)
    return made.to(activations.dtype).view(*made.shape, *[1] * (activations.ndim - 2))
