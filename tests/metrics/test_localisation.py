"""Localisation: pointing game, energy pointing game, GridPG."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from camkit.errors import UsageError
from camkit.metrics import METRICS, build_mosaics, measure
from camkit.metrics.trial import Trial
from camkit.metrics.values import Values
from tests.oracles import trusted

GAMES = ("Pointing game", "Energy pointing game", "GridPG")


def of(name: str, maps: Tensor, regions: Tensor, **options: float) -> Values:
    return METRICS[name].configured(**options).values(Trial(maps.double(), regions=regions))


def box(top: int, left: int, bottom: int, right: int, size: tuple[int, int] = (20, 30)) -> Tensor:
    region = torch.zeros(size, dtype=torch.bool)
    region[top:bottom, left:right] = True
    return region


def random_maps(count: int, size: tuple[int, int] = (20, 30), seed: int = 0) -> Tensor:
    return torch.rand(count, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


REGIONS = torch.stack([box(2, 3, 9, 12), box(0, 0, 20, 10) ^ box(4, 4, 6, 6), box(19, 29, 20, 30)])


def test_games_are_the_loops() -> None:
    maps = random_maps(3)
    for tolerance in (0.0, 2.0, 6.5, 15.0):
        expected = [trusted.pointing_game(m.numpy(), r.numpy(), tolerance) for m, r in zip(maps, REGIONS, strict=True)]
        assert of("Pointing game", maps, REGIONS, tolerance=tolerance).values.tolist() == expected
    for name, given in (("Energy pointing game", maps), ("GridPG", maps - 0.6)):
        expected = [trusted.share_inside(m.numpy(), r.numpy()) for m, r in zip(given, REGIONS, strict=True)]
        np.testing.assert_allclose(of(name, given, REGIONS).values, expected, rtol=1e-9)


@pytest.mark.parametrize("name", GAMES)
def test_the_region_itself_is_perfect(name: str) -> None:
    assert of(name, REGIONS, REGIONS).values.tolist() == [1, 1, 1]
    assert of(name, ~REGIONS, REGIONS).values.tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", GAMES)
def test_random_maps_get_the_regions_share(name: str) -> None:
    """A quarter of the image, as of a mosaic of 2 x 2."""
    cells = box(0, 0, 10, 15).expand(400, 20, 30)
    assert float(of(name, random_maps(400), cells).values.mean()) == pytest.approx(0.25, abs=0.05)


def test_gridpg_of_a_map_that_is_the_same_everywhere_is_one_in_n_squared() -> None:
    for n in (2, 3):
        size = (10 * n, 10 * n)
        found = of("GridPG", torch.full((1, *size), 0.4), box(10, 0, 20, 10, size)[None])
        assert float(found.values) == pytest.approx(1 / n**2, rel=1e-12)
        assert found.notes == {0: "the map is 0.4 everywhere"}


@pytest.mark.parametrize("name", ["Pointing game", "Energy pointing game"])
def test_rescaling(name: str) -> None:
    maps = random_maps(3)
    np.testing.assert_allclose(of(name, 1e-20 * maps, REGIONS).values, of(name, maps, REGIONS).values, rtol=1e-9)
    assert of("Pointing game", maps**3 - 5, REGIONS).values.equal(of("Pointing game", maps, REGIONS).values)


def test_tolerance_is_a_distance_to_the_nearest_pixel() -> None:
    heat = torch.zeros(1, 20, 30)
    heat[0, 12, 16] = 1  # 4 below and 5 right of the last pixel of the box, whose rows and columns end at 8 and 11
    for tolerance, hit in ((0, 0), (6.4, 0), (6.5, 1), (15, 1)):
        assert of("Pointing game", heat, REGIONS[:1], tolerance=tolerance).values.tolist() == [hit]


def test_of_several_maxima_the_first_counts_and_ties_are_told() -> None:
    heat = torch.zeros(2, 20, 30)
    heat[0, 5, 5:8] = 1
    heat[1, 7, 8] = 1
    found = of("Pointing game", heat, torch.stack([box(5, 5, 6, 6), box(7, 8, 8, 9)]))
    assert found.values.tolist() == [1, 1]
    assert found.ties is not None
    assert found.ties.tolist() == [3 / 600, 0]
    assert of("Pointing game", heat[:1], box(5, 6, 6, 8)[None]).values.tolist() == [0]
    even = of("Pointing game", torch.zeros(1, 20, 30), box(0, 0, 1, 1)[None])
    assert (even.values.tolist(), even.notes) == (
        [1],
        {0: "the map is 0 everywhere: its first pixel counts as the maximum"},
    )
    assert even.ties is not None
    assert even.ties.tolist() == [1]


@pytest.mark.parametrize("name", ["Energy pointing game", "GridPG"])
def test_a_map_that_is_zero_lies_nowhere(name: str) -> None:
    found = of(name, torch.zeros(3, 20, 30), REGIONS)
    assert found.values.tolist() == [0, 0, 0]
    assert found.notes[2] == "the map is nowhere above 0: no share of it lies in the region"


def test_gridpg_takes_signed_maps() -> None:
    found = of(
        "GridPG", torch.stack([REGIONS[0].double() - 2, REGIONS[0].double() - 0.5]), REGIONS[:1].expand(2, -1, -1)
    )
    assert found.values.tolist() == [0, 1]


@pytest.mark.parametrize("name", GAMES)
def test_an_empty_region_takes_one_line(name: str) -> None:
    regions = REGIONS.clone()
    regions[1] = False
    with pytest.raises(UsageError, match="^the region of image 1 is empty$"):
        measure(name, random_maps(3), regions=regions)
    with pytest.raises(UsageError, match=f"^{name} needs regions: pass regions=$"):
        measure(name, random_maps(3))


def test_gridpg_of_mosaics() -> None:
    """From images and probabilities to values, where the evidence is known: the image's own colour."""
    images = torch.arange(1.0, 9.0)[:, None, None, None].expand(8, 3, 6, 6)
    sure = torch.full((8, 5), 0.02).scatter(1, torch.arange(8)[:, None] % 4, 0.92)
    mosaics = build_mosaics(images, sure, seed=1)
    colour = mosaics.sources[:, :, None, None] + 1
    maps = (mosaics.images[:, :1] == colour).double()
    found = measure("GridPG", maps, mosaics.images, targets=mosaics.targets, regions=mosaics.regions)["GridPG"]
    assert found.values.tolist() == [1.0] * 8
    even = measure("GridPG", torch.ones_like(maps), regions=mosaics.regions)["GridPG"]
    assert even.values.tolist() == [0.25] * 8


def test_maps_take_the_regions_size_where_that_is_asked_for() -> None:
    """Without images it is the regions' size that counts."""
    small = random_maps(3, (5, 6))
    with pytest.raises(UsageError, match="the maps are 5 x 6, the regions 20 x 30: pass resize=True"):
        measure("GridPG", small, regions=REGIONS)
    large = torch.nn.functional.interpolate(small[:, None], (20, 30), mode="bilinear")[:, 0]
    found = measure("GridPG", small, regions=REGIONS, resize=True)["GridPG"].values
    assert found.equal(measure("GridPG", large, regions=REGIONS)["GridPG"].values)
