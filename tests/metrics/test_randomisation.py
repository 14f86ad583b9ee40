"""MPRT and efficient MPRT."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import camkit
from camkit.errors import UsageError
from camkit.metrics import measure
from camkit.metrics.perturbations import seed_of
from camkit.metrics.randomisation import correlations, entropy_rise, explain_in_cascade, histogram_entropy
from tests.helpers.networks import SmallCNN, seeded
from tests.metrics.trials import TARGETS, explainer, network, pictures, values
from tests.oracles import trusted

ORDER = ("head", "norm2", "conv2", "norm1", "conv1")
"""Of the small CNN, from the output."""


def by_hand(model: nn.Module, images: Tensor, seed: int) -> list[Tensor]:
    """Maps of copies whose layers are reset one after the other, by their own ``reset_parameters``."""
    random, maps = copy.deepcopy(model), []
    for name in ORDER:
        torch.manual_seed(seed_of(name.encode(), seed))
        random.get_submodule(name).reset_parameters()
        maps.append(explainer(random)(images, TARGETS).double())
    return maps


def test_mprt_is_the_loops_of_networks_reset_by_hand() -> None:
    model, images = network(), pictures()
    maps = explainer(model)(images, TARGETS).double()
    found = values("MPRT", maps, images, model, explain=explainer(model), seed=4)
    expected = [
        [trusted.spearman(abs(before).flatten().tolist(), abs(after).flatten().tolist()) for after in steps]
        for before, steps in zip(maps, zip(*by_hand(model, images, 4), strict=True), strict=True)
    ]
    np.testing.assert_allclose(found.curves["correlation"], expected, atol=1e-9)
    np.testing.assert_allclose(found.values, np.mean(expected, 1), atol=1e-9)
    assert found.steps is not None
    assert found.steps.tolist() == [0.2, 0.4, 0.6, 0.8, 1.0]


def test_efficient_mprt_is_the_loops() -> None:
    model, images = network(), pictures()
    maps = explainer(model)(images, TARGETS).double()
    found = values("Efficient MPRT", maps, images, model, explain=explainer(model), seed=4)
    random = by_hand(model, images, 4)[-1]
    for number in range(2):
        before, after = (trusted.histogram_entropy(each[number].numpy()) for each in (maps, random))
        assert float(found.values[number]) == pytest.approx((after - before) / before, rel=1e-9)


def test_a_map_of_the_image_alone_is_the_worst() -> None:
    """An edge detector's: random parameters change nothing."""
    model, images = network(), pictures()

    def edges(images: Tensor, targets: Tensor) -> Tensor:
        return images.diff(dim=2, append=images[:, :, :1]).abs().mean(1)

    maps = edges(images, TARGETS)
    found = values("MPRT", maps, images, model, explain=edges)
    assert_close(found.values, torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-12)
    assert values("Efficient MPRT", maps, images, model, explain=edges).values.tolist() == [0, 0]


def test_rescaling_changes_nothing_and_ties_are_told() -> None:
    maps = (torch.rand(2, 20, 14, dtype=torch.float64) - 0.6).relu()
    steps = {"a": torch.rand(2, 20, 14, dtype=torch.float64), "b": maps.flip(1)}
    found, scaled = correlations(maps, steps), correlations(maps**3 * 1e-9, {"a": steps["a"] / 7, "b": steps["b"]})
    assert_close(scaled.values, found.values, rtol=1e-9, atol=1e-12)
    assert found.ties is not None
    expected = (maps == 0).flatten(1).double().mean(1)
    assert_close(found.ties, expected)
    # Histograms reach from the least to the largest value.
    rise = entropy_rise(maps, steps["a"]).values
    assert_close(entropy_rise(maps * 8, steps["a"] * 2).values, rise, rtol=1e-9, atol=0)


def test_random_maps_correlate_with_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    maps, random = torch.rand(2, 200, 30, 30, generator=generator, dtype=torch.float64)
    assert abs(float(correlations(maps, {"a": random}).values.mean())) < 0.01


def test_maps_that_are_the_same_everywhere() -> None:
    maps, even = torch.rand(2, 8, 8, dtype=torch.float64), torch.full((2, 8, 8), 0.5, dtype=torch.float64)
    found = correlations(even, {"head": maps})
    assert (found.values.tolist(), found.notes[0]) == ([0, 0], "the map is 0.5 everywhere: correlation 0")
    found = correlations(maps, {"head": maps, "conv": even})
    assert_close(found.values, torch.full((2,), 0.5, dtype=torch.float64))
    assert found.notes[1] == "the map is the same everywhere after conv was randomised: correlation 0"
    rise = entropy_rise(even, maps)
    assert (rise.values.tolist(), rise.notes[1]) == ([0, 0], "the map is 0.5 everywhere: no entropy to compare with")
    rise = entropy_rise(maps, even)
    assert rise.values.tolist() == [-1, -1]
    assert rise.notes[0] == "of the random network the map is 0.5 everywhere: its entropy is 0"


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0 + 2**-52), (0.0, 5e-324)])
def test_maps_of_a_range_too_small_for_the_bins_have_an_entropy(low: float, high: float) -> None:
    heat = torch.tensor([[low, high], [low, high]], dtype=torch.float64)
    assert histogram_entropy(heat) == pytest.approx(math.log(2))


def test_fewer_groups() -> None:
    model, images = network(), pictures()
    maps = explainer(model)(images, TARGETS).double()
    found = values("MPRT", maps, images, model, explain=explainer(model), groups=2)
    assert found.curves["correlation"].shape == (2, 2)
    whole = values("MPRT", maps, images, model, explain=explainer(model))
    assert_close(found.curves["correlation"][:, -1], whole.curves["correlation"][:, -1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["MPRT", "Efficient MPRT"])
def test_the_network_is_left_as_it_was(name: str) -> None:
    model, images = network(), pictures()
    before = {key: each.clone() for key, each in model.state_dict().items()}
    expected = explainer(model)(images, TARGETS)
    torch.manual_seed(3)
    random = torch.get_rng_state()
    values(name, expected.double(), images, model, explain=explainer(model))
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(each, before[key]) for key, each in model.state_dict().items())
    assert torch.equal(explainer(model)(images, TARGETS), expected)


def test_progress_and_errors_name_the_step() -> None:
    model: SmallCNN = seeded(SmallCNN())
    told: list[tuple[int, ...]] = []
    images = pictures().float()

    def explain() -> str:
        if len(told) == 3:
            raise UsageError("no map")
        return "map"

    with pytest.raises(UsageError, match="^with random parameters from the output to norm1: no map$"):
        explain_in_cascade(model, images, explain, progress=lambda *numbers: told.append(numbers))
    assert told == [(1, 5), (2, 5), (3, 5)]
    found = explain_in_cascade(model, images, lambda: float(model.head.weight.detach().sum()))
    assert list(found) == list(ORDER)
    assert len(set(found.values())) == 1
    assert found["head"] != float(model.head.weight.detach().sum())


@pytest.mark.parametrize("method", ["GradCAM", "EigenCAM", "LayerCAM", "RandomCAM"])
def test_of_many_methods(method: str) -> None:
    model, images = network(), pictures()
    cam: Any = camkit.CAM(model, method, "norm2")
    maps = cam(images, TARGETS.tolist()).double()
    found = values("MPRT", maps, images, model, explain=cam)
    assert (found.values.abs() <= 1).all()
    assert found.curves["correlation"].shape == (2, 5)


class Scaled(SmallCNN):
    """Its forward needs another argument."""

    def forward(self, images: Tensor, scale: Tensor) -> Tensor:  # type: ignore[override]
        out: Tensor = super().forward(images * scale[:, None, None, None])
        return out


def test_arguments_of_the_forward_reach_the_random_networks_too() -> None:
    """One per image, so that each of an image's targets runs in a batch of its own."""
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    cam: camkit.CAM = camkit.CAM(seeded(Scaled(), 11), "GradCAM", ["norm2"], forward_kwargs={"scale": torch.ones(2)})
    plain: camkit.CAM = camkit.CAM(seeded(SmallCNN(), 11), "GradCAM", ["norm2"])
    targets = [[3, 1], [0, 2]]
    found, expected = (measure("MPRT", each(images, targets), images, each, targets)["MPRT"] for each in (cam, plain))
    torch.testing.assert_close(found.values, expected.values, atol=1e-5, rtol=1e-5)
