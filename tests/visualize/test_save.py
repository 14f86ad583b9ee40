"""Files are written whole or not at all."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from camkit.errors import CamkitError, UsageError
from camkit.visualize.picture import Picture
from camkit.visualize.save import (
    PICTURE_SUFFIXES,
    check_writable,
    load_raw,
    save_picture,
    save_raw,
    write_together,
)

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def read(path: Path) -> Picture:
    """A picture file, RGB."""
    picture = cv2.imread(str(path))
    assert picture is not None, path
    return np.asarray(picture[:, :, ::-1], dtype=np.uint8)


@pytest.mark.parametrize("suffix", [*PICTURE_SUFFIXES, ".PNG"])
def test_pictures_come_back(tmp_path: Path, suffix: str) -> None:
    path = save_picture(tmp_path / "new" / "folder" / f"picture{suffix}", IMAGE)
    found = read(path)
    assert found.shape == IMAGE.shape
    if suffix.lower() in (".png", ".bmp", ".tif", ".tiff"):
        np.testing.assert_array_equal(found, IMAGE)
    else:
        # Lossy, of noise: near enough to tell red from blue.
        assert np.abs(found.astype(int) - IMAGE).mean() < np.abs(found[:, :, ::-1].astype(int) - IMAGE).mean()


def test_bgr_is_reversed(tmp_path: Path) -> None:
    save_picture(tmp_path / "picture.png", IMAGE, channel_order="BGR")
    np.testing.assert_array_equal(read(tmp_path / "picture.png"), IMAGE[:, :, ::-1])


def test_pil_and_grey_images_are_written(tmp_path: Path) -> None:
    save_picture(tmp_path / "pil.png", Image.fromarray(IMAGE))
    np.testing.assert_array_equal(read(tmp_path / "pil.png"), IMAGE)
    save_picture(tmp_path / "grey.png", IMAGE[:, :, 0])
    np.testing.assert_array_equal(read(tmp_path / "grey.png"), IMAGE[:, :, :1].repeat(3, axis=2))


def test_files_get_ordinary_permissions(tmp_path: Path) -> None:
    path = save_picture(tmp_path / "picture.png", IMAGE)
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("name", ["picture", "picture.gif", "picture.npz"])
def test_unknown_extensions_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=f"can't write '.*{name}': its extension must be one of .png, "):
        save_picture(tmp_path / name, IMAGE)


def test_what_cant_be_written_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CamkitError, match="can't write '.*/file/picture.png': (File exists|Not a directory)"):
        save_picture(tmp_path / "file" / "picture.png", IMAGE)
    (tmp_path / "picture.png").mkdir()
    with pytest.raises(CamkitError, match="can't write '.*picture.png': is a folder"):
        save_picture(tmp_path / "picture.png", IMAGE)
    with pytest.raises(CamkitError, match="can't write '/proc/picture.png'"):
        save_picture("/proc/picture.png", IMAGE)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = save_picture(tmp_path / "picture.png", IMAGE)
    before = path.read_bytes()

    def fails(file: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(CamkitError, match="No space left on device"):
        write_together({tmp_path / "other.png": lambda file: file.write(b"1"), path: fails})
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["picture.png"]


def test_raw_maps_come_back_with_their_provenance(tmp_path: Path) -> None:
    maps = {"GradCAM/layer4.2": np.random.default_rng(0).normal(size=(2, 7, 7)).astype(np.float32)}
    path = save_raw(tmp_path / "raw.npz", maps, {"categories": [1, 2], "image": "katze.jpg"})
    found, provenance = load_raw(path)
    assert provenance == {"categories": [1, 2], "image": "katze.jpg"}
    assert found.keys() == maps.keys()
    np.testing.assert_array_equal(found["GradCAM/layer4.2"], maps["GradCAM/layer4.2"])
    with np.load(path, allow_pickle=False) as file:
        assert json.loads(str(file["provenance"])) == provenance


def test_raw_maps_that_cant_be_written_or_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"must be one of \.npz"):
        save_raw(tmp_path / "raw.txt", {}, {})
    for name in ("provenance", "file"):
        with pytest.raises(UsageError, match=f"an array can't be called '{name}'"):
            save_raw(tmp_path / "raw.npz", {name: IMAGE}, {})
    with pytest.raises(UsageError, match="provenance must be what JSON can hold"):
        save_raw(tmp_path / "raw.npz", {}, {"bad": IMAGE})
    with pytest.raises(CamkitError, match=r"can't read '.*nowhere\.npz': No such file"):
        load_raw(tmp_path / "nowhere.npz")
    np.savez(tmp_path / "other.npz", a=IMAGE)
    (tmp_path / "text.npz").write_text("no archive")
    for name in ("other.npz", "text.npz"):
        with pytest.raises(CamkitError, match="holds no raw maps"):
            load_raw(tmp_path / name)


def test_trying_whether_a_file_can_be_written_leaves_none(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "picture.png")
    assert list((tmp_path / "new").iterdir()) == []
    with pytest.raises(CamkitError, match="can't write '/proc/x.png'"):
        check_writable(Path("/proc/x.png"))


@pytest.mark.parametrize(("picture", "order"), [(IMAGE / 255, "RGB"), (IMAGE, "XYZ"), (IMAGE[:0], "RGB")])
def test_what_is_no_picture_is_refused(tmp_path: Path, picture: np.ndarray, order: str) -> None:
    with pytest.raises(UsageError):
        save_picture(tmp_path / "picture.png", picture, channel_order=order)
    assert list(tmp_path.iterdir()) == []
