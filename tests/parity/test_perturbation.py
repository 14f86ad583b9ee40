"""camkit's maps of scores, and torchcam's of linear heads and of noise, are those of the packages, to 1e-4.

Where a package leaves its paper the test's name says how, and camkit agrees with the slow oracle in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from camkit.methods.needs import NoisyGradientsNeed
from camkit.signals.gradients import draw_noise
from tests import oracles
from tests.helpers.cases import (
    LAYER,
    SMALL_TARGETS,
    TARGETS,
    Tokens,
    ablation,
    agree,
    collected,
    distance,
    each,
    finished,
    pictures,
    plain,
    positive,
    raw,
    same,
    scorer,
    scores,
    strided,
)
from tests.helpers.networks import seeded
from tests.oracles import Array
from tests.parity import reference

pytestmark = pytest.mark.peers
LAYOUT = reference.cloning()


# Scores of masked images.


def by_score(oracle: Callable[..., Array], model: nn.Module, images: Tensor, layer: str, targets: Sequence[int]) -> Any:
    """``oracle`` of activations, image and score, one image after the other."""
    a = collected(model, images, layer, targets)[0]
    return each(lambda a, x, t: oracle(a, x, scorer(model, t)), a, images.numpy(), targets)


def test_score_cam_of_grad_cam_with_half_pixel_masks() -> None:
    model, images = strided(), pictures()
    with reference.half_pixel_upsampling():
        theirs = reference.reference_maps(model, images, "ScoreCAM", [LAYER], TARGETS, layout=LAYOUT)
        signed = reference.reference_raw(model, images, "ScoreCAM", LAYER, TARGETS, layout=LAYOUT)
    same(finished(model, images, "ScoreCAM", LAYER, TARGETS), theirs)
    agree(signed, raw(model, images, "ScoreCAM", LAYER, TARGETS))


def test_score_cam_of_grad_cam_aligns_corners() -> None:
    """Its masks lie elsewhere than its maps, which are resized by half-pixel centres."""
    model, images = strided(), pictures()
    theirs = reference.reference_raw(model, images, "ScoreCAM", LAYER, TARGETS, layout=LAYOUT)
    ours = raw(model, images, "ScoreCAM", LAYER, TARGETS)
    agree(ours, by_score(oracles.scorecam, model, images, LAYER, TARGETS))
    assert 0.01 < distance(theirs, ours) < 0.1


def test_score_cam_of_torchcam_where_nothing_is_resized() -> None:
    model, images = plain(), pictures(8, 7)
    theirs = reference.torchcam_raw(model, images, "ScoreCAM", "conv2", SMALL_TARGETS)
    agree(theirs, raw(model, images, "ScoreCAM", "conv2", SMALL_TARGETS))


def test_score_cam_of_torchcam_scales_before_it_resizes() -> None:
    """A mask whose peak lies between pixels stays below 1; in the paper it is resized first."""
    model, images = strided(), pictures()
    theirs = reference.torchcam_raw(model, images, "ScoreCAM", LAYER, TARGETS)
    ours = raw(model, images, "ScoreCAM", LAYER, TARGETS)
    agree(ours, by_score(oracles.scorecam, model, images, LAYER, TARGETS))
    assert 0.01 < distance(theirs, ours) < 0.1


def ss_noise(samples: int, std: float, seed: int) -> Tensor:
    """What camkit's SS-CAM adds to masks of 8 x 7."""
    generator = torch.Generator().manual_seed(seed)
    return std * torch.randn(samples, 8, 7, generator=generator).double()


@pytest.mark.parametrize(("samples", "std", "seed"), [(3, 2.0, 0), (5, 0.5, 4)])
def test_ss_cam_of_torchcam(samples: int, std: float, seed: int) -> None:
    """Where nothing is resized, on the same noise."""
    model, images = plain(), pictures(8, 7)
    theirs = reference.torchcam_raw(model, images, "SS-CAM", "conv2", SMALL_TARGETS, noise=ss_noise(samples, std, seed))
    options = {"num_samples": samples, "std": std, "seed": seed}
    agree(theirs, raw(model, images, "SS-CAM", "conv2", SMALL_TARGETS, **options))


def test_is_cam_of_torchcam_goes_one_step_too_far() -> None:
    """From 0.1 to 5.5 times the mask; sums over j < i, as the paper prints them, go from 0 to 4.5."""
    model, images = plain(), pictures(8, 7)

    def slow(coefficients: Sequence[float]) -> Any:
        return by_score(
            lambda a, x, score: oracles.iscam(a, x, score, coefficients), model, images, "conv2", SMALL_TARGETS
        )

    theirs = reference.torchcam_raw(model, images, "IS-CAM", "conv2", SMALL_TARGETS)
    ours = raw(model, images, "IS-CAM", "conv2", SMALL_TARGETS)
    agree(theirs, slow([i * (i + 1) / 20 for i in range(1, 11)]))
    agree(ours, slow([i * (i - 1) / 20 for i in range(1, 11)]))
    agree(ours, slow(oracles.printed_path(10)))
    assert oracles.printed_path(10)[-1] == pytest.approx(4.5)
    assert distance(theirs, ours) > 0.005
    # The paper's author has 0.1, 0.2 ... 1 in her code.
    assert distance(theirs, slow(oracles.path(10))) > 0.01


# Scores without channels.


@pytest.mark.parametrize("layer", ["relu1", "relu2"])
def test_ablation_cam_of_grad_cam(layer: str) -> None:
    """Where the layer's smallest output is exactly 0, and scores are positive."""
    model, images = plain(), pictures(8, 7)
    targets = positive(model, images)
    theirs = reference.reference_raw(model, images, "AblationCAM", layer, targets, layout=LAYOUT)
    agree(theirs, raw(model, images, "AblationCAM", layer, targets))
    maps = reference.reference_maps(model, images, "AblationCAM", [layer], targets, layout=LAYOUT)
    same(finished(model, images, "AblationCAM", layer, targets), maps)


def test_ablation_cam_of_tokens_of_grad_cam() -> None:
    model, images = seeded(Tokens()).double(), pictures(16, 16)
    targets = positive(model, images)
    options = {"layout": reference.cloning(1), "ablation_layer": reference.token_ablation()}
    theirs = reference.reference_raw(model, images, "AblationCAM", "relu", targets, **options)
    agree(theirs, raw(model, images, "AblationCAM", "relu", targets))


def test_ablation_cam_of_grad_cam_turns_over_where_the_score_is_negative() -> None:
    """So does the paper's formula, which divides by the score itself; camkit divides by its size."""
    model, images = plain(), pictures(8, 7)
    targets = scores(model, images).argmin(1).tolist()
    assert (scores(model, images).amin(1) < 0).all()
    theirs = reference.reference_raw(model, images, "AblationCAM", "relu2", targets, layout=LAYOUT)
    ours = raw(model, images, "AblationCAM", "relu2", targets)
    agree(theirs, -ours)
    agree(ours, ablation(model, images, "relu2", targets))


def test_ablation_cam_of_grad_cam_writes_ever_larger_values() -> None:
    """Where an output is negative: in place of 0 the smallest less 1e7, for the next channel that less 1e7, and on."""
    model, images, targets = plain(), pictures(8, 7), [0, 1]
    model.register_module("relu2", nn.Identity())
    theirs = reference.reference_raw(model, images, "AblationCAM", "conv2", targets, layout=LAYOUT)
    # The head is linear here: a channel's weight is its row's times how far it was moved.
    a = collected(model, images, "conv2", targets)[0]
    assert a.min() < 0
    weights = model.head.weight.detach().numpy()[targets] * 1e7 * np.arange(1, 6)
    score = scores(model, images)[range(2), targets].numpy()
    agree(theirs, each(oracles.combined, a, weights / score[:, None]), 1e-5)
    ours = raw(model, images, "AblationCAM", "conv2", targets)
    agree(ours, ablation(model, images, "conv2", targets))
    assert distance(theirs, ours) > 1e6


# torchcam: CAM and SmoothGradCAM++.


def test_cam_of_torchcam() -> None:
    model, images = plain(), pictures(6, 5)
    theirs = reference.torchcam_raw(model, images, "CAM", "relu2", SMALL_TARGETS, fc_layer="head")
    agree(theirs, raw(model, images, "CAM", "relu2", SMALL_TARGETS))


class Samples:
    """Noise that both packages get, (n, 3, H, W)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, noise: Tensor) -> None:
        self.noise = noise
        monkeypatch.setattr("camkit.signals.gradients.draw_noise", lambda *given, **named: noise)

    def gradients(self, model: nn.Module, images: Tensor, layer: str, targets: Sequence[int]) -> list[Array]:
        return [collected(model, images + each, layer, targets)[1] for each in self.noise]


def noise(samples: int, height: int, width: int, std: float = 0.5) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return std * torch.randn(samples, 3, height, width, generator=generator).double()


def test_smooth_plus_plus_of_torchcam(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind pooling and a linear head all samples have one gradient; the last sample is clean, as its map is of it."""
    model, images, fields = plain(), pictures(8, 7), noise(4, 8, 7)
    model.head.weight.data *= 1e3  # so that neither package's epsilon shows
    fields[-1] = 0
    Samples(monkeypatch, fields)
    theirs = reference.torchcam_raw(model, images, "Smooth Grad-CAM++", "relu2", SMALL_TARGETS, noise=fields)
    agree(theirs, raw(model, images, "SmoothGradCAM++", "relu2", SMALL_TARGETS, num_samples=4), 1e-4)


FAULTS = ("takes the last sample's gradient", "takes the last sample's activations", "sums A G^3 over places")


@pytest.mark.parametrize("fault", FAULTS)
def test_smooth_plus_plus_of_torchcam_has_three_faults(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """The mean over samples is to stand in the ReLU, the image as it is in the map, and sum(A) times G^3 in alpha."""
    model, images, fields = strided(), pictures(), noise(3, 20, 16)
    given = Samples(monkeypatch, fields)
    gradients = given.gradients(model, images, LAYER, TARGETS)
    clean = collected(model, images, LAYER, TARGETS)[0]
    last = collected(model, images + fields[-1], LAYER, TARGETS)[0]
    first, second, third = (np.mean([g**power for g in gradients], axis=0) for power in (1, 2, 3))

    def formula(faults: Sequence[str], eps: float) -> Any:
        totals = clean.sum((2, 3), keepdims=True)
        own = (clean * third).sum((2, 3), keepdims=True) if FAULTS[2] in faults else totals * third
        gradient = np.maximum(gradients[-1] if FAULTS[0] in faults else first, 0)
        weights = (second / (2 * second + own + eps) * gradient).sum((2, 3))
        return each(oracles.combined, last if FAULTS[1] in faults else clean, weights)

    theirs = reference.torchcam_raw(model, images, "Smooth Grad-CAM++", LAYER, TARGETS, noise=fields)
    ours = raw(model, images, "SmoothGradCAM++", LAYER, TARGETS, num_samples=3)
    agree(theirs, formula(FAULTS, 1e-8))
    agree(ours, formula((), 1e-6))
    agree(ours, np.stack([oracles.smooth_plus_plus(clean[i], [g[i] for g in gradients]) for i in range(2)]))
    assert distance(formula([fault], 1e-6), ours) > 0.03
    assert distance(theirs, ours) > 0.1


def test_smooth_plus_plus_as_printed_has_the_first_derivative_on_top(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without noise that isn't Grad-CAM++; torchcam, and camkit by default, have the second there."""
    model, images = strided(), pictures()
    gradients = Samples(monkeypatch, noise(3, 20, 16)).gradients(model, images, LAYER, TARGETS)
    clean = collected(model, images, LAYER, TARGETS)[0]
    printed = raw(model, images, "SmoothGradCAM++", LAYER, TARGETS, num_samples=3, numerator=1)
    slow = [oracles.smooth_plus_plus(clean[i], [g[i] for g in gradients], numerator=1) for i in range(2)]
    agree(printed, np.stack(slow))
    assert distance(raw(model, images, "SmoothGradCAM++", LAYER, TARGETS, num_samples=3), printed) > 0.1


def test_smooth_plus_plus_on_its_own_noise() -> None:
    """The same for every image of a batch, by the seed."""
    model, images = strided(), pictures()
    fields = draw_noise(NoisyGradientsNeed(3, 0.4, 2), (3, 20, 16)).double()
    expected = 0.4 * torch.randn(3, 3, 20, 16, generator=torch.Generator().manual_seed(2))
    assert_close(fields, expected.double())
    gradients = [collected(model, images + field, LAYER, TARGETS)[1] for field in fields]
    clean = collected(model, images, LAYER, TARGETS)[0]
    ours = raw(model, images, "SmoothGradCAM++", LAYER, TARGETS, num_samples=3, std=0.4, seed=2)
    agree(ours, np.stack([oracles.smooth_plus_plus(clean[i], [g[i] for g in gradients]) for i in range(2)]))
