"""What counts as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from camkit.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

Picture = NDArray[np.uint8]
"""(H, W, 3) uint8, RGB."""


def as_picture(image: Picture | Image, channel_order: str = "RGB") -> Picture:
    """Convert an image to a picture: (H, W, 3) uint8, RGB.

    Args:
        image: A PIL image of any mode with eight bits per channel, or a uint8 array: (H, W, 3), grey (H, W) or
            (H, W, 1), or with transparency (H, W, 4). Transparency is dropped.
        channel_order: The channel order of an array, ``"RGB"`` or, as OpenCV reads images, ``"BGR"``. PIL images know
            their own.

    Raises:
        UsageError: Another type, dtype or shape, an empty image, or another channel order.
    """
    check_channel_order(channel_order)
    if is_pil(image):
        return _from_pil(image)
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or not _has_channels(image):
        got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        hint = ""
        if isinstance(image, np.ndarray) and image.dtype.kind == "f":
            hint = "; write (255 * image).astype('uint8') for an image in [0, 1]"
        raise UsageError(f"the image must be a PIL image or a uint8 array (H, W, 3), RGB, got {got}{hint}")
    if not image.size:
        raise UsageError(f"the image is empty: {image.shape}")
    if image.ndim == 2:
        image = image[:, :, None]
    if image.shape[2] == 1:
        return image.repeat(3, axis=2)
    return in_order(image[:, :, :3], channel_order)


def in_order(picture: Picture, channel_order: str) -> Picture:
    """Convert between RGB and ``channel_order``, in either direction; the result is contiguous."""
    return np.ascontiguousarray(picture if channel_order == "RGB" else picture[:, :, ::-1])


def check_channel_order(channel_order: str) -> None:
    """Refuse what is no channel order.

    Raises:
        UsageError: Neither ``"RGB"`` nor ``"BGR"``.
    """
    if channel_order not in ("RGB", "BGR"):
        raise UsageError(f"channel_order is 'RGB' or 'BGR', got {channel_order!r}")


def is_pil(image: Any) -> bool:
    """Whether this is a PIL image, found out without importing PIL."""
    return any(base.__module__ == "PIL.Image" for base in type(image).__mro__)


def _has_channels(image: NDArray[Any]) -> bool:
    return image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3, 4))


def _from_pil(image: Any) -> Picture:
    if image.mode.startswith(("I", "F")):  # PIL would clip these to white
        raise UsageError(
            f"the image has more than eight bits per channel (mode {image.mode}): scale it to 0..255 and convert it to "
            "'L' or 'RGB'"
        )
    if not (image.width and image.height):
        raise UsageError(f"the image is empty: {image.height} x {image.width}")
    return np.array(image.convert("RGB"), dtype=np.uint8)
