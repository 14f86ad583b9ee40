"""Maps and images to pictures: the overlay, and the grid of overlays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from camkit.errors import UsageError, closest

Picture = NDArray[np.uint8]
"""(H, W, 3) uint8, BGR unless said otherwise, as OpenCV reads and writes."""
COLORMAPS: dict[str, int] = {
    name.removeprefix("COLORMAP_").lower(): getattr(cv2, name) for name in dir(cv2) if name.startswith("COLORMAP_")
}
"""OpenCV's colour maps by lower-case name."""


def overlay(
    image: Picture,
    heat: Tensor | NDArray[Any],
    *,
    colormap: str = "jet",
    alpha: float = 0.5,
    channel_order: str = "BGR",
    seen: NDArray[np.bool_] | None = None,
) -> Picture:
    """Lay a map over an image: ``alpha`` heat plus ``1 - alpha`` image, scaled so that the brightest value is 255.

    Args:
        image: (H, W, 3) uint8.
        heat: (H, W) in [0, 1], tensor or array.
        colormap: one of :data:`COLORMAPS`.
        alpha: the heat's share, 0 to 1.
        channel_order: ``"BGR"`` or ``"RGB"``, the order of ``image`` and of the picture returned.
        seen: (H, W); where it is False the image stays without heat (the network didn't see it).

    Returns:
        (H, W, 3) uint8, truncated, in ``image``'s channel order.

    Raises:
        UsageError: another dtype, shape or range, or an unknown colour map or channel order.
    """
    check_picture(image, channel_order)
    values = _heat(heat, image)
    if seen is not None and seen.shape != values.shape:
        raise UsageError(f"seen is {seen.shape}, the image {values.shape}")
    if not 0 <= alpha <= 1:
        raise UsageError(f"alpha is the heat's share, 0 to 1, got {alpha}")
    colours = cv2.applyColorMap((255 * values).astype(np.uint8), find_colormap(colormap))
    if channel_order == "RGB":
        colours = np.ascontiguousarray(colours[:, :, ::-1])
    hot = colours.astype(np.float32) / 255
    if seen is not None:
        hot = hot * seen[:, :, None]
    mixed = alpha * hot + (1 - alpha) * (image.astype(np.float32) / 255)
    # An all-black mix has nothing to scale.
    picture: Picture = (255 * (mixed / (mixed.max() or 1))).astype(np.uint8)
    return picture


def check_picture(image: Picture, channel_order: str) -> None:
    """Refuse what is no picture.

    Raises:
        UsageError: no uint8 array (H, W, 3) with something in it, or a channel order that is neither BGR nor RGB.
    """
    if channel_order not in ("BGR", "RGB"):
        raise UsageError(f"channel_order is 'BGR' or 'RGB', got {channel_order!r}")
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise UsageError(f"the image must be a uint8 array (H, W, 3), got {got}")
    if not image.size:
        raise UsageError(f"the image is empty: {image.shape}")


def find_colormap(name: str) -> int:
    """OpenCV's constant for the colour map ``name``, in any case.

    Raises:
        UsageError: there is none of that name.
    """
    if not isinstance(name, str):
        raise UsageError(f"colormap is a name such as 'jet', got {name!r}")
    if name.lower() not in COLORMAPS:
        raise UsageError(f"no colour map {name!r}{closest(name, COLORMAPS)}; there are: {', '.join(COLORMAPS)}")
    return COLORMAPS[name.lower()]


def grid(
    pictures: Sequence[Sequence[Picture]], rows: Sequence[str], columns: Sequence[str], *, channel_order: str = "BGR"
) -> Picture:
    """Pictures in labelled rows and columns.

    Args:
        pictures: rows of pictures, all of one size (H, W, 3) uint8.
        rows: a label per row, drawn upright at the left.
        columns: a label per column, drawn on top.
        channel_order: ``"BGR"`` or ``"RGB"``, the order of the pictures given and of the one returned.

    Returns:
        One picture on white, uint8. The pictures stand in it pixel by pixel.

    Raises:
        UsageError: counts or sizes that don't agree.
    """
    sizes = {picture.shape for row in pictures for picture in row}
    if len(sizes) != 1 or len(rows) != len(pictures) or {len(row) for row in pictures} != {len(columns)}:
        raise UsageError(
            f"a grid needs equal pictures and a label per row and column: got sizes {sorted(sizes)}, rows "
            f"{[len(row) for row in pictures]}, {len(rows)} row and {len(columns)} column labels"
        )
    height, width = next(iter(sizes))[:2]
    gap, band = 6, 28
    # Matplotlib's object interface, without pyplot: no global state, no window, exact pixels at 100 dpi.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    total = (band + len(rows) * (height + gap), band + len(columns) * (width + gap))
    figure = Figure(figsize=(total[1] / 100, total[0] / 100), dpi=100, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    for index, label in enumerate(columns):
        x = (band + index * (width + gap) + width / 2) / total[1]
        figure.text(x, 1 - band / 2 / total[0], _fitted(label, width), ha="center", va="center", size=9)
    for index, label in enumerate(rows):
        y = 1 - (band + index * (height + gap) + height / 2) / total[0]
        figure.text(band / 2 / total[1], y, _fitted(label, height), ha="center", va="center", rotation=90, size=9)
    canvas.draw()
    page = np.array(canvas.buffer_rgba(), dtype=np.uint8)[:, :, :3]
    for i, row in enumerate(pictures):
        for j, picture in enumerate(row):
            top, left = band + i * (height + gap), band + j * (width + gap)
            page[top : top + height, left : left + width] = picture if channel_order == "RGB" else picture[:, :, ::-1]
    return page if channel_order == "RGB" else np.ascontiguousarray(page[:, :, ::-1])


def _heat(heat: Tensor | NDArray[Any], image: Picture) -> NDArray[np.float32]:
    array = heat.detach().float().cpu().numpy() if isinstance(heat, torch.Tensor) else heat
    values: NDArray[np.float32] = np.asarray(array, dtype=np.float32)
    if values.shape != image.shape[:2]:
        raise UsageError(
            f"a map of {values.shape} doesn't lie on an image of {image.shape[:2]}: overlay the image as the network "
            "saw it, or resize one of them"
        )
    if not (values.min() >= 0 and values.max() <= 1):
        raise UsageError(f"a map must lie in [0, 1], got {values.min():.3g} to {values.max():.3g}")
    return values


def _fitted(label: str, pixels: int) -> str:
    """``label`` with an ellipsis in it where it would run over its neighbours; its end, the score, stays."""
    room = max(10, pixels // 7)
    return label if len(label) <= room else f"{label[: room - 8]}…{label[-7:]}"
