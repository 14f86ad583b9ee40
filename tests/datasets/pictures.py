"""Data sets for the tests: small pictures, broken files of all kinds, and a classifier that goes to other processes."""

from __future__ import annotations

import struct
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

from camkit.datasets import Run, load
from camkit.models.classifier import Classifier
from camkit.models.pillow import Normalisation, prepare
from tests.helpers.networks import SmallCNN, seeded

IMAGES = 60
"""Pictures of the data set that disturbed runs explain."""
CPU = torch.device("cpu")
CLASSES = ("tabby cat", "tiger cat", "espresso", "cup", "dog, hound")


def classifier(seed: int = 11, *, whole: bool = False, model: Any = None) -> Classifier:
    """A tiny network that sees pictures at 32 x 32, or ``whole``, at their own size."""
    transform = as_they_are if whole else squeezed
    preparation = partial(
        prepare, transform=transform, normalisation=Normalisation((0.5,) * 3, (0.25,) * 3), device=torch.device("cpu")
    )
    network = seeded(SmallCNN(), seed) if model is None else model
    return Classifier(network, CLASSES, "softmax", "cnn", None, None, torch.device("cpu"), preparation)


def squeezed(image: Image.Image) -> Tensor:
    """The whole picture at 32 x 32."""
    return as_they_are(image.resize((32, 32), Image.Resampling.BILINEAR))


def as_they_are(image: Image.Image) -> Tensor:
    """The picture at its own size."""
    return (torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 - 0.5) / 0.25


def write_pictures(folder: Path, count: int, size: tuple[int, int] = (40, 60), suffix: str = ".png") -> Path:
    """Pictures ``000.png`` and so on, of coarse noise, no two alike; every size is (height, width)."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(count)
    for number in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        coarse.resize((size[1], size[0])).save(folder / f"{number:03}{suffix}")
    return folder


def write_classes(folder: Path, count: int = 4) -> Path:
    """Class folders, called as two of the classes, with pictures in each."""
    for number, name in enumerate(("espresso", "tabby cat")):
        write_pictures(folder / name, count + number)
    return folder


def write_broken(folder: Path) -> dict[str, str]:
    """Files of all kinds that aren't plain pictures: name to what the error says, empty where there is a map."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = Image.open(write_pictures(folder / "whole", 1) / "000.png")
    picture.save(folder / "whole.jpg")
    content = (folder / "whole.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(content[: len(content) // 2])
    (folder / "zero.jpg").write_bytes(b"")
    (folder / "text.png").write_bytes(b"no picture at all")
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    picture.convert("L").save(folder / "grey.png")
    picture.convert("P").save(folder / "palette.gif", save_all=True, append_images=[picture.rotate(90).convert("P")])
    Image.fromarray(np.arange(2400, dtype=np.uint16).reshape(40, 60) * 20).save(folder / "deep.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    picture.save(folder / "turned.jpg", exif=turned)
    (folder / "folder.jpg").mkdir()
    (folder / "bomb.png").write_bytes(_bomb(20000, 20000))
    picture.save(folder / "new\nline.png")
    return {
        "truncated.jpg": "truncated",
        "zero.jpg": "is an empty file",
        "text.png": "cannot identify",
        "deep.png": "more than eight bits",
        "folder.jpg": "is a folder",
        "bomb.png": "exceeds limit",
        "whole.jpg": "",
        "whole/000.png": "",
        "cmyk.jpg": "",
        "grey.png": "",
        "palette.gif": "",
        "turned.jpg": "",
        "new\nline.png": "",
    }


def rows_of(run: Path | Run) -> dict[str, dict[str, Any]]:
    """All columns of all rows by id, but for the time they took."""
    found = (run if isinstance(run, Run) else load(run)).to_arrow().drop_columns(["seconds"])
    return {row["id"]: row for row in found.to_pylist()}


def assert_same_rows(run: Path | Run, expected: Path | Run) -> None:
    """Check that two runs hold the same rows, each once, to what the batch's size changes in float32."""
    one, other = (each if isinstance(each, Run) else load(each) for each in (run, expected))
    assert sorted(one.ids) == sorted(other.ids)
    assert len(set(one.ids)) == len(one)
    rows, wanted = rows_of(one), rows_of(other)
    for name, row in rows.items():
        for column, value in row.items():
            want = wanted[name][column]
            if isinstance(value, float) or (isinstance(value, list) and value and isinstance(value[0], float)):
                assert_close(torch.tensor(value), torch.tensor(want), rtol=1e-4, atol=1e-5, equal_nan=True)
            elif column != "path":
                assert value == want, (name, column)


def _bomb(width: int, height: int) -> bytes:
    """The head of a PNG that claims to be large: no loader gets to the pixels that it doesn't have."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
