"""The metrics by grad-cam's names, beside grad-cam's own where it is installed."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from camkit.errors import UsageError
from camkit.integrations.pytorch_grad_cam import GradCAM
from camkit.integrations.pytorch_grad_cam.metrics import arcc, cam_mult_image, road
from camkit.integrations.pytorch_grad_cam.metrics.perturbation_confidence import (
    AveragerAcrossThresholds,
    RemoveLeastRelevantFirst,
    RemoveMostRelevantFirst,
)
from camkit.integrations.pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget
from tests.helpers.refusals import refusal
from tests.integrations.pytorch_grad_cam.networks import categories, cnn, images

NEEDS_IMPUTATION = pytest.mark.skipif(
    find_spec("camkit.metrics") is None or find_spec("scipy") is None, reason="ROAD needs camkit.metrics and scipy"
)
TARGETS = [ClassifierOutputSoftmaxTarget(1), ClassifierOutputSoftmaxTarget(3)]
MAPS = np.random.default_rng(0).random((2, 16, 16), dtype=np.float32)
"""No two values are equal."""


def network() -> Any:
    model, *_ = cnn()
    return model


def theirs(module: str, name: str, *args: Any) -> Any:
    return getattr(import_module(f"pytorch_grad_cam.metrics.{module}"), name)(*args)


@pytest.mark.peers
@pytest.mark.parametrize("name", ["CamMultImageConfidenceChange", "DropInConfidence", "IncreaseInConfidence"])
def test_changes_where_images_are_multiplied(name: str) -> None:
    model = network()
    expected = theirs("cam_mult_image", name)(images(), MAPS, TARGETS, model)
    assert_allclose(getattr(cam_mult_image, name)()(images(), MAPS, TARGETS, model), expected, atol=1e-6)


@pytest.mark.peers
def test_scores_and_changed_images() -> None:
    model = network()
    for diff in (True, False):
        how = {"return_visualization": True, "return_diff": diff}
        expected = theirs("cam_mult_image", "CamMultImageConfidenceChange")(images(), MAPS, TARGETS, model, **how)
        made = cam_mult_image.CamMultImageConfidenceChange()(images(), MAPS, TARGETS, model, **how)
        assert_allclose(made[0], expected[0], atol=1e-6)
        torch.testing.assert_close(made[1], expected[1])


@pytest.mark.peers
@pytest.mark.parametrize("name", ["RemoveMostRelevantFirst", "RemoveLeastRelevantFirst"])
@pytest.mark.parametrize("percentile", [10, 33, 50, 90, "auto"])
def test_which_pixels_are_left(name: str, percentile: Any) -> None:
    def show(image: torch.Tensor, mask: torch.Tensor) -> Any:
        return mask.float()

    ours = {"RemoveMostRelevantFirst": RemoveMostRelevantFirst, "RemoveLeastRelevantFirst": RemoveLeastRelevantFirst}
    made = ours[name](percentile, show)(images()[0], torch.from_numpy(MAPS[0]))
    expected = theirs("perturbation_confidence", name, percentile, show)(images()[0], torch.from_numpy(MAPS[0]))
    if percentile == "auto":  # theirs leaves what is above the threshold, whichever is removed first
        expected = 1 - (expected > 0).float()
    torch.testing.assert_close(made, expected)


def test_of_equal_values_as_many_are_left_as_of_different_ones() -> None:
    """grad-cam's threshold removes all of a map of one value."""
    left = RemoveMostRelevantFirst(75, lambda image, mask: mask)(images()[0], torch.zeros(16, 16))
    assert int(left.sum()) == 192
    assert not left.flatten()[:64].any()


@NEEDS_IMPUTATION
@pytest.mark.peers
@pytest.mark.parametrize("name", ["ROADMostRelevantFirst", "ROADLeastRelevantFirst"])
def test_road(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    argwhere = np.argwhere
    monkeypatch.setattr(np, "argwhere", lambda found: argwhere(np.asarray(found)))  # current NumPy takes no tensors
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)  # grad-cam's noise
    ours = getattr(road, name)(40)
    ours.perturbation.imputer.noise = 0.0
    model = network()
    expected, filled = theirs("road", name, 40)(images(), MAPS, TARGETS, model, return_visualization=True)
    made, own = ours(images(), MAPS, TARGETS, model, return_visualization=True)
    torch.testing.assert_close(own, filled, atol=1e-4, rtol=0)
    assert_allclose(made, expected, atol=1e-4)


@NEEDS_IMPUTATION
def test_averages_over_percentiles() -> None:
    torch.manual_seed(0)
    model = network()
    maps = GradCAM(model, [model.conv2])(images(), categories(1, 3))
    most, least = (
        each(percentiles=[20, 60])(images(), maps, TARGETS, model)
        for each in (road.ROADMostRelevantFirstAverage, road.ROADLeastRelevantFirstAverage)
    )
    combined = road.ROADCombined(percentiles=[20, 60])(images(), maps, TARGETS, model)
    assert_allclose(combined, (least - most) / 2, atol=0.01)  # the noise is another one
    # A map of zeros has an order too.
    assert np.isfinite(road.ROADCombined([20, 60])(images(), 0 * maps, TARGETS, model)).all()


@NEEDS_IMPUTATION
@pytest.mark.filterwarnings("ignore:the map of image")
def test_arcc() -> None:
    model = network()
    cam = GradCAM(model, [model.conv2])
    maps = cam(images(), categories(1, 3))
    found = arcc.ARCC(base_method=cam)(input_tensor=images(), grayscale_cams=maps, targets=TARGETS, model=model)
    assert found.shape == (2,)
    assert (found >= 0).all()
    assert (found <= 1).all()


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore:the map of image")  # of an image that is masked
def test_coherency_and_complexity() -> None:
    model = network()
    cam = GradCAM(model, [model.conv2])
    maps = cam(images(), categories(1, 3))
    expected = theirs("arcc", "Coherency")(images(), maps, categories(1, 3), model, cam)
    assert_allclose(arcc.Coherency()(images(), maps, categories(1, 3), model, cam), expected, atol=1e-5)
    assert_allclose(arcc.Complexity()(maps), theirs("arcc", "Complexity")(maps), atol=1e-6)


class TestBadCalls:
    """One line each."""

    def test_another_number_of_maps_or_targets(self) -> None:
        metric = cam_mult_image.DropInConfidence()
        assert refusal(metric, UsageError, images(), MAPS[:1], TARGETS, network()) == (
            "2 images, 1 maps and 2 targets: one of each"
        )

    def test_maps_of_another_size(self) -> None:
        metric = cam_mult_image.DropInConfidence()
        message = refusal(metric, UsageError, images(), MAPS[:, :8], TARGETS, network())
        assert message == "a map is (8, 16), its image (16, 16): resize one of them"

    def test_percentiles(self) -> None:
        assert "from 0 to 100" in refusal(road.ROADMostRelevantFirst, UsageError, 120)
        assert "name at least one" in refusal(AveragerAcrossThresholds, UsageError, road.ROADMostRelevantFirst, [])

    def test_nothing_left(self) -> None:
        message = refusal(road.NoisyLinearImputer(), UsageError, images()[0], torch.zeros(16, 16))
        assert message == "no pixel is left to fill the others in from: take a percentile above 0"

    def test_other_weights(self) -> None:
        assert "leave weighting out" in refusal(road.NoisyLinearImputer, UsageError, weighting=[((0, 1), 1.0)])
