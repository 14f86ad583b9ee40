"""Maps to pictures: overlays of one map, of several concepts, and saliency maps without an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from camkit.errors import UsageError
from camkit.visualize.colours import concept_colour, find_colormap
from camkit.visualize.opencv import cv2
from camkit.visualize.picture import Picture, as_picture, in_order

if TYPE_CHECKING:
    from PIL.Image import Image

    from camkit.models.prepared import Prepared

Heat = Tensor | NDArray[Any]
"""A map (H, W) with values in [0, 1]."""
LABEL_ROOM = 100
"""Labels of concepts are left out of images whose shorter side has fewer pixels."""
SATURATED = 0.01
"""Share of a saliency map's pixels that are white."""


@dataclass(frozen=True)
class Style:
    """How maps are drawn.

    Attributes:
        colormap: One of OpenCV's colour maps, by name.
        alpha: Share of the heat in the overlay, 0 to 1.
    """

    colormap: str = "jet"
    alpha: float = 0.5


def overlay(
    image: Picture | Image,
    heat: Heat,
    *,
    colormap: str = "jet",
    alpha: float = 0.5,
    channel_order: str = "RGB",
    seen: NDArray[np.bool_] | None = None,
) -> Picture:
    """Overlay a map on an image: ``alpha * heat + (1 - alpha) * image``, scaled so that the brightest value is 255.

    Args:
        image: A PIL image or a uint8 array, see :func:`camkit.visualize.picture.as_picture`.
        heat: The map, (H, W) in [0, 1].
        colormap: One of :data:`camkit.visualize.colours.COLORMAPS`.
        alpha: Share of the heat, 0 to 1.
        channel_order: ``"RGB"`` or ``"BGR"``: the order of an array given and of the picture returned.
        seen: (H, W) mask of what the network saw; outside it there is no heat. None for everywhere.

    Returns:
        (H, W, 3) uint8.

    Raises:
        UsageError: An image or a map of the wrong type, shape or range, or an unknown colour map or channel order.

    Example:
        >>> import numpy as np
        >>> image = np.zeros((2, 2, 3), dtype=np.uint8)
        >>> overlay(image, np.array([[0.0, 0.0], [0.0, 1.0]]))[1, 1].tolist()
        [255, 0, 0]
    """
    picture = as_picture(image, channel_order)
    values = _heat_on(picture, heat)
    colours = in_order(_uint8(cv2.applyColorMap((255 * values).astype(np.uint8), find_colormap(colormap))), "BGR")
    hot: NDArray[np.float32] = colours.astype(np.float32) / np.float32(255)
    return in_order(_blend(picture, hot, alpha, seen), channel_order)


def concepts(
    image: Picture | Image,
    maps: Sequence[Heat] | Heat,
    *,
    labels: Sequence[str] = (),
    alpha: float = 0.6,
    channel_order: str = "RGB",
    seen: NDArray[np.bool_] | None = None,
) -> Picture:
    """Overlay several maps on an image, each in a colour of its own, as for a method that finds concepts.

    The strongest map of a pixel gives the colour, and its value the colour's strength. The first colours are safe for
    the colour-blind.

    Args:
        image: See :func:`overlay`.
        maps: (K, H, W) in [0, 1].
        labels: Short labels such as numbers, one per map or none. Each is written where its map is strongest, in
            images that have room for it (:data:`LABEL_ROOM`).
        alpha: Share of the colours, 0 to 1.
        channel_order: See :func:`overlay`.
        seen: See :func:`overlay`.

    Returns:
        (H, W, 3) uint8.

    Raises:
        UsageError: See :func:`overlay`; also no maps, or another number of labels than maps.
    """
    picture = as_picture(image, channel_order)
    if not len(maps) or (labels and len(labels) != len(maps)):
        raise UsageError(
            f"concepts need at least one map, and a label for each or none: got {len(maps)} maps, {len(labels)} labels"
        )
    values = np.stack([_heat_on(picture, each) for each in maps])
    owner, strength = values.argmax(0), values.max(0)
    colours = np.array([concept_colour(number) for number in range(1, len(values) + 1)], dtype=np.float32)
    mixed = _blend(picture, (colours / 255)[owner] * strength[:, :, None], alpha, seen)
    for index, label in enumerate(labels if min(picture.shape[:2]) >= LABEL_ROOM else ()):
        own = np.where(owner == index, strength, 0)
        if own.any():
            y, x = np.unravel_index(own.argmax(), own.shape)
            _mark(mixed, (int(x), int(y)), label, colours[index])
    return in_order(mixed, channel_order)


def saliency(heat: Heat) -> Picture:
    """Draw a map that changes from pixel to pixel, as guided methods make them: white on black, without an image.

    A few pixels hold the largest values, so the brightest :data:`SATURATED` of all pixels become white.

    Args:
        heat: (H, W) in [0, 1].

    Returns:
        (H, W, 3) uint8.

    Raises:
        UsageError: A map of another shape or range.
    """
    values = _as_heat(heat)
    # Where hardly any pixel is above zero the quantile is zero: the maximum scales the map then.
    top = np.quantile(values, 1 - SATURATED) or values.max() or 1
    grey = (255 * np.clip(values / top, 0, 1)).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def draw_maps(
    image: Picture | Image,
    maps: Sequence[Heat] | Heat,
    *,
    style: Style | None = None,
    seen: NDArray[np.bool_] | None = None,
    is_saliency: bool = False,
    are_concepts: bool = False,
) -> list[Picture]:
    """Draw all maps of one image, RGB.

    Args:
        image: See :func:`overlay`; arrays are RGB.
        maps: (T, H, W) in [0, 1].
        style: Colour map and share of the heat; None for the default.
        seen: See :func:`overlay`.
        is_saliency: Draw each map by :func:`saliency`.
        are_concepts: Draw one picture of all maps by :func:`concepts`, labelled 1, 2, ...

    Returns:
        One picture per map; a single one of concepts.

    Raises:
        UsageError: See :func:`overlay`.
    """
    style = style or Style()
    if are_concepts:
        labels = [str(number) for number in range(1, len(maps) + 1)]
        return [concepts(image, maps, labels=labels, alpha=style.alpha, seen=seen)]
    if is_saliency:
        return [saliency(heat) for heat in maps]
    return [overlay(image, heat, colormap=style.colormap, alpha=style.alpha, seen=seen) for heat in maps]


def fit_maps(
    prepared: Prepared, maps: Sequence[Heat] | Heat, *, original_size: bool = False
) -> tuple[Picture, list[NDArray[np.float32]], NDArray[np.bool_] | None]:
    """Fit the maps of a preprocessed image to its picture, for :func:`draw_maps`.

    Args:
        prepared: The image.
        maps: (T, H, W), as large as the network's input.
        original_size: Fit them to the whole original image, not to the picture that the network saw.

    Returns:
        The picture, RGB; the maps in its size; and the mask of what the network saw, None for everywhere.

    Raises:
        CamkitError: The preprocessing does more than resize, crop, pad and flip, so ``original_size`` is impossible.
    """
    image, seen = prepared.original if original_size else prepared.picture, None
    fitted = []
    for heat in map(_as_array, maps):
        if original_size:
            heat, seen = prepared.to_original(heat)
        # A data preprocessor may pad the input to a multiple of a stride: the picture ends before the map does.
        fitted.append(heat[: image.shape[0], : image.shape[1]])
    return image, fitted, seen


def _blend(picture: Picture, hot: NDArray[np.float32], alpha: float, seen: NDArray[np.bool_] | None) -> Picture:
    """``alpha`` of colours (H, W, 3) in [0, 1] plus the rest of the picture, scaled so that the brightest is 255."""
    if seen is not None and seen.shape != picture.shape[:2]:
        raise UsageError(f"seen is {seen.shape}, the image {picture.shape[:2]}")
    if not 0 <= alpha <= 1:
        raise UsageError(f"alpha is the heat's share, 0 to 1, got {alpha}")
    if seen is not None:
        hot = hot * seen[:, :, None]
    mixed = alpha * hot + (1 - alpha) * (picture.astype(np.float32) / 255)
    return _uint8(255 * (mixed / (mixed.max() or 1)))  # black stays black


def _mark(picture: Picture, place: tuple[int, int], label: str, colour: NDArray[np.float32]) -> None:
    """Write a label on a disc of its colour, in place; the disc is moved inside where it would cross the border."""
    height, width = picture.shape[:2]
    scale = max(0.3, min(height, width) / 500)
    (text_width, text_height), _ = cv2.getTextSize(label, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    radius = round(0.7 * max(text_width, text_height)) + 3
    x, y = (
        min(max(at, radius + 1), max(side - radius - 2, radius + 1))
        for at, side in zip(place, (width, height), strict=True)
    )
    ink = (0.0, 0.0, 0.0) if colour.mean() > 100 else (255.0, 255.0, 255.0)
    cv2.circle(picture, (x, y), radius, [float(each) for each in colour], -1, cv2.LINE_AA)
    cv2.circle(picture, (x, y), radius, ink, 1, cv2.LINE_AA)
    corner = (x - text_width // 2, y + text_height // 2)
    cv2.putText(picture, label, corner, cv2.FONT_HERSHEY_SIMPLEX, scale, ink, 1, cv2.LINE_AA)


def _heat_on(picture: Picture, heat: Heat) -> NDArray[np.float32]:
    values = _as_heat(heat)
    if values.shape != picture.shape[:2]:
        raise UsageError(
            f"a map of {values.shape} doesn't lie on an image of {picture.shape[:2]}: overlay the image as the network "
            "saw it, or resize one of them"
        )
    return values


def _as_heat(heat: Heat) -> NDArray[np.float32]:
    values = _as_array(heat)
    if values.ndim != 2 or not values.size:
        hint = "; take one of them, such as maps[0]" if values.ndim > 2 else ""
        raise UsageError(f"a map is (H, W), got {values.shape}{hint}")
    if not (values.min() >= 0 and values.max() <= 1):
        raise UsageError(f"a map must lie in [0, 1], got {values.min():.3g} to {values.max():.3g}")
    return values


def _as_array(heat: Heat) -> NDArray[np.float32]:
    return np.asarray(heat.detach().float().cpu() if isinstance(heat, torch.Tensor) else heat, dtype=np.float32)


def _uint8(values: Any) -> Picture:
    """Truncate to whole numbers."""
    return np.asarray(values).astype(np.uint8)
