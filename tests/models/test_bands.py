"""Arrays of any depth and any number of bands as RGB pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from camkit.errors import UsageError
from camkit.models.bands import as_uint8, how_shown, is_eight_bit, show
from camkit.models.prepared import Prepared
from tests.helpers.refusals import refusal

PIXEL = np.array([[[10, 20, 30, 40]]], np.uint8)
RAMP = np.linspace(0, 1, 10_000).reshape(100, 100)


@pytest.mark.parametrize(
    ("image", "bgr", "rgb"),
    [
        (PIXEL[..., :3], False, [10, 20, 30]),
        (PIXEL[..., :3], True, [30, 20, 10]),
        (PIXEL, False, [10, 20, 30]),
        (PIXEL, True, [30, 20, 10]),
        (PIXEL[..., :1], True, [10, 10, 10]),
        (PIXEL[..., 0], True, [10, 10, 10]),
        (PIXEL[..., :2], False, [10, 10, 10]),
        (PIXEL.repeat(3, axis=2), True, [10, 10, 10]),
    ],
    ids=[
        "RGB",
        "BGR",
        "RGBA",
        "BGRA",
        "grey",
        "flat grey",
        "grey with transparency",
        "12 bands, whose order is theirs",
    ],
)
def test_the_first_three_bands_or_one(image: NDArray[np.uint8], bgr: bool, rgb: list[int]) -> None:
    made = show(image, bgr=bgr)
    assert made.tolist() == [[rgb]]
    assert made.dtype == np.uint8
    assert made.flags.c_contiguous
    assert not np.shares_memory(made, image)


def test_bands_by_number() -> None:
    assert show(PIXEL, [4, 1, 2]).tolist() == [[[40, 10, 20]]]
    assert show(PIXEL, [4, 1, 2], bgr=True).tolist() == [[[40, 30, 20]]]  # red is the first, wherever it stands
    assert show(PIXEL, [1, 2, 3], bgr=True).tolist() == show(PIXEL, bgr=True).tolist()
    assert show(PIXEL, [2]).tolist() == [[[20, 20, 20]]]
    assert how_shown(PIXEL, [2]) == "band 2 of 4 (uint8)"
    for bands in ([1, 2], [5], [1, 2, 0], [1, 2, 3, 4]):
        assert "the image has 4 bands; name one" in refusal(show, UsageError, PIXEL, bands)
    assert "the bands 2: the image has one band" in refusal(show, UsageError, PIXEL[..., 0], [2])


@pytest.mark.parametrize(
    "image",
    [
        (RAMP * 65535).astype(np.uint16),
        (RAMP * 900 + 100).astype(np.uint16),
        (RAMP * 4000 - 1000).astype(np.int16),
        RAMP.astype(np.float32),
        RAMP * 1e-6,
        RAMP.astype(np.float16) * 200,
    ],
    ids=["uint16", "twelve bits", "Hounsfield", "0 to 1", "tiny", "half"],
)
def test_deep_values_are_scaled_between_their_percentiles(image: NDArray[Any]) -> None:
    """Of an even ramp the lowest and the highest 2 % saturate, and the rest is even."""
    made = show(image)
    assert how_shown(image) == f"band 1 of 1 ({image.dtype}), scaled from percentile 2 to 98 of each"
    expected = ((RAMP - 0.02) / 0.96 * 255).clip(0, 255)
    assert np.abs(made[..., 0] - expected).max() <= 1.6  # half precision has steps of an eighth at 200
    assert (made == made[..., :1]).all()


def test_each_band_is_scaled_by_itself() -> None:
    image = np.stack([RAMP * 10, RAMP * 5000, RAMP[::-1] * 0.1], axis=2).astype(np.float32)
    made = show(image)
    np.testing.assert_array_equal(made[..., 0], made[..., 1])
    np.testing.assert_array_equal(made[..., 0], made[::-1, :, 2])


def test_outliers_and_holes_dont_darken_the_rest() -> None:
    image = (RAMP * 100 + 300).astype(np.float32)
    whole = show(image)
    image[0, :5] = [np.nan, np.inf, -np.inf, 1e9, -1e9]
    assert np.abs(show(image).astype(int) - whole)[1:].max() <= 1
    assert show(image)[0, :3].max() == 0
    assert not show(np.full((4, 4), np.nan)).any()


def test_flat_images() -> None:
    assert not show(np.full((3, 3), 700, np.uint16)).any()
    spot = np.zeros((100, 100), np.uint16)
    spot[50, 50] = 9  # beyond the percentiles
    assert show(spot)[50, 50].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("values", "eight"),
    [
        (np.array([0, 255], np.uint8), True),
        (np.array([0.0, 7.0, 255.0]), True),
        (np.array([0.0, 0.0]), False),
        (np.array([0.0, 1.0]), False),
        (np.array([0.0, 255.5]), False),
        (np.array([0.0, 256.0]), False),
        (np.array([-1.0, 9.0]), False),
        (np.array([1, 255], np.uint16), False),
        (np.array([np.nan]), False),
    ],
)
def test_what_counts_as_eight_bits(values: NDArray[Any], eight: bool) -> None:
    assert is_eight_bit(values) == eight


def test_rounded_to_eight_bits() -> None:
    assert as_uint8(np.array([-3.0, 0.4, 0.6, 254.5, 300.0, np.nan])).tolist() == [0, 0, 1, 254, 255, 0]
    assert as_uint8(np.array([7], np.uint8)).tolist() == [7]
    assert as_uint8(np.array([False, True])).tolist() == [0, 255]


def test_a_resize_of_eight_bits_is_not_scaled() -> None:
    """Bicubic kernels overshoot; what was divided by 255 is scaled again."""
    whole = np.array([[0.0, 100.0, 200.0]])
    seen = np.array([[-7.5, 99.6, 262.0]])
    prepared = Prepared(torch.zeros(1, 1, 1, 3), seen, whole, lambda image: image)
    assert prepared.picture[..., 0].tolist() == [[0, 100, 255]]
    assert prepared.how_shown() is None
    divided = Prepared(torch.zeros(1, 1, 1, 3), whole / 255, whole, lambda image: image)
    assert divided.picture[..., 0].tolist() == [[0, 128, 255]]
    assert "scaled" in str(divided.how_shown())
    assert divided.how_shown(original_size=True) is None
