"""Images read with Pillow, and pictures from normalised tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from camkit.errors import CamkitError
from camkit.models.pillow import Normalisation, measure, prepare, read
from tests.helpers.pictures import write_photo
from tests.helpers.refusals import refusal


def normalise(image: Image.Image) -> torch.Tensor:
    """Half the size; mean 0.4, 0.5, 0.6 and deviation 0.25 in RGB."""
    small = np.array(image.resize((max(image.width // 2, 1), max(image.height // 2, 1)), Image.Resampling.BOX))
    colours = torch.from_numpy(small).permute(2, 0, 1).double() / 255
    return (colours - torch.tensor([0.4, 0.5, 0.6])[:, None, None]) / 0.25


NORMALISATION = Normalisation((0.4, 0.5, 0.6), (0.25,) * 3)


def test_a_prepared_image(photo: str) -> None:
    prepared = prepare(photo, normalise, NORMALISATION, torch.device("cpu"))
    rgb = Image.open(photo)
    torch.testing.assert_close(prepared.inputs, normalise(rgb)[None], rtol=0, atol=0)
    np.testing.assert_array_equal(prepared.original, np.asarray(rgb))
    small = np.asarray(rgb.resize((60, 45), Image.Resampling.BOX))
    np.testing.assert_array_equal(prepared.picture, small)
    assert prepared.picture.dtype == prepared.original.dtype == np.uint8
    assert prepared.geometry.scale_x == pytest.approx(2, rel=0.01)
    green, seen = prepared.to_original(prepared.picture[..., 1].astype(np.float32))
    assert seen.all()
    assert np.abs(green - prepared.original[..., 1]).max() < 4


def test_normalisation_is_measured_and_undone() -> None:
    found = measure(normalise)
    assert not found.bgr
    assert found.mean == pytest.approx(NORMALISATION.mean)
    assert found.std == pytest.approx(NORMALISATION.std)
    exchanged = measure(lambda image: normalise(image).flip(0))
    assert exchanged.bgr
    assert exchanged.mean == pytest.approx((0.6, 0.5, 0.4))
    red = Image.new("RGB", (10, 8), "red")
    for normalisation, inputs in ((found, normalise(red)), (exchanged, normalise(red).flip(0))):
        np.testing.assert_array_equal(normalisation.undo(inputs), np.broadcast_to([255, 0, 0], (4, 5, 3)))


def test_grey_networks_have_grey_pictures() -> None:
    grey = measure(lambda image: normalise(image.convert("L").convert("RGB"))[:1])
    assert grey.mean == pytest.approx((0.4,))
    np.testing.assert_array_equal(Normalisation((0.5,), (0.5,)).undo(torch.zeros(1, 2, 2)), np.full((2, 2, 3), 128))


def test_preprocessing_that_shows_nothing() -> None:
    assert "come out alike" in refusal(measure, CamkitError, lambda _: torch.zeros(3, 8, 8))


def test_preprocessing_that_fails(photo: str) -> None:
    def fails(image: Image.Image) -> torch.Tensor:
        raise ValueError("too small. Or too large\n")

    message = refusal(prepare, CamkitError, photo, fails, NORMALISATION, torch.device("cpu"))
    assert message == f"the preprocessing fails on {photo}: ValueError: too small"


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "LA", "1"])
def test_other_modes_are_read_as_rgb(mode: str, photo: str, tmp_path: Path) -> None:
    other = Image.open(photo).convert(mode)
    other.save(tmp_path / "other.png")
    np.testing.assert_array_equal(np.asarray(read(str(tmp_path / "other.png"))), np.asarray(other.convert("RGB")))


def test_a_single_pixel(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), "red").save(tmp_path / "x.png")
    prepared = prepare(str(tmp_path / "x.png"), normalise, NORMALISATION, torch.device("cpu"))
    assert prepared.original.tolist() == [[[255, 0, 0]]]


def test_exif_orientation_is_followed(photo: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8  # to be turned by 90 degrees
    straight = Image.open(photo)
    straight.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(read(str(tmp_path / "turned.png"))), np.asarray(straight))


def test_files_that_are_no_images(tmp_path: Path) -> None:
    path = tmp_path / "bad.png"
    whole = Path(write_photo(tmp_path / "whole.png", 300, 400)).read_bytes()
    for content in (b"hello\n" * 99, b"\x89PNG\r\n\x1a\n" + bytes(50), whole[: len(whole) // 2]):
        path.write_bytes(content)
        assert f"can't read {path} as an image" in refusal(read, CamkitError, str(path))
    path.unlink()
    assert f"no image {path}" in refusal(read, CamkitError, str(path))


def test_more_than_eight_bits(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    Image.fromarray(np.linspace(0, 65535, 10000).reshape(100, 100).astype(np.uint16)).save(path)
    assert "more than eight bits" in refusal(read, CamkitError, str(path))
