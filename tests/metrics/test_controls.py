"""Maps that know nothing of the network."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from camkit.metrics.controls import CONTROLS, centred_gaussian, edges, make_controls, random_maps

IMAGES = torch.randn(3, 3, 24, 40, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_is_a_map_in_0_to_1_of_each_image_whatever_the_batch_and_order(name: str) -> None:
    control = make_controls((5, 7), seed=3)[name]
    maps = control(IMAGES)
    assert maps.shape == (3, 24, 40)
    assert maps.min() >= 0
    assert 0.99 < float(maps.max()) <= 1
    alone = torch.cat([control(image[None]) for image in IMAGES.flip(0)]).flip(0)
    assert_close(maps, alone)


def test_random_maps_differ_from_image_to_image_and_from_seed_to_seed() -> None:
    maps, others = random_maps(IMAGES, seed=0), random_maps(IMAGES, seed=1)
    assert not maps[0].equal(maps[1])
    assert not maps.equal(others)
    assert maps.equal(random_maps(IMAGES, seed=0))


def test_random_maps_are_rectified_noise_at_the_layer_s_resolution() -> None:
    """At its own resolution, half of the cells are zero; enlarged, it is smooth between them."""
    cells = random_maps(torch.randn(50, 3, 8, 8), grid=(8, 8))
    assert 0.4 < float((cells == 0).double().mean()) < 0.6
    smooth = random_maps(IMAGES, grid=(2, 2))
    assert float(smooth.diff(dim=2).abs().max()) < 0.1


def test_the_gaussian_is_symmetric_and_highest_in_the_middle() -> None:
    heat = centred_gaussian(IMAGES)[0]
    assert_close(heat, heat.flip(0))
    assert_close(heat, heat.flip(1))
    assert float(heat[11:13, 19:21].min()) == float(heat.max())


def test_edges_are_sobel_s_gradient() -> None:
    """By hand: a vertical step has the slope 4 beside it and 0 elsewhere."""
    image = torch.zeros(1, 3, 9, 9)
    image[..., 5:] = 1
    heat = edges(image)[0]
    assert (heat[:, [4, 5]] > 0.99).all()
    assert not heat[:, [0, 1, 2, 3, 6, 7, 8]].any()
    assert_close(edges(image.transpose(2, 3))[0], heat.T)


def test_edges_of_an_image_of_one_colour_are_nowhere() -> None:
    assert not edges(torch.ones(1, 3, 8, 8)).any()
