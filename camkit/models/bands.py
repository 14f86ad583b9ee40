"""Show images of any depth and any number of bands as RGB pictures: satellite and medical images, for example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camkit.errors import UsageError

LOWEST, HIGHEST = 2, 98
"""Percentiles that are drawn black and white where an image has more than eight bits per value."""
_OVERSHOOT = 64  # grey levels by which bicubic and Lanczos kernels miss 0..255 in floating point


def show(
    image: NDArray[Any], bands: Sequence[int] = (), *, bgr: bool = False, eight_bit: bool | None = None
) -> NDArray[np.uint8]:
    """Make an RGB picture of an image; the result is a contiguous copy.

    Values of eight bits stay as they are, rounded where they are floats. Others are scaled, each band by itself, from
    its percentiles :data:`LOWEST` to :data:`HIGHEST`; NaN and infinity are black.

    Args:
        image: (H, W) or (H, W, C), of any real dtype.
        bands: Which bands to show as red, green and blue, or the one to show in grey, counted from 1, red first. None
            for the first three, or for the first alone where there are fewer.
        bgr: An image of three or four bands has them in the order blue, green, red; they are counted as if it hadn't.
        eight_bit: Whether the values are grey levels 0 to 255; None asks :func:`is_eight_bit`.

    Returns:
        uint8 (H, W, 3).

    Raises:
        UsageError: Not one or three bands, or one that the image doesn't have.

    Example:
        >>> show(np.array([[[0, 500, 1000, 7]]], np.uint16), bands=(4,)).shape
        (1, 1, 3)
    """
    eight_bit = is_eight_bit(image) if eight_bit is None else eight_bit
    values = choose(image, bands, bgr=bgr)
    levels = as_uint8(values if eight_bit else _scaled(values))
    return levels.repeat(3, axis=2) if levels.shape[2] == 1 else np.ascontiguousarray(levels)


def choose(image: NDArray[Any], bands: Sequence[int] = (), *, bgr: bool = False) -> NDArray[Any]:
    """The values of the bands that :func:`show` shows with the same arguments: (H, W, 3), or (H, W, 1) for grey.

    Raises:
        UsageError: See ``show``.
    """
    image = _with_bands(image)
    if bgr and image.shape[2] in (3, 4):
        image = image[..., [2, 1, 0, 3][: image.shape[2]]]
    return image[..., [band - 1 for band in bands_shown(image, bands)]]


def bands_shown(image: NDArray[Any], bands: Sequence[int] = ()) -> tuple[int, ...]:
    """The bands, counted from 1, that :func:`show` shows with the same arguments.

    Raises:
        UsageError: See ``show``.
    """
    count = _with_bands(image).shape[2]
    if not bands:
        return (1,) if count < 3 else (1, 2, 3)
    if len(bands) not in (1, 3) or not all(1 <= band <= count for band in bands):
        has = "has one band" if count == 1 else f"has {count} bands"
        raise UsageError(
            f"can't show the bands {' '.join(map(str, bands))}: the image {has}; name one (grey) or three (red, green, "
            "blue), counted from 1"
        )
    return tuple(bands)


def how_shown(image: NDArray[Any], bands: Sequence[int] = (), *, eight_bit: bool | None = None) -> str | None:
    """What :func:`show` chooses and scales, as a line; None where the picture is the image as it is."""
    count = _with_bands(image).shape[2]
    eight_bit = is_eight_bit(image) if eight_bit is None else eight_bit
    if eight_bit and count <= 4 and not bands:  # of two and four the last is transparency
        return None
    shown = bands_shown(image, bands)
    which = f"band{'s' * (len(shown) > 1)} {' '.join(map(str, shown))} of {count}"
    scaled = "" if eight_bit else f", scaled from percentile {LOWEST} to {HIGHEST} of each"
    return f"{which} ({image.dtype}){scaled}"


def is_eight_bit(image: NDArray[Any]) -> bool:
    """Whether the values are grey levels 0 to 255: uint8, bool, or floats that are whole numbers as an 8-bit file's."""
    if image.dtype.kind != "f":
        return image.dtype in (np.uint8, np.bool_)
    values = image[np.isfinite(image)]
    if not values.size:
        return False
    return bool(values.min() >= 0 and 1 < values.max() <= 255 and (values == values.round()).all())


def keeps_eight_bit(image: NDArray[Any]) -> bool:
    """Whether an image made of one of eight bits still has grey levels 0 to 255, up to a resize's overshoot."""
    if image.dtype.kind != "f":
        return image.dtype in (np.uint8, np.bool_)
    values = image[np.isfinite(image)]
    return bool(values.size and values.min() >= -_OVERSHOOT and 1 < values.max() <= 255 + _OVERSHOOT)


def as_uint8(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Round and clip to 0..255; uint8 stays as it is, and of a bool True is white."""
    if image.dtype == np.uint8:
        return image
    if image.dtype == np.bool_:
        image = image * 255.0
    numbers = np.nan_to_num(np.asarray(image, dtype=np.float64), nan=0, posinf=0, neginf=0)
    clipped: NDArray[np.uint8] = numbers.round().clip(0, 255).astype(np.uint8)
    return clipped


def _scaled(image: NDArray[Any]) -> NDArray[np.float64]:
    """(H, W, C) with each band's percentiles at 0 and 255."""
    levels = np.zeros(image.shape)
    for band in range(image.shape[2]):
        values = image[..., band].astype(np.float64)
        finite = np.isfinite(values)
        if not finite.any():
            continue
        low, high = np.percentile(values[finite], [LOWEST, HIGHEST])
        if high <= low:  # nearly all values are one: the whole range tells more
            low, high = values[finite].min(), values[finite].max()
        levels[..., band][finite] = (values[finite] - low) / (high - low or 1) * 255
    return levels


def _with_bands(image: NDArray[Any]) -> NDArray[Any]:
    return image[..., None] if image.ndim == 2 else image
