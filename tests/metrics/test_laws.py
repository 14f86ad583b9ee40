"""Laws that hold for every registered metric, or for all that say so of themselves."""

from __future__ import annotations

import doctest
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import camkit
from camkit.errors import UsageError
from camkit.metrics import FAMILIES, METRICS, Metric, Values, measure, measure_methods
from camkit.metrics.registry import NEEDS
from tests.helpers.refusals import refusal
from tests.metrics.subjects import heats, network, pictures

MODEL, IMAGES, MAPS = network(), pictures(), heats()
TARGETS = [3, 1]
REGIONS = torch.zeros(2, 14, 12, dtype=torch.bool)
REGIONS[:, 3:9, 2:8] = True
each_metric = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
BY_RANK = ["Deletion", "Insertion", "ROAD MoRF", "ROAD LeRF", "ROADCombined", "Pointing game"]
"""Metrics that read nothing of a map but the order of its pixels."""


def cam(model: nn.Module = MODEL) -> camkit.CAM:
    return camkit.EigenCAM(model, ["conv2"])


def values(
    metric: Metric, maps: Tensor = MAPS, images: Tensor = IMAGES, regions: Tensor = REGIONS, **how: Any
) -> Values:
    given: dict[str, Any] = {"targets": TARGETS, "regions": regions, "explain": cam()} | how
    found: Values = measure(metric, maps, images, MODEL, **given)[metric.name]
    return found


def same(one: Values, other: Values, tolerance: float = 1e-9) -> None:
    assert_close(one.values, other.values, atol=tolerance, rtol=tolerance)
    assert set(one.curves) == set(other.curves)
    for name, curve in one.curves.items():
        assert_close(curve, other.curves[name], atol=tolerance, rtol=tolerance, equal_nan=True)


@each_metric
def test_a_metric_says_what_it_is(metric: Metric) -> None:
    assert metric.family in FAMILIES
    assert set(metric.needs) <= set(NEEDS)
    assert metric.better in ("higher", "lower")
    assert metric.formula
    assert metric.paper
    assert metric.function.__doc__
    assert list(doctest.DocTestParser().get_examples(metric.function.__doc__)), "an example"
    for request in metric.requests():
        assert request == type(request)(**vars(request))
        assert hash(request) == hash(type(request)(**vars(request)))


@each_metric
def test_values_are_float64_on_the_cpu_one_per_map(metric: Metric) -> None:
    found = values(metric)
    assert found.values.shape == (2,)
    assert found.values.dtype == torch.float64
    assert found.values.device.type == "cpu"
    assert found.values.isfinite().all()
    assert found.name == metric.name
    assert all(len(curve) == 2 for curve in found.curves.values())
    assert not found.values.requires_grad


@each_metric
def test_batches_change_nothing(metric: Metric) -> None:
    same(values(metric, batch_size=1), values(metric, batch_size=64))


@each_metric
def test_order_and_company_change_nothing(metric: Metric) -> None:
    backwards = values(metric, MAPS.flip(0), IMAGES.flip(0), targets=TARGETS[::-1])
    both = values(metric)
    assert_close(backwards.values.flip(0), both.values, atol=1e-9, rtol=1e-9)
    for number in range(2):
        one = slice(number, number + 1)
        alone = values(metric, MAPS[one], IMAGES[one], REGIONS[one], targets=TARGETS[number])
        assert_close(alone.values, both.values[one], atol=1e-9, rtol=1e-9)


@each_metric
def test_other_metrics_change_nothing(metric: Metric) -> None:
    everything = measure(list(METRICS), MAPS, IMAGES, MODEL, TARGETS, regions=REGIONS, explain=cam())
    same(everything[metric.name], values(metric))


@each_metric
def test_other_methods_change_nothing(metric: Metric) -> None:
    maps = {"one": MAPS, "other": 1 - MAPS}
    how: dict[str, Any] = {"regions": REGIONS, "explain": dict.fromkeys(maps, cam())}
    same(measure_methods(metric, maps, IMAGES, MODEL, TARGETS, **how)["other"][metric.name], values(metric, 1 - MAPS))


@each_metric
def test_the_seed_decides(metric: Metric) -> None:
    torch.manual_seed(1)
    first = values(metric, seed=7)
    torch.manual_seed(2)
    same(first, values(metric, seed=7), 0)


@each_metric
def test_targets_of_an_image_are_items_of_their_own(metric: Metric) -> None:
    maps = torch.stack([MAPS, MAPS.flip(1)], 1)
    found = values(metric, maps, targets=[[3, 0], [1, 2]]).values.reshape(2, 2)
    assert_close(found[:, 0], values(metric, targets=[3, 1]).values, atol=1e-9, rtol=1e-9)
    assert_close(found[:, 1], values(metric, MAPS.flip(1), targets=[0, 2]).values, atol=1e-9, rtol=1e-9)


@each_metric
@pytest.mark.parametrize("level", [0.0, 1.0])
def test_maps_that_are_the_same_everywhere_have_a_defined_value(metric: Metric, level: float) -> None:
    found = values(metric, torch.full_like(MAPS, level))
    assert found.values.isfinite().all()
    if found.ties is not None:
        assert found.ties.tolist() == [1, 1]
        assert set(found.notes) == {0, 1}


@each_metric
def test_maps_that_are_not_finite_are_refused(metric: Metric) -> None:
    maps = MAPS.clone()
    maps[0, 0, 0] = torch.nan
    how = {"targets": TARGETS, "regions": REGIONS, "explain": cam()}
    assert "NaN" in refusal(measure, UsageError, metric, maps, IMAGES, MODEL, **how)


@each_metric
def test_what_a_metric_needs_is_asked_for(metric: Metric) -> None:
    how: dict[str, dict[str, Any]] = {
        "scores": {"images": IMAGES, "model": MODEL, "targets": TARGETS},
        "region": {"regions": REGIONS},
        "explainer": {"images": IMAGES, "explain": cam(), "model": MODEL, "targets": TARGETS},
        "unit": {},
    }
    given = {argument: value for need in metric.needs for argument, value in how[need].items()}
    assert measure(metric, MAPS, **given)[metric.name].values.isfinite().all()
    for need, argument in {"scores": "model", "region": "regions", "explainer": "explain"}.items():
        if need in metric.needs:
            less = {name: value for name, value in given.items() if name != argument}
            assert f"{metric.name} needs {argument}" in refusal(measure, UsageError, metric, MAPS, **less)


@each_metric
def test_signed_maps_are_taken_or_refused(metric: Metric) -> None:
    signed = MAPS - MAPS.flip(1)
    how: dict[str, Any] = {"targets": TARGETS, "regions": REGIONS, "explain": lambda images, targets: signed}
    if "unit" in metric.needs:
        assert "maps in [0, 1]" in refusal(measure, UsageError, metric, signed, IMAGES, MODEL, **how)
    else:
        assert measure(metric, signed, IMAGES, MODEL, **how)[metric.name].values.isfinite().all()


@pytest.mark.parametrize("name", [name for name in BY_RANK if name in METRICS])
@pytest.mark.parametrize("rescaled", [torch.sqrt, lambda maps: maps**3 / 2 + 0.1, lambda maps: 5 * maps - 9])
def test_rescaling_that_keeps_the_order_changes_nothing(name: str, rescaled: Callable[[Tensor], Tensor]) -> None:
    found, expected = values(METRICS[name], rescaled(MAPS)), values(METRICS[name])
    same(found, expected)
    if name != "Pointing game":  # which ranks the maximum alone
        assert expected.ties is None or (expected.ties > 0.3).all()


class Patch(nn.Module):
    """Class 1's score is the mean of the first channel in a patch; the rest of the image says nothing."""

    def forward(self, images: Tensor) -> Tensor:
        score = 8 * images[:, 0, 3:7, 2:6].mean((1, 2))
        return torch.stack([torch.zeros_like(score), score], 1)


def bright() -> Tensor:
    """Images with evidence in the patch and noise elsewhere."""
    images = torch.randn(2, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) / 5
    images[:, 0, 3:7, 2:6] += 1
    return images


def evidence() -> Tensor:
    heat = torch.zeros(2, 12, 12, dtype=torch.float64)
    heat[:, 3:7, 2:6] = 1
    return heat


@pytest.mark.parametrize("name", ["Deletion", "Insertion", "ROAD MoRF", "ROAD LeRF", "ROADCombined"])
def test_the_true_map_beats_its_opposite_and_random_ones(name: str) -> None:
    """By the metric's own direction, and random maps come in between."""
    generator = torch.Generator().manual_seed(0)
    maps = {"truth": evidence(), "opposite": 1 - evidence()}
    maps |= {f"random {number}": torch.rand(2, 12, 12, generator=generator) for number in range(5)}
    found = measure_methods(name, maps, bright(), Patch(), 1)
    sign = 1 if METRICS[name].better == "higher" else -1
    scores = {method: sign * float(each[name].values.mean()) for method, each in found.items()}
    middle = [score for method, score in scores.items() if method.startswith("random")]
    assert scores["truth"] > max(middle)
    assert min(middle) > scores["opposite"]


def test_the_true_map_gets_the_best_possible_value() -> None:
    """Nothing of the score is lost, and all of it goes first."""
    found = measure(["Average drop", "Confidence change", "Deletion"], evidence(), bright(), Patch(), 1)
    assert_close(found["Average drop"].values, torch.zeros(2, dtype=torch.float64))
    assert_close(found["Confidence change"].values, torch.zeros(2, dtype=torch.float64))
    # The patch's 16 pixels go in the first two steps of 12; then the score is 0 and the probability a half.
    assert_close(found["Deletion"].curves["probability"][:, 2:], torch.full((2, 11), 0.5, dtype=torch.float64))


def test_random_maps_get_road_s_chance() -> None:
    """Removing random pixels first or last is the same: 0, within what 40 maps scatter."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(1, 40, 12, 12, generator=generator)
    found = measure("ROADCombined", maps, bright()[:1], Patch(), [[1] * 40])["ROADCombined"].values
    assert abs(float(found.mean())) < 4 * float(found.std()) / 40**0.5
