"""Boxes of the network's input to the regions that metrics of places read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from camkit.errors import UsageError
from camkit.metrics.annotations import Annotated
from camkit.metrics.regions import NoRegionError, seen_region


def box_regions(boxes: Any, size: Sequence[int]) -> Tensor:
    """Regions for metrics of localisation, out of boxes.

    Args:
        boxes: of each image: (N, 4) numbers, or (4,) of a single box: left, top, right, bottom in pixels of the
            network's input, whose first pixel goes from 0 to 1. A list with an entry per image, or a tensor or array
            (B, 4) or (B, N, 4). A part of a box outside the image is cut off.
        size: height and width of the network's input.

    Returns:
        (B, H, W) bool, True where a pixel's centre lies in one of the image's boxes; of a box between the centres, its
        nearest pixel.

    Raises:
        UsageError: other shapes, NaN, an image without boxes, or whose boxes are all empty or outside.

    Example:
        >>> regions = camkit.metrics.box_regions([[2, 3, 30, 20]], (64, 64))
        >>> int(regions.sum())
        476
    """
    height, width = size
    rows = list(boxes) if isinstance(boxes, Sequence | Tensor | np.ndarray) else []
    if not rows:
        raise UsageError(f"boxes must be a list with (N, 4) numbers per image, or (B, 4), got {boxes!r:.80}")
    view = (0.0, 0.0, float(width), float(height))
    made = []
    for number, row in enumerate(rows):
        objects = [Annotated(box=(left, top, right, bottom)) for left, top, right, bottom in _corners(row, number)]
        try:
            made.append(torch.from_numpy(seen_region(objects, (height, width), view, (height, width))))
        except NoRegionError as error:
            raise UsageError(f"image {number} is one {error}") from error
    return torch.stack(made)


def _corners(row: Any, number: int) -> NDArray[np.float64]:
    """An image's boxes, (N, 4)."""
    try:
        found = np.array([each.tolist() if isinstance(each, Tensor) else each for each in row], dtype=np.float64)
    except (TypeError, ValueError):
        found = np.empty(0)
    if found.shape == (4,):
        found = found[None]
    if found.ndim != 2 or found.shape[1] != 4 or not len(found):
        raise UsageError(
            f"the boxes of image {number} must be (N, 4) numbers, left, top, right, bottom; got shape {found.shape}"
        )
    if not np.isfinite(found).all():
        raise UsageError(f"the boxes of image {number} hold NaN or infinity")
    return found
