"""Where pictures lie in images, against transforms whose geometry is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from camkit.errors import CamkitError
from camkit.models.geometry import Geometry, fit_geometry
from tests.helpers.refusals import refusal

Picture = NDArray[Any]
Transform = Callable[[Picture], Picture]

CV2 = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC, "nearest": cv2.INTER_NEAREST, "area": cv2.INTER_AREA}
PIL = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}


def resize(backend: str, interpolation: str, width: int, height: int) -> Transform:
    def run(image: Picture) -> Picture:
        if backend == "pillow":
            return np.array(Image.fromarray(image).resize((width, height), PIL[interpolation]))
        return cv2.resize(image, (width, height), interpolation=CV2[interpolation])

    return run


def edge_and_crop(size: tuple[int, int], backend: str, interpolation: str) -> tuple[Transform, Geometry]:
    """MMPretrain's usual test pipeline, short edge 256 and centre 224, and its geometry by pencil and paper."""
    height, width = size
    if width < height:
        new_w, new_h = 256, int(256 * height / width)
    else:
        new_w, new_h = int(256 * width / height), 256
    top, left = round((new_h - 224) / 2), round((new_w - 224) / 2)
    scale = resize(backend, interpolation, new_w, new_h)
    sx, sy = width / new_w, height / new_h
    geometry = Geometry(sx, (left + 0.5) * sx - 0.5, sy, (top + 0.5) * sy - 0.5, 224, 224)
    return lambda image: scale(image)[top : top + 224, left : left + 224], geometry


def corner_errors(found: Geometry, known: Geometry) -> tuple[float, float]:
    """Largest error over the picture's corners, in source pixels, along x and y."""
    assert (found.height, found.width) == (known.height, known.width)
    u, v = np.array([0, known.width - 1]), np.array([0, known.height - 1])
    x = (found.scale_x - known.scale_x) * u + found.offset_x - known.offset_x
    y = (found.scale_y - known.scale_y) * v + found.offset_y - known.offset_y
    return float(np.abs(x).max()), float(np.abs(y).max())


def assert_close(found: Geometry, known: Geometry, size: tuple[int, int], moderate: float = 0.75) -> None:
    error_x, error_y = corner_errors(found, known)
    assert error_x < max(moderate, 0.002 * size[1]), (found, known)
    assert error_y < max(moderate, 0.002 * size[0]), (found, known)


@pytest.mark.parametrize(
    ("backend", "interpolation"),
    [("cv2", "bilinear"), ("cv2", "bicubic"), ("cv2", "area"), ("pillow", "bilinear"), ("pillow", "bicubic")],
)
@pytest.mark.parametrize("size", [(480, 640), (640, 427), (300, 451), (100, 80), (2250, 4000), (256, 256)])
def test_edge_and_centre_crop(size: tuple[int, int], backend: str, interpolation: str) -> None:
    transform, known = edge_and_crop(size, backend, interpolation)
    assert_close(fit_geometry(transform, size), known, size)


def test_nearest_is_within_a_picture_pixel() -> None:
    transform, known = edge_and_crop((480, 640), "cv2", "nearest")
    assert_close(fit_geometry(transform, (480, 640)), known, (480, 640), moderate=640 / 341)


@pytest.mark.parametrize("backend", ["cv2", "pillow"])
def test_a_thin_slice_of_a_panorama(backend: str) -> None:
    """Short edge 256 makes 10 000 x 60 very wide: the picture shows 0.5 % of it, two levels of the coarse ramp."""
    transform, known = edge_and_crop((60, 10_000), backend, "bilinear")
    error_x, error_y = corner_errors(fit_geometry(transform, (60, 10_000)), known)
    assert error_x < 0.75
    assert error_y < 0.75


@pytest.mark.parametrize("size", [(2, 3), (5, 4), (8, 16), (20, 30)])
@pytest.mark.parametrize("backend", ["cv2", "pillow"])
def test_tiny_images(size: tuple[int, int], backend: str) -> None:
    known = Geometry(size[1] / 96, 0.5 * size[1] / 96 - 0.5, size[0] / 64, 0.5 * size[0] / 64 - 0.5, 64, 96)
    for interpolation in ("bilinear", "bicubic"):
        found = fit_geometry(resize(backend, interpolation, 96, 64), size)
        error_x, error_y = corner_errors(found, known)
        assert max(error_x, error_y) < 0.3


def test_one_pixel() -> None:
    found = fit_geometry(resize("cv2", "bilinear", 32, 16), (1, 1))
    values, seen = found.to_original(np.ones((16, 32), np.float32), (1, 1))
    assert seen.all()
    np.testing.assert_allclose(values, 1)


def test_identity_is_exact_for_maps() -> None:
    found = fit_geometry(lambda image: image, (37, 53))
    assert_close(found, Geometry(1, 0, 1, 0, 37, 53), (37, 53), moderate=0.05)
    values = np.random.default_rng(0).random((37, 53), dtype=np.float32)
    out, seen = Geometry(1, 0, 1, 0, 37, 53).to_original(values, (37, 53))
    np.testing.assert_array_equal(out, values)
    assert seen.all()


def test_not_square() -> None:
    known = Geometry(640 / 224, 0.5 * 640 / 224 - 0.5, 300 / 128, 0.5 * 300 / 128 - 0.5, 128, 224)
    assert_close(fit_geometry(resize("cv2", "bilinear", 224, 128), (300, 640)), known, (300, 640))


@pytest.mark.parametrize("colour", [0, 114, 255])
@pytest.mark.parametrize("before", [True, False])
def test_pad(colour: int, before: bool) -> None:
    def pad(image: Picture) -> Picture:
        return cv2.copyMakeBorder(image, 10, 30, 40, 20, cv2.BORDER_CONSTANT, value=(colour,) * 3)

    small = resize("cv2", "bilinear", 180, 120)
    if before:  # 400 x 300 becomes 460 x 340, then 180 x 120
        sx, sy = 460 / 180, 340 / 120
        known = Geometry(sx, 0.5 * sx - 0.5 - 40, sy, 0.5 * sy - 0.5 - 10, 120, 180)
        found = fit_geometry(lambda image: small(pad(image)), (300, 400))
    else:
        sx, sy = 400 / 180, 300 / 120
        known = Geometry(sx, 0.5 * sx - 0.5 - 40 * sx, sy, 0.5 * sy - 0.5 - 10 * sy, 160, 240)
        found = fit_geometry(lambda image: pad(small(image)), (300, 400))
    assert_close(found, known, (300, 400))
    assert found.to_original(np.ones((known.height, known.width), np.float32), (300, 400))[1].all()


def test_flips() -> None:
    known = Geometry(-2, 399 - 0.5, -3, 299 - 1, 100, 200)
    small = resize("cv2", "area", 200, 100)
    assert_close(fit_geometry(lambda image: small(image[::-1, ::-1].copy()), (300, 400)), known, (300, 400))


def test_channel_order_and_greyscale_do_not_matter() -> None:
    transform, known = edge_and_crop((480, 640), "cv2", "bilinear")
    assert_close(fit_geometry(lambda image: transform(image)[..., ::-1], (480, 640)), known, (480, 640))
    grey = fit_geometry(lambda image: cv2.cvtColor(transform(image), cv2.COLOR_BGR2GRAY), (480, 640))
    assert_close(grey, known, (480, 640))


def rotate(degrees: float) -> Transform:
    def run(image: Picture) -> Picture:
        height, width = image.shape[:2]
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
        return cv2.warpAffine(image, matrix, (width, height))

    return run


def stretch(image: Picture) -> Picture:
    return np.array(ImageOps.autocontrast(Image.fromarray(image[60:200, 90:300])))


class Undecided:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, image: Picture) -> Picture:
        self.calls += 1
        return image[:, ::-1] if self.calls % 2 else image


@pytest.mark.parametrize(
    "transform",
    [
        rotate(2),
        rotate(30),
        lambda image: np.rot90(image).copy(),
        lambda image: 255 - image,
        lambda image: (image * 0.8).astype(np.uint8),
        lambda image: (255 * (image / 255) ** 2.2).astype(np.uint8),
        lambda image: cv2.copyMakeBorder(image, 100, 100, 100, 100, cv2.BORDER_REFLECT),
        stretch,
        lambda image: np.zeros_like(image),
        Undecided(),
    ],
    ids=["2", "30", "quarter turn", "invert", "darken", "gamma", "reflect", "contrast", "blank", "random"],
)
def test_what_cannot_be_undone_is_refused(transform: Transform) -> None:
    assert refusal(fit_geometry, CamkitError, transform, (300, 400)).startswith(
        "can't undo what the preprocessing does"
    )


def test_a_spot_comes_back_to_its_place() -> None:
    """A blob drawn on the original, taken through the transform as if it were a map, returns where it was."""
    size, centre = (480, 640), (350, 200)
    transform, _ = edge_and_crop(size, "cv2", "bilinear")
    x, y = np.meshgrid(np.arange(640), np.arange(480))
    blob = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * 25**2)).astype(np.float32)
    picture = transform(np.repeat(blob[..., None], 3, axis=2))[..., 0]
    back, seen = fit_geometry(transform, size).to_original(picture, size)
    assert back.dtype == np.float32
    assert seen.dtype == np.bool_
    assert np.abs(back - blob)[seen].max() < 0.02
    assert not back[~seen].any()


def test_seen_is_the_crop() -> None:
    """Centre 100 x 50 of 200 x 80, no resize."""
    found = fit_geometry(lambda image: image[15:65, 50:150], (80, 200))
    _, seen = found.to_original(np.ones((50, 100), np.float32), (80, 200))
    expected = np.zeros((80, 200), bool)
    expected[15:65, 50:150] = True
    np.testing.assert_array_equal(seen, expected)


def test_padding_appended_to_the_map_is_ignored() -> None:
    geometry = Geometry(2, 0.5, 2, 0.5, 20, 30)
    values = np.zeros((32, 32), np.float32)
    values[:20, :30] = 1
    out, seen = geometry.to_original(values, (40, 60))
    assert seen.all()
    np.testing.assert_allclose(out, 1)
