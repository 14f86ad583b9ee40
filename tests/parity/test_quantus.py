"""Quantus 0.6.0 beside camkit: equal where it is right, and its faults. Skipped where it isn't installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from camkit.metrics import METRICS, measure
from camkit.metrics.cascade import layer_groups, randomising
from camkit.metrics.trial import Trial
from tests.helpers.networks import SmallViT, seeded
from tests.metrics.trials import TARGETS, explainer, network, pictures

quantus: Any = pytest.importorskip("quantus", reason="compares with a package that isn't installed: quantus")
pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
QUIET = {"disable_warnings": True}


class Case:
    """Six images, in float32 as Quantus takes them, and their maps."""

    def __init__(self) -> None:
        self.model = network().float()
        self.images = pictures(batch=6).float()
        self.targets = TARGETS.repeat(3)
        self.maps = explainer(self.model)(self.images, self.targets)

    def theirs(self, metric: Any, rows: slice = slice(None), **how: Any) -> Any:
        given = {
            "x_batch": self.images[rows].numpy(),
            "y_batch": self.targets[rows].numpy(),
            "a_batch": self.maps[rows, None].numpy(),
        }
        return metric(model=self.model, device="cpu", **given, **how)


@pytest.fixture(scope="module")
def case() -> Case:
    return Case()


@pytest.mark.parametrize("name", ["Sparseness", "Complexity"])
def test_sparseness_and_complexity_are_equal(name: str, case: Case) -> None:
    ours = METRICS[name].values(Trial(case.maps.double())).values
    np.testing.assert_allclose(case.theirs(getattr(quantus, name)(**QUIET)), ours, rtol=1e-5)


def test_sensitivity_n_of_the_first_batch_alone(case: Case) -> None:
    """What Quantus returns follows the batch size, since it keeps one batch; camkit has a value per image."""
    metric = quantus.SensitivityN(features_in_step=16, return_aggregate=False, **QUIET)
    whole, of_two = (np.array(case.theirs(metric, batch_size=size)) for size in (6, 2))
    first = np.array(case.theirs(metric, slice(0, 2), batch_size=2))
    np.testing.assert_allclose(of_two, first)
    assert abs(whole - of_two).max() > 0.1
    ours = [
        measure("Sensitivity-n", case.maps, case.images, case.model, case.targets, batch_size=size)["Sensitivity-n"]
        for size in (6, 2)
    ]
    assert len(ours[0].values) == 6
    np.testing.assert_allclose(ours[0].values, ours[1].values, atol=1e-3)


def test_sensitivity_n_across_images(case: Case) -> None:
    """Quantus correlates images with each other, not subsets of an image: one image alone has nothing to correlate."""
    metric = quantus.SensitivityN(features_in_step=16, return_aggregate=False, **QUIET)
    with pytest.raises(ValueError, match="must have length at least 2"):
        case.theirs(metric, slice(0, 1))
    ours = measure("Sensitivity-n", case.maps[:1], case.images[:1], case.model, case.targets[:1])["Sensitivity-n"]
    assert ours.values.isfinite().all()


def test_sensitivity_n_is_cumulative() -> None:
    """Quantus adds one step's pixels to the sum, but has removed all steps' before: the evidence itself isn't perfect.

    Of a network that sums its input, each step's sum is a part of the map; the score loses that and all before.
    """

    class Sum(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.sum((1, 2, 3))[:, None].expand(-1, 2)

    model, images = Sum().eval(), pictures(8, 8, 3).float()[:, :1]
    targets = torch.zeros(3, dtype=torch.long)
    metric = quantus.SensitivityN(features_in_step=8, return_aggregate=False, normalise=False, abs=False, **QUIET)
    theirs = metric(
        model=model,
        x_batch=images.numpy(),
        y_batch=targets.numpy(),
        a_batch=images.numpy(),
        device="cpu",
        softmax=False,
    )
    assert np.min(theirs) < 0.9
    ours = measure("Sensitivity-n", images[:, 0], images, model, targets)["Sensitivity-n"]
    np.testing.assert_allclose(ours.values, 1, atol=1e-3)


def test_irof_refuses_maps_of_one_channel(case: Case) -> None:
    """On RGB images, whatever the segmentation; camkit's metrics take maps (H, W)."""
    with pytest.raises(AssertionError, match="shape of arr must be the same as the mask shape"):
        case.theirs(quantus.IROF(segmentation_method="slic", **QUIET))


@pytest.mark.skipif(hasattr(np, "trapz"), reason="NumPy before 2.4")
def test_areas_need_a_function_that_numpy_lost(case: Case) -> None:
    with pytest.raises(AttributeError, match="has no attribute 'trapz'"):
        quantus.helpers.utils.calculate_auc(np.arange(3.0))


def test_layers_of_one_shape_get_the_same_random_weights() -> None:
    """Quantus seeds each layer alike, and leaves parameters outside of layers as they are."""
    wrapper = quantus.helpers.model.pytorch_model.PyTorchModel
    model: Any = seeded(SmallViT())
    images = pictures(16, 16).float()
    (*_, (_, theirs)) = wrapper(model, softmax=False, device="cpu").get_random_layer_generator("top_down", 42)
    assert torch.equal(theirs.layers[0].mlp[0].weight, theirs.layers[1].mlp[0].weight)
    unchanged = {"tokens", "position", "layers.0.attention.in_proj_weight", "layers.1.attention.in_proj_weight"}
    before = dict(model.named_parameters())
    assert unchanged <= {name for name, each in theirs.named_parameters() if torch.equal(each, before[name])}
    kept = {name: each.detach().clone() for name, each in before.items() if each.numel()}
    with randomising(model) as randomised:
        for group in layer_groups(model, images):
            randomised.randomise(group)
        assert not torch.equal(model.layers[0].mlp[0].weight, model.layers[1].mlp[0].weight)
        assert not any(torch.equal(model.get_parameter(name), each) for name, each in kept.items())
