"""What counts as a picture: arrays and PIL images of any kind."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from camkit.errors import UsageError
from camkit.visualize.picture import as_picture

RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
GREY = RGB[:, :, 0]


def test_rgb_arrays_stay_as_they_are() -> None:
    np.testing.assert_array_equal(as_picture(RGB), RGB)


def test_bgr_arrays_are_reversed() -> None:
    made = as_picture(RGB[:, :, ::-1], "BGR")
    np.testing.assert_array_equal(made, RGB)
    assert made.flags.c_contiguous


@pytest.mark.parametrize("grey", [GREY, GREY[:, :, None]])
@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_grey_arrays_get_three_equal_channels(grey: np.ndarray, order: str) -> None:
    np.testing.assert_array_equal(as_picture(grey, order), np.stack([GREY] * 3, axis=2))


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_transparency_is_dropped(order: str) -> None:
    colours = RGB if order == "RGB" else RGB[:, :, ::-1]
    np.testing.assert_array_equal(as_picture(np.dstack([colours, GREY]), order), RGB)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "HSV"])
@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_pil_images_of_any_mode_are_rgb_whatever_the_order(mode: str, order: str) -> None:
    image = Image.fromarray(RGB).convert(mode)
    np.testing.assert_array_equal(as_picture(image, order), np.asarray(image.convert("RGB")))


def test_subclasses_of_pil_images_are_pil_images() -> None:
    class Photograph(Image.Image):
        pass

    photograph = Photograph()
    photograph.__setstate__(Image.fromarray(RGB).__getstate__())
    np.testing.assert_array_equal(as_picture(photograph), RGB)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (RGB / 255, r"got float64 \(20, 30, 3\); write \(255 \* image\)\.astype\('uint8'\) for an image in \[0, 1\]"),
        (RGB.astype(np.int64), r"a PIL image or a uint8 array \(H, W, 3\), RGB, got int64 \(20, 30, 3\)$"),
        (RGB[None], r"got uint8 \(1, 20, 30, 3\)"),
        (RGB.transpose(2, 0, 1), r"got uint8 \(3, 20, 30\)"),
        (RGB[0, 0], r"got uint8 \(3,\)"),
        (torch.from_numpy(RGB), "got Tensor"),
        ("cat.png", "got str"),
        (RGB[:0], r"the image is empty: \(0, 30, 3\)"),
        (GREY[:, :0], r"the image is empty: \(20, 0\)"),
        (Image.new("RGB", (0, 20)), "the image is empty: 20 x 0"),
        (Image.fromarray(GREY.astype(np.uint16)), r"more than eight bits per channel \(mode I;16\)"),
        (Image.fromarray(GREY.astype(np.float32)), r"more than eight bits per channel \(mode F\)"),
    ],
)
def test_refuses(image: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        as_picture(image)


def test_refuses_other_channel_orders() -> None:
    for image in (RGB, Image.fromarray(RGB)):
        with pytest.raises(UsageError, match="channel_order is 'RGB' or 'BGR', got 'GBR'"):
            as_picture(image, "GBR")


def test_arrays_need_no_pil() -> None:
    code = (
        "import sys; sys.modules['PIL'] = None\n"
        "import numpy as np; from camkit.visualize.picture import as_picture; as_picture(np.zeros((2, 2), np.uint8))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
