"""Reading pictures back."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from camkit.render import Picture


def read(path: Path) -> Picture:
    """A picture file as (H, W, 3) uint8 BGR; not being one fails the test."""
    picture = cv2.imread(str(path))
    assert picture is not None, path
    return np.asarray(picture, dtype=np.uint8)
