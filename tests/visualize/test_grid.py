"""Pictures in rows and columns."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
from PIL import Image

from camkit.errors import UsageError
from camkit.visualize.colours import concept_colour
from camkit.visualize.grid import BAND, GAP, NOTE, grid
from camkit.visualize.picture import Picture

RANDOM = np.random.default_rng(0)
HEIGHT, WIDTH = 100, 150
PICTURE: Picture = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def cell(page: Picture, row: int, column: int) -> Picture:
    """What stands in a grid of PICTURE's size."""
    top, left = BAND + row * (HEIGHT + GAP), BAND + column * (WIDTH + GAP)
    return page[top : top + HEIGHT, left : left + WIDTH]


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_holds_every_picture_pixel_by_pixel(order: str) -> None:
    pictures = [[RANDOM.integers(0, 256, PICTURE.shape, dtype=np.uint8) for _ in range(3)] for _ in range(2)]
    page = grid(pictures, ["GradCAM", "LayerCAM"], ["a", "b", "c"], channel_order=order)
    for i, row in enumerate(pictures):
        for j, picture in enumerate(row):
            np.testing.assert_array_equal(cell(page, i, j), picture)
    # The labels are there: ink on the white bands.
    assert page[:26].min() < 128
    assert page[:, :26].min() < 128


def test_takes_pil_and_grey_images() -> None:
    page = grid([[Image.fromarray(PICTURE), PICTURE[:, :, 0]]], ["row"], ["a", "b"])
    np.testing.assert_array_equal(cell(page, 0, 0), PICTURE)
    np.testing.assert_array_equal(cell(page, 0, 1), PICTURE[:, :, :1].repeat(3, axis=2))


def test_text_stands_where_there_is_no_picture() -> None:
    page = grid([[PICTURE, "[2] nothing\nof the kind"], ["", PICTURE]], ["a", "b"], ["c", "d"])
    assert (cell(page, 1, 0) == 255).all()
    text = cell(page, 0, 1)
    assert 0 < (text < 128).any(2).mean() < 0.1
    swatch = (text == np.array(concept_colour(2))).all(2)
    assert 40 < swatch.sum() < 100


def test_a_line_below_each_picture() -> None:
    page = grid([[PICTURE, PICTURE]] * 2, ["a", "b"], ["c", "d"], notes=[["0.51", ""], ["", "0.83"]])
    assert page.shape == (BAND + 2 * (HEIGHT + GAP + NOTE), BAND + 2 * (WIDTH + GAP), 3)
    for i in range(2):
        for j in range(2):
            top, left = BAND + i * (HEIGHT + GAP + NOTE), BAND + j * (WIDTH + GAP)
            np.testing.assert_array_equal(page[top : top + HEIGHT, left : left + WIDTH], PICTURE)
            line = page[top + HEIGHT : top + HEIGHT + NOTE, left : left + WIDTH]
            assert (line.min() < 128) == (i == j)
    with pytest.raises(UsageError, match="a grid needs a note per picture: got .1, 2. in rows"):
        grid([[PICTURE, PICTURE]] * 2, ["a", "b"], ["c", "d"], notes=[["x"], ["y", "z"]])


def test_refuses() -> None:
    with pytest.raises(UsageError, match="a grid needs equal pictures"):
        grid([[PICTURE, PICTURE[:10]]], ["row"], ["a", "b"])
    with pytest.raises(UsageError, match="1 row and 1 column labels"):
        grid([[PICTURE, PICTURE]], ["row"], ["a"])
    with pytest.raises(UsageError, match="a grid needs equal pictures"):
        grid([["no", "picture"]], ["row"], ["a", "b"])
    with pytest.raises(UsageError, match="the image must be a PIL image or a uint8 array"):
        grid([[cast("Picture", PICTURE / 255)]], ["row"], ["a"])
    with pytest.raises(UsageError, match="channel_order is"):
        grid([[PICTURE]], ["row"], ["a"], channel_order="GBR")
