"""Reading pictures back."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from camkit.visualize.picture import Picture


def read(path: Path) -> Picture:
    """A picture file as (H, W, 3) uint8 RGB; not being one fails the test."""
    picture = cv2.imread(str(path))
    assert picture is not None, path
    return np.asarray(picture[:, :, ::-1], dtype=np.uint8)


def write_photo(path: Path, height: int = 90, width: int = 120) -> str:
    """A lossless picture with smooth colours, different in every channel."""
    y, x = np.mgrid[0:height, 0:width]
    levels = np.stack([x * 250 / width, y * 250 / height, 255 - (x + y) * 250 / (width + height)], axis=2)
    cv2.imwrite(str(path), levels.round().astype(np.uint8))
    return str(path)
