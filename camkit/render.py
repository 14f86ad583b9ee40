"""Maps and images to pictures: the overlay, the picture of concepts, and the grid of pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from camkit.errors import UsageError, closest
from camkit.page import Page

Picture = NDArray[np.uint8]
"""(H, W, 3) uint8, BGR unless said otherwise, as OpenCV reads and writes."""
COLORMAPS: dict[str, int] = {
    name.removeprefix("COLORMAP_").lower(): getattr(cv2, name) for name in dir(cv2) if name.startswith("COLORMAP_")
}
"""OpenCV's colour maps by lower-case name."""
ROOM = 100
"""Pixels, of an image's shorter side, without which there is no room for labels in it."""
SATURATED = 0.01
"""The share of a saliency map's pixels that are white."""
COLOURS = (
    (213, 94, 0),
    (86, 180, 233),
    (240, 228, 66),
    (0, 158, 115),
    (204, 121, 167),
    (0, 114, 178),
    (230, 159, 0),
)
"""RGB, of Okabe and Ito's palette, which the colour-blind can tell apart; neighbours in the list the best."""


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
    colours = cv2.applyColorMap((255 * values).astype(np.uint8), find_colormap(colormap))
    if channel_order == "RGB":
        colours = np.ascontiguousarray(colours[:, :, ::-1])
    hot: NDArray[np.float32] = colours.astype(np.float32) / np.float32(255)
    return _mixed(image, hot, alpha, seen)


def concepts(
    image: Picture,
    maps: Tensor | NDArray[Any],
    *,
    labels: Sequence[str] = (),
    alpha: float = 0.6,
    channel_order: str = "BGR",
    seen: NDArray[np.bool_] | None = None,
) -> Picture:
    """Lay several maps over an image, each in its own colour, as for a method that finds concepts.

    At every pixel the strongest map gives the colour, and its strength how much of it there is. The colours are told
    apart by the colour-blind too.

    Args:
        image: (H, W, 3) uint8.
        maps: (K, H, W) in [0, 1], tensor or array.
        labels: short ones, such as numbers, one per map; each is written where its map is the strongest, if the image
            has room for it: :data:`ROOM` pixels.
        alpha: the colours' share, 0 to 1.
        channel_order: ``"BGR"`` or ``"RGB"``, the order of ``image`` and of the picture returned.
        seen: see :func:`overlay`.

    Returns:
        (H, W, 3) uint8, in ``image``'s channel order.

    Raises:
        UsageError: another dtype, shape or range, or labels that don't fit the maps.
    """
    check_picture(image, channel_order)
    if not len(maps) or (labels and len(labels) != len(maps)):
        raise UsageError(
            f"concepts need at least one map, and a label for each or none: got {len(maps)} maps, {len(labels)} labels"
        )
    values = np.stack([_heat(each, image) for each in maps])
    owner, strength = values.argmax(0), values.max(0)
    rgb = np.array(concept_colours(len(values)), dtype=np.float32) / 255
    palette = rgb if channel_order == "RGB" else rgb[:, ::-1]
    mixed = _mixed(image, palette[owner] * strength[:, :, None], alpha, seen)
    for index, label in enumerate(labels if min(image.shape[:2]) >= ROOM else ()):
        own = np.where(owner == index, strength, 0)
        if own.any():
            y, x = np.unravel_index(own.argmax(), own.shape)
            _mark(mixed, (int(x), int(y)), label, 255 * palette[index])
    return mixed


def saliency(heat: Tensor | NDArray[Any]) -> Picture:
    """Draw a map that goes from pixel to pixel, as guided methods make them: white on black, without an image.

    Few pixels hold the largest values; the brightest :data:`SATURATED` of them all are white.

    Args:
        heat: (H, W) in [0, 1], tensor or array.

    Returns:
        (H, W, 3) uint8.

    Raises:
        UsageError: another shape or range.
    """
    values = _as_heat(heat)
    # Where hardly anything is above zero, the largest value is what is left to go by.
    top = np.quantile(values, 1 - SATURATED) or values.max() or 1
    grey = (255 * np.clip(values / top, 0, 1)).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def concept_colours(count: int) -> list[tuple[int, int, int]]:
    """RGB colours of as many concepts: those of Okabe and Ito, then the same ones darker."""
    return [
        tuple(round(each * 0.55 ** (number // len(COLOURS))) for each in COLOURS[number % len(COLOURS)])  # type: ignore[misc]
        for number in range(count)
    ]


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
    pictures: Sequence[Sequence[Picture | str]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    channel_order: str = "BGR",
) -> Picture:
    """Pictures in labelled rows and columns.

    Args:
        pictures: rows of pictures, all of one size (H, W, 3) uint8; a text stands where there is no picture.
        rows: a label per row, drawn upright at the left.
        columns: a label per column, drawn on top.
        channel_order: ``"BGR"`` or ``"RGB"``, the order of the pictures given and of the one returned.

    Returns:
        One picture on white, uint8. The pictures stand in it pixel by pixel.

    Raises:
        UsageError: counts or sizes that don't agree.
    """
    sizes = {picture.shape for row in pictures for picture in row if not isinstance(picture, str)}
    if len(sizes) != 1 or len(rows) != len(pictures) or {len(row) for row in pictures} != {len(columns)}:
        raise UsageError(
            f"a grid needs equal pictures and a label per row and column: got sizes {sorted(sizes)}, rows "
            f"{[len(row) for row in pictures]}, {len(rows)} row and {len(columns)} column labels"
        )
    height, width = next(iter(sizes))[:2]
    gap, band = 6, 28
    page = Page(band + len(rows) * (height + gap), band + len(columns) * (width + gap))
    for j, label in enumerate(columns):
        page.text(band + j * (width + gap) + width / 2, band / 2, label, room=width)
    for i, label in enumerate(rows):
        page.text(band / 2, band + i * (height + gap) + height / 2, label, room=height, rotation=90)
    for i, row in enumerate(pictures):
        for j, picture in enumerate(row):
            top, left = band + i * (height + gap), band + j * (width + gap)
            if isinstance(picture, str):
                write(page, top, left, (height, width), picture)
            else:
                page.picture(top, left, picture if channel_order == "RGB" else picture[:, :, ::-1])
    drawn = page.drawn()
    return drawn if channel_order == "RGB" else np.ascontiguousarray(drawn[:, :, ::-1])


def write(page: Page, top: int, left: int, room: tuple[int, int], words: str, size: float = 8) -> None:
    """Write a text into a cell of ``room`` (height, width), from its upper left corner; what has no room is left out.

    A line that begins with ``[N]`` gets the colour of concept number N.
    """
    height, width = room
    step = 1.9 * size
    lines: list[tuple[int, str]] = []  # the number of the concept where there is one, and what is written
    for line in words.splitlines():
        marked = re.match(r"\[(\d+)\] ", line)
        indent = step if marked else 0
        parts = page.lines(line[marked.end() :] if marked else line, width - indent - 8, size)
        lines += [(int(marked[1]) if marked and not number else 0, part) for number, part in enumerate(parts)]
    for number, (concept, line) in enumerate(lines[: int(height // step)]):
        y = top + (number + 0.8) * step
        is_cut = number + 1 == int(height // step) < len(lines)
        if concept:
            colour = concept_colours(concept)[-1]
            page.bar(round(y - size / 2), left + 4, round(size), round(size), colour)
        x = left + 4 + (step if concept else 0)
        page.text(x, y, f"{line} …" if is_cut else line, room=left + width - x, size=size, ha="left", color="#444444")


def _mixed(image: Picture, hot: NDArray[np.float32], alpha: float, seen: NDArray[np.bool_] | None) -> Picture:
    """``alpha`` of colours (H, W, 3) in [0, 1] plus the rest of the image, scaled so that the brightest is 255."""
    if seen is not None and seen.shape != image.shape[:2]:
        raise UsageError(f"seen is {seen.shape}, the image {image.shape[:2]}")
    if not 0 <= alpha <= 1:
        raise UsageError(f"alpha is the heat's share, 0 to 1, got {alpha}")
    if seen is not None:
        hot = hot * seen[:, :, None]
    mixed = alpha * hot + (1 - alpha) * (image.astype(np.float32) / 255)
    # An all-black mix has nothing to scale.
    picture: Picture = (255 * (mixed / (mixed.max() or 1))).astype(np.uint8)
    return picture


def _mark(picture: Picture, place: tuple[int, int], label: str, colour: NDArray[np.float32]) -> None:
    """Write a label on a disc of its colour, in place, whole where the picture has room."""
    height, width = picture.shape[:2]
    scale = max(0.3, min(height, width) / 500)
    (text_width, text_height), _ = cv2.getTextSize(label, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    radius = round(0.7 * max(text_width, text_height)) + 3
    x, y = (
        min(max(at, radius + 1), max(side - radius - 2, radius + 1))
        for at, side in zip(place, (width, height), strict=True)
    )
    shade = (0.0, 0.0, 0.0) if colour.mean() > 100 else (255.0, 255.0, 255.0)
    cv2.circle(picture, (x, y), radius, [float(each) for each in colour], -1, cv2.LINE_AA)
    cv2.circle(picture, (x, y), radius, shade, 1, cv2.LINE_AA)
    corner = (x - text_width // 2, y + text_height // 2)
    cv2.putText(picture, label, corner, cv2.FONT_HERSHEY_SIMPLEX, scale, shade, 1, cv2.LINE_AA)


def _heat(heat: Tensor | NDArray[Any], image: Picture) -> NDArray[np.float32]:
    values = _as_heat(heat)
    if values.shape != image.shape[:2]:
        raise UsageError(
            f"a map of {values.shape} doesn't lie on an image of {image.shape[:2]}: overlay the image as the network "
            "saw it, or resize one of them"
        )
    return values


def _as_heat(heat: Tensor | NDArray[Any]) -> NDArray[np.float32]:
    array = heat.detach().float().cpu().numpy() if isinstance(heat, torch.Tensor) else heat
    values: NDArray[np.float32] = np.asarray(array, dtype=np.float32)
    if values.ndim != 2 or not values.size:
        raise UsageError(f"a map is (H, W), got {values.shape}")
    if not (values.min() >= 0 and values.max() <= 1):
        raise UsageError(f"a map must lie in [0, 1], got {values.min():.3g} to {values.max():.3g}")
    return values
