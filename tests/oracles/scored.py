"""Maps whose weights are scores of changed inputs or activations: one image, one score at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from tests.oracles.channels import Array, combined, resize

Score = Callable[[Array], float]


def softmax(values: Sequence[float]) -> list[float]:
    top = max(values)
    powers = [math.exp(value - top) for value in values]
    total = math.fsum(powers)
    return [power / total for power in powers]


def masks(a: Array, size: tuple[int, ...]) -> list[Array]:
    """Every channel resized to the input, then scaled to [0, 1]."""
    made = []
    for channel in a:
        large = resize(channel, size)
        made.append((large - large.min()) / (large.max() - large.min() + 1e-8))
    return made


def softmax_map(
    a: Array, scores: Callable[[Array], list[float]], image: Array, channels: Sequence[int] | None
) -> Array:
    """Channels weighed by the softmax of the mean of what ``scores`` says of their masks; channels left out by 0."""
    asked = list(range(a.shape[0]) if channels is None else channels)
    made = masks(a, image.shape[1:])
    means = [math.fsum(found) / len(found) for found in (scores(made[c]) for c in asked)]
    weights = np.zeros(a.shape[0])
    for c, weight in zip(asked, softmax(means), strict=True):
        weights[c] = weight
    return combined(a, weights)


def scorecam(a: Array, image: Array, score: Score, channels: Sequence[int] | None = None) -> Array:
    """Score-CAM. The baseline's score, which the paper takes off every channel's, drops out of the softmax."""
    return softmax_map(a, lambda mask: [score(mask * image)], image, channels)


def sscam(a: Array, image: Array, score: Score, noise: Array, channels: Sequence[int] | None = None) -> Array:
    """SS-CAM, noise on the masks: (samples, H, W), the same for every channel."""
    return softmax_map(a, lambda mask: [score((mask + sample) * image) for sample in noise], image, channels)


def path(samples: int) -> list[float]:
    """IS-CAM's coefficients in its author's code: even steps from next to nothing to the whole mask."""
    return [i / samples for i in range(1, samples + 1)]


def printed_path(samples: int) -> list[float]:
    """IS-CAM's coefficients as the paper prints them: the i-th is the sum over j < i of j / samples."""
    return [math.fsum(j / samples for j in range(i)) for i in range(1, samples + 1)]


def iscam(
    a: Array, image: Array, score: Score, coefficients: Sequence[float], channels: Sequence[int] | None = None
) -> Array:
    """IS-CAM: the masked image at every coefficient."""
    return softmax_map(a, lambda mask: [score(c * mask * image) for c in coefficients], image, channels)


def ablationcam(a: Array, score: Score, channels: Sequence[int] | None = None) -> Array:
    """Ablation-CAM: how much of the score goes with each channel; ``score`` takes activations."""
    before = score(a)
    weights = np.zeros(a.shape[0])
    for c in range(a.shape[0]) if channels is None else channels:
        without = a.copy()
        without[c] = 0
        # The paper divides by the score itself: with a negative one the map would show what speaks against the class.
        weights[c] = (before - score(without)) / abs(before)
    return combined(a, weights)
