"""Metrics that change images, against loops over one image and one change after the other."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import camkit
from camkit.metrics import measure
from camkit.metrics.replacement import blurred
from tests.metrics.subjects import TARGETS, chance, heats, network, noise_of, pictures
from tests.oracles import removed

MODEL, IMAGES, MAPS = network(), pictures(), heats()
CASES = list(zip(IMAGES.numpy(), MAPS.numpy(), TARGETS, strict=True))


def values(name: str, **how: Any) -> Tensor:
    return measure(name, MAPS, IMAGES, MODEL, TARGETS, **how)[name].values


def same(ours: Tensor, theirs: list[float], tolerance: float = 1e-9) -> None:
    assert len(set(theirs)) > 1
    assert_close(ours, torch.tensor(theirs, dtype=torch.float64), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("step", [None, 5, 1000])
def test_deletion(step: int | None) -> None:
    curves = [
        removed.replaced(chance(MODEL, target), image, 0 * image, heat, step or 12) for image, heat, target in CASES
    ]
    found = measure("Deletion", MAPS, IMAGES, MODEL, TARGETS, pixels_per_step=step)["Deletion"]
    same(found.values, [removed.area(each) for each in curves])
    assert_close(found.curves["probability"], torch.tensor(curves, dtype=torch.float64), atol=1e-9, rtol=1e-9)
    assert found.steps is not None
    assert float(found.steps[0]) == 0
    assert float(found.steps[-1]) == 1


@pytest.mark.parametrize("baseline", ["blur", "zeros"])
def test_insertion(baseline: str) -> None:
    starts = [removed.blurred(image) if baseline == "blur" else 0 * image for image in IMAGES.numpy()]
    curves = [
        removed.replaced(chance(MODEL, target), start, image, heat, 7)
        for start, (image, heat, target) in zip(starts, CASES, strict=True)
    ]
    same(values("Insertion", pixels_per_step=7, baseline=baseline), [removed.area(each) for each in curves])


def test_the_step_is_one_row_of_the_image() -> None:
    """224 pixels at 224 x 224, as in the paper."""
    found = measure("Deletion", torch.rand(1, 224, 224), torch.randn(1, 3, 224, 224), network().float(), 0)
    assert found["Deletion"].curves["probability"].shape == (1, 225)
    assert found["Deletion"].options["pixels_per_step"] is None


def test_areas_differ_by_the_last_step_alone() -> None:
    """168 pixels in steps of 9 leave a last one of 6."""
    shares = torch.tensor([*range(0, 168, 9), 168], dtype=torch.float64) / 168
    found = measure("Deletion", MAPS, IMAGES, MODEL, TARGETS, pixels_per_step=9, area="share")["Deletion"]
    assert_close(found.steps, shares)
    assert_close(found.values, torch.trapezoid(found.curves["probability"], shares, dim=1))
    assert_close(values("Deletion", pixels_per_step=12, area="share"), values("Deletion", pixels_per_step=12))


def test_blur() -> None:
    image = IMAGES[0]
    assert_close(blurred(image), torch.from_numpy(removed.blurred(image.numpy())), atol=1e-12, rtol=1e-12)


def test_drop_and_gain() -> None:
    same(values("Average drop"), [removed.average_drop(chance(MODEL, t), image, heat) for image, heat, t in CASES])
    gained = [removed.average_gain(chance(MODEL, t), image, heat) for image, heat, t in CASES]
    same(values("Average gain"), gained)
    assert values("Increase in confidence").tolist() == [float(each > 0) for each in gained]


def test_confidence_change_is_of_the_score() -> None:
    with torch.no_grad():
        change = MODEL(IMAGES * MAPS[:, None]) - MODEL(IMAGES)
    same(values("Confidence change"), [float(row[target]) for row, target in zip(change, TARGETS, strict=True)])


def cam() -> camkit.CAM:
    return camkit.EigenCAM(MODEL, ["conv2"])


def again() -> Tensor:
    return cam()(IMAGES * MAPS[:, None], TARGETS).double()


def test_adcc() -> None:
    oracle = [
        removed.adcc(chance(MODEL, target), image, heat, other)
        for (image, heat, target), other in zip(CASES, again().numpy(), strict=True)
    ]
    same(values("ADCC", explain=cam()), oracle)


def test_arcc() -> None:
    oracle = []
    for (image, heat, target), other, given in zip(CASES, again().numpy(), IMAGES, strict=True):
        noise = 0.01 * noise_of(given).numpy()
        halves = [
            removed.road(chance(MODEL, target), image, heat, share, noise, highest_first=False)
            - removed.road(chance(MODEL, target), image, heat, share, noise, highest_first=True)
            for share in (20, 40, 60, 80)
        ]
        oracle.append(removed.arcc(heat, other, sum(halves) / 4 / 2))
    same(values("ARCC", explain=cam()), oracle)


class Certain(torch.nn.Module):
    """Gives class 0 all of the probability, whatever it sees."""

    def forward(self, images: Tensor) -> Tensor:
        return images.new_tensor([[900.0, 0.0]]).expand(len(images), -1) + 0 * images.mean((1, 2, 3))[:, None]


def test_a_class_without_probability_has_none_to_lose() -> None:
    found = measure(["Average drop", "ADCC"], MAPS, IMAGES, Certain(), 1, explain=lambda images, targets: MAPS)
    for name in found:
        assert found[name].values.isfinite().all()
        assert set(found[name].notes) == {0, 1}
        assert "has no probability" in found[name].notes[0]
    assert found["Average drop"].values.tolist() == [0, 0]


def test_a_class_with_all_the_probability_has_none_to_gain() -> None:
    found = measure("Average gain", MAPS, IMAGES, Certain(), 0)["Average gain"]
    assert found.values.tolist() == [0, 0]
    assert "has all the probability" in found.notes[1]


@pytest.mark.parametrize("level", [0.0, 0.4, 1.0])
def test_maps_that_are_the_same_everywhere(level: float) -> None:
    """Ranked row by row, and said; a correlation with them is 0."""
    flat = torch.full_like(MAPS, level)
    names = ["Deletion", "Insertion", "ADCC", "ROADCombined", "ARCC"]
    found = measure(names, flat, IMAGES, MODEL, TARGETS, explain=cam())
    for each in found.values():
        assert each.values.isfinite().all()
        assert set(each.notes) == {0, 1}
        assert f"the map is {level:g} everywhere" in each.notes[0]
    assert_close(found["ADCC"].curves["coherency"], torch.full((2, 1), 0.5, dtype=torch.float64))
    assert_close(found["ROADCombined"].values, torch.zeros(2, dtype=torch.float64))
    ties = found["Deletion"].ties
    assert ties is not None
    assert ties.tolist() == [1, 1]
    rows = removed.replaced(chance(MODEL, 3), IMAGES[0].numpy(), 0 * IMAGES[0].numpy(), flat[0].numpy(), 12)
    assert math.isclose(float(found["Deletion"].values[0]), removed.area(rows), abs_tol=1e-9)
