"""Methods of scores of masked images and ablated activations, against their slow oracles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from camkit.methods import METHODS
from camkit.methods.needs import AblatedScore, MaskedScore
from camkit.methods.perturbation import most_varied
from tests import oracles
from tests.methods.helpers import BATCH, CHANNELS, TARGETS, close, double, each_space, random, signed
from tests.oracles import Array

each_top = pytest.mark.parametrize("top_k", [None, 1, 3, 5, 9])


def chosen(sizes: Array, top_k: int | None) -> list[int]:
    """The largest, in rising order of their numbers."""
    order = sorted(range(len(sizes)), key=lambda each: -sizes[each])
    return sorted(order[:top_k])


class Masks:
    """Scores of masked images by a made-up network: neither linear, nor the same for every image or target."""

    def __init__(self, size: tuple[int, ...]) -> None:
        self.size = size
        self.images = random(BATCH, 3, *size)
        self.weights = random(TARGETS, 3, *size, seed=1)
        self.asked = 0

    def score(self, image: Array, target: int) -> float:
        total = float((self.weights[target].numpy() * image).sum())
        return float(np.sin(total) + 0.1 * total + 0.05 * np.square(image).sum() * (1 - target))

    def __call__(self, mask: Callable[[Tensor, Tensor], Tensor], items: Tensor, samples: int = 1) -> Tensor:
        """Images in turns, two items at a time."""
        made = torch.zeros(TARGETS, *items.shape, dtype=torch.float64)
        for first in range(0, items.shape[1], 2):
            part = items[:, first : first + 2]
            for image in range(BATCH):
                masks = mask(torch.full((part.shape[1],), image), part[image])
                assert masks.shape == (part.shape[1], *self.size)
                for number, each in enumerate(masks):
                    shown = (self.images[image] * each).numpy()
                    made[:, image, first + number] = double([self.score(shown, t) for t in range(TARGETS)])
        self.asked += items.numel()
        return made


def scored(method: str, a: Tensor, masks: Masks, **options: Any) -> Tensor:
    assert isinstance(masks, MaskedScore)
    return signed(method, a, masks, **options)


def slowly(a: Tensor, masks: Masks, oracle: Callable[..., Array], top_k: int | None) -> Array:
    """``oracle`` of a channel image's activations, the image, its score and its channels: (T, B, *S)."""
    return np.stack(
        [
            np.stack(
                [
                    oracle(each, image, lambda x, t=target: masks.score(x, t), chosen(each.std(tuple(axes)), top_k))
                    for each, image in zip(a.numpy(), masks.images.numpy(), strict=True)
                    for axes in [range(1, each.ndim)]
                ]
            )
            for target in range(TARGETS)
        ]
    )


@each_space
@each_top
def test_scorecam(spatial: tuple[int, ...], size: tuple[int, ...], top_k: int | None) -> None:
    a, masks = random(BATCH, CHANNELS, *spatial, seed=2), Masks(size)
    close(scored("ScoreCAM", a, masks, top_k=top_k), slowly(a, masks, oracles.scorecam, top_k))
    assert masks.asked == BATCH * min(top_k or CHANNELS, CHANNELS)


def noise_of(samples: int, size: tuple[int, ...], std: float, seed: int) -> Array:
    """One field per sample, which all channels and images share."""
    generator = torch.Generator().manual_seed(seed)
    return (std * torch.randn(samples, *size, generator=generator).double()).numpy()


@each_space
@pytest.mark.parametrize(
    ("options", "top_k"), [({"num_samples": 4, "std": 0.7, "seed": 5}, None), ({"num_samples": 2}, 3)]
)
def test_sscam(spatial: tuple[int, ...], size: tuple[int, ...], options: Any, top_k: int | None) -> None:
    a, masks = random(BATCH, CHANNELS, *spatial, seed=2), Masks(size)
    noise = noise_of(options["num_samples"], size, options.get("std", 2.0), options.get("seed", 0))
    expected = slowly(a, masks, lambda a, x, score, channels: oracles.sscam(a, x, score, noise, channels), top_k)
    close(scored("SS-CAM", a, masks, top_k=top_k, **options), expected)


def test_sscam_by_default() -> None:
    """35 samples, noise of twice the mask's range."""
    a, masks = random(BATCH, CHANNELS, 3, 4, seed=2), Masks((3, 4))
    noise = noise_of(35, (3, 4), 2.0, 0)
    close(
        scored("SS-CAM", a, masks),
        slowly(a, masks, lambda a, x, score, channels: oracles.sscam(a, x, score, noise), None),
    )


@pytest.mark.parametrize("samples", [1, 3])
def test_sscam_without_noise_is_scorecam(samples: int) -> None:
    a, masks = random(BATCH, CHANNELS, 3, 4, seed=2), Masks((7, 6))
    assert_close(scored("SS-CAM", a, masks, std=0.0, num_samples=samples), scored("ScoreCAM", a, masks))


@each_space
@pytest.mark.parametrize(("samples", "top_k"), [(10, None), (3, 2), (1, None)])
def test_iscam(spatial: tuple[int, ...], size: tuple[int, ...], samples: int, top_k: int | None) -> None:
    a, masks = random(BATCH, CHANNELS, *spatial, seed=2), Masks(size)
    steps = oracles.printed_path(samples)
    assert steps == pytest.approx([i * (i - 1) / 2 / samples for i in range(1, samples + 1)])
    expected = slowly(a, masks, lambda a, x, score, channels: oracles.iscam(a, x, score, steps, channels), top_k)
    close(scored("IS-CAM", a, masks, num_samples=samples, top_k=top_k), expected)


def test_iscam_by_default() -> None:
    a, masks = random(BATCH, CHANNELS, 3, 4, seed=2), Masks((3, 4))
    assert_close(scored("IS-CAM", a, masks), scored("IS-CAM", a, masks, num_samples=10))


@pytest.mark.parametrize("method", ["ScoreCAM", "SS-CAM", "IS-CAM"])
def test_the_channels_that_vary_the_most_are_each_images_own(method: str) -> None:
    """An image's map is what it is alone; others' channels don't enter."""
    a, masks = random(BATCH, CHANNELS, 3, 4, seed=2), Masks((3, 4))
    channels = most_varied(a, 2)
    assert channels.tolist() == [chosen(each, 2) for each in a.numpy().std((2, 3))]
    assert len({tuple(row) for row in channels.tolist()}) > 1
    changed = a.clone()
    others = torch.tensor(sorted({0, 1, 2, 3, 4} - set(channels[0].tolist())))
    changed[0, others] *= 0.1
    made = scored(method, a, masks, top_k=2)
    assert_close(scored(method, changed, masks, top_k=2), made)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", ["ScoreCAM", "SS-CAM", "IS-CAM"])
def test_channels_that_are_the_same_everywhere_mask_everything(method: str, dtype: torch.dtype) -> None:
    """Their mask is 0, as one of zeros is: not NaN, nor what is left of rounding when they are resized."""
    a, masks = random(BATCH, CHANNELS, 3, 4, seed=2).to(dtype), Masks((13, 11))
    constant, nothing = a.clone(), a.clone()
    constant[:, 1], nothing[:, 1] = 7.7, 0
    made = METHODS[method].function(constant, masks)
    assert made.isfinite().all()
    assert_close(made, METHODS[method].function(nothing, masks))


class Ablations:
    """Scores of activations by a made-up network behind them; target 1 scores below zero."""

    def __init__(self, activations: Tensor) -> None:
        self.activations = activations
        self.weights = random(*activations.shape[1:], seed=3)
        self.scores = double([[self.score(a, target) for a in activations.numpy()] for target in range(TARGETS)])
        assert (self.scores[1] < 0).all()
        assert (self.scores[0] > 0).all()

    def score(self, a: Array, target: int) -> float:
        found = float(np.tanh((self.weights.numpy() * a).sum()) + 0.02 * np.square(a).sum() + 1)
        return -0.3 * found if target else found

    def __call__(self, channels: Tensor) -> Tensor:
        made = torch.zeros(TARGETS, *channels.shape, dtype=torch.float64)
        for image, row in enumerate(channels.tolist()):
            for number, channel in enumerate(row):
                without = self.activations[image].clone()
                without[channel] = 0
                made[:, image, number] = double([self.score(without.numpy(), t) for t in range(TARGETS)])
        return made


@each_space
@each_top
def test_ablationcam(spatial: tuple[int, ...], size: tuple[int, ...], top_k: int | None) -> None:
    a = random(BATCH, CHANNELS, *spatial, seed=2)
    score = Ablations(a)
    assert isinstance(score, AblatedScore)
    made = signed("AblationCAM", a, score, top_k=top_k)
    norms = np.sqrt(np.square(a.numpy()).reshape(BATCH, CHANNELS, -1).sum(2))
    expected = [
        [
            oracles.ablationcam(each, lambda x, t=target: score.score(x, t), chosen(norm, top_k))
            for each, norm in zip(a.numpy(), norms, strict=True)
        ]
        for target in range(TARGETS)
    ]
    close(made, expected)


def test_ablationcam_of_a_score_of_zero_is_finite() -> None:
    class Nothing(Ablations):
        def score(self, a: Array, target: int) -> float:
            return 0.0

        def __init__(self, activations: Tensor) -> None:
            self.activations, self.scores = activations, torch.zeros(TARGETS, BATCH, dtype=torch.float64)

    a = random(BATCH, CHANNELS, 3, 4)
    assert not signed("AblationCAM", a, Nothing(a)).any()
