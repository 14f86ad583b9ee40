"""Pictures: the overlay's formula, and the grid."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pytorch_grad_cam.utils.image import show_cam_on_image

from camkit import grid, overlay
from camkit.errors import UsageError
from camkit.render import COLORMAPS, Picture

RANDOM = np.random.default_rng(0)
IMAGE: Picture = RANDOM.integers(0, 256, (20, 30, 3), dtype=np.uint8)
HEAT: NDArray[np.float32] = RANDOM.random((20, 30), dtype=np.float32)


@pytest.mark.parametrize("colormap", ["jet", "viridis", "HOT"])
@pytest.mark.parametrize("alpha", [0.5, 0.2, 0.0, 1.0])
@pytest.mark.parametrize("order", ["BGR", "RGB"])
def test_overlay_is_the_references(colormap: str, alpha: float, order: str) -> None:
    expected = show_cam_on_image(
        np.float32(IMAGE) / 255,
        HEAT,
        use_rgb=order == "RGB",
        colormap=COLORMAPS[colormap.lower()],
        image_weight=1 - alpha,
    )
    made = overlay(IMAGE, torch.from_numpy(HEAT), colormap=colormap, alpha=alpha, channel_order=order)
    assert made.dtype == np.uint8
    # The last bit may differ: the sum is made in another order.
    assert np.abs(made.astype(int) - expected).max() <= 1


def test_overlay_takes_half_precision_maps() -> None:
    heat = torch.from_numpy(HEAT).bfloat16()
    assert np.array_equal(overlay(IMAGE, heat), overlay(IMAGE, heat.float()))


def test_overlay_defaults_to_half_jet() -> None:
    assert np.array_equal(overlay(IMAGE, HEAT), overlay(IMAGE, HEAT, colormap="jet", alpha=0.5, channel_order="BGR"))


def test_overlay_leaves_what_wasnt_seen_without_heat() -> None:
    seen = np.zeros((20, 30), dtype=bool)
    seen[:, 10:20] = True
    made = overlay(IMAGE, HEAT * seen, seen=seen).astype(float)
    mixed = (
        np.where(seen[:, :, None], 0.5 * cv2.applyColorMap((255 * HEAT).astype(np.uint8), cv2.COLORMAP_JET), 0)
        + 0.5 * IMAGE
    )
    assert np.abs(made - 255 * mixed / mixed.max()).max() <= 2


def test_overlay_of_black_on_black() -> None:
    black = np.zeros((4, 4, 3), np.uint8)
    assert overlay(black, np.zeros((4, 4)), alpha=0.0).max() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"heat": HEAT[:10]}, r"a map of \(10, 30\) doesn't lie on an image of \(20, 30\)"),
        ({"heat": HEAT + 1}, r"a map must lie in \[0, 1\], got 1"),
        ({"heat": HEAT * np.nan}, r"a map must lie in \[0, 1\], got nan"),
        ({"image": IMAGE / 255}, r"must be a uint8 array \(H, W, 3\), got float64 \(20, 30, 3\)"),
        ({"image": IMAGE[:, :, 0]}, r"must be a uint8 array .*got uint8 \(20, 30\)"),
        ({"image": torch.from_numpy(IMAGE)}, "must be a uint8 array .*got Tensor"),
        ({"colormap": "jett"}, r"no colour map 'jett'; closest: jet.*; there are: autumn, "),
        ({"alpha": 1.5}, "alpha is the heat's share, 0 to 1, got 1.5"),
        ({"channel_order": "GBR"}, "channel_order is 'BGR' or 'RGB'"),
        ({"colormap": 2}, "colormap is a name such as 'jet', got 2"),
        ({"image": IMAGE[:0], "heat": HEAT[:0]}, r"the image is empty: \(0, 30, 3\)"),
        ({"seen": np.ones((3, 3), bool)}, r"seen is \(3, 3\), the image \(20, 30\)"),
    ],
)
def test_overlay_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        overlay(**({"image": IMAGE, "heat": HEAT} | arguments))


@pytest.mark.parametrize("order", ["BGR", "RGB"])
def test_grid_holds_every_picture_pixel_by_pixel(order: str) -> None:
    pictures = [[RANDOM.integers(0, 256, (40, 60, 3), dtype=np.uint8) for _ in range(3)] for _ in range(2)]
    page = grid(pictures, ["GradCAM", "LayerCAM"], ["a", "b", "c"], channel_order=order)
    for i, row in enumerate(pictures):
        for j, picture in enumerate(row):
            found = cv2.matchTemplate(page, picture, cv2.TM_SQDIFF)
            _, _, (x, y), _ = cv2.minMaxLoc(found)
            assert np.array_equal(page[y : y + 40, x : x + 60], picture)
            assert (y // 40, x // 60) == (i, j)
    # The labels are there: ink on the white margins.
    assert page[:26].min() < 128
    assert page[:, :26].min() < 128


def test_grid_refuses_unequal_pictures_and_missing_labels() -> None:
    with pytest.raises(UsageError, match="a grid needs equal pictures"):
        grid([[IMAGE, IMAGE[:10]]], ["row"], ["a", "b"])
    with pytest.raises(UsageError, match="1 row and 1 column labels"):
        grid([[IMAGE, IMAGE]], ["row"], ["a"])
