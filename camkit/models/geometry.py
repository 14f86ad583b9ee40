"""Find where a preprocessed picture's pixels lie in the whole input image, and lay maps over it.

Preprocessing resizes, crops, pads or flips. Instead of knowing every transform, camkit runs the preprocessing on
synthetic images whose grey level is the position, and fits scale and offset per axis to what comes out. Pixel centres
have integer coordinates, the first one 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from camkit.errors import CamkitError

if TYPE_CHECKING:
    from collections.abc import Callable

Image = NDArray[Any]

# Half a picture pixel, and as much as the fit may err: no column at the border may count as unseen.
_EDGE = 0.55
_KERNEL_REACH = 2  # source pixels at the border, where bicubic and Lanczos kernels reach beyond the image


@dataclass(frozen=True)
class Geometry:
    """Where the picture's pixels lie in the whole image: picture pixel (u, v) shows source pixel (x, y).

    ``x = scale_x * u + offset_x``, ``y = scale_y * v + offset_y``. A negative scale is a flip. ``height`` and ``width``
    are the picture's.
    """

    scale_x: float
    offset_x: float
    scale_y: float
    offset_y: float
    height: int
    width: int

    def to_original(
        self, values: NDArray[np.float32], size: tuple[int, int]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Lay a map over the whole input image.

        Args:
            values: float32 (h, w), one value per picture pixel; rows and columns beyond the picture (padding that a
                data preprocessor appends at the bottom and the right) are ignored.
            size: (H0, W0) of the whole input image.

        Returns:
            The map, float32 (H0, W0), resampled bilinearly and 0 outside the picture; and where the picture is, bool
            (H0, W0).
        """
        values = np.asarray(values, dtype=np.float32)[: self.height, : self.width]
        left, right, part_x, seen_x = _taps(size[1], self.scale_x, self.offset_x, values.shape[1])
        top, bottom, part_y, seen_y = _taps(size[0], self.scale_y, self.offset_y, values.shape[0])
        wide = values[:, left] * (1 - part_x) + values[:, right] * part_x
        full = (wide[top] * (1 - part_y)[:, None] + wide[bottom] * part_y[:, None]).astype(np.float32, copy=False)
        seen = seen_y[:, None] & seen_x
        full[~seen] = 0
        return full, seen


def _taps(
    length: int, scale: float, offset: float, picture: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32], NDArray[np.bool_]]:
    """Per source pixel along an axis: the two nearest picture pixels, the second's weight, and if it was seen."""
    position = (np.arange(length) - offset) / scale
    seen = (position >= -_EDGE) & (position <= picture - 1 + _EDGE)
    position = position.clip(0, picture - 1)
    first = np.floor(position).astype(np.intp)
    return first, np.minimum(first + 1, picture - 1), (position - first).astype(np.float32), seen


def fit_geometry(transform: Callable[[Image], Image], size: tuple[int, int]) -> Geometry:
    """Fit where in its input a transform takes the pixels of its output from.

    Args:
        transform: Makes a picture, uint8 (h, w) or (h, w, C), of an image, uint8 (H, W, 3). Called six times; must do
            the same each time.
        size: (H, W) of the image.

    Raises:
        CamkitError: The transform does more than resize, crop, pad and flip: it rotates, shears or changes colours.
    """
    height, width = size
    white = _grey(transform(np.full((height, width, 3), 255, np.uint8)))
    black = _grey(transform(np.zeros((height, width, 3), np.uint8)))
    if white.shape != black.shape:
        raise _cannot("it gives pictures of several sizes")
    if white.dtype.kind == "f":
        transform = _in_grey_levels(transform, black, white)
        white, black = (transform(np.full((height, width, 3), level, np.uint8)) for level in (255, 0))
    inside = (white >= 254) & (black <= 1)  # the other pixels are padding, of whatever colour
    if not inside.any():
        raise _cannot("it changes colours, or nothing of the image is left")
    scale_x, offset_x = _fit_axis(transform, size, inside, axis=1)
    scale_y, offset_y = _fit_axis(transform, size, inside, axis=0)
    return Geometry(scale_x, offset_x, scale_y, offset_y, *inside.shape)


def _in_grey_levels(transform: Callable[[Image], Image], black: Image, white: Image) -> Callable[[Image], Image]:
    """The transform with its output back in 0 to 255: those of deep images divide by 255, 65535 or a band's range."""
    rise = (white - black).astype(np.float64)
    gain = max(float(rise.max()), np.finfo(float).tiny)
    lowest = float(np.median(black[rise >= 0.99 * gain])) if (rise >= 0.99 * gain).any() else 0.0
    return lambda image: (_grey(transform(image)).astype(np.float64) - lowest) * (255 / gain)


def _fit_axis(
    transform: Callable[[Image], Image], size: tuple[int, int], inside: NDArray[np.bool_], axis: int
) -> tuple[float, float]:
    """Fit scale and offset along one axis (0: y, 1: x) with ramps of grey levels along it."""
    length = size[axis]
    rows, columns = np.nonzero(inside)
    along, across = (columns, rows) if axis == 1 else (rows, columns)
    if length == 1:  # no ramp fits on one pixel, which is what every picture pixel inside shows
        count = int(along.max() - along.min()) + 1
        return 1 / count, -(along.min() + along.max()) / 2 / count

    # The coarse ramp covers the image with half of the grey levels; the fine one spends all of them on the stretch that
    # is in the picture. Positions read from both must agree: where a transform stretches contrast, they don't.
    coarse = _Ramp(-length / 2, 1.5 * length)
    shown = coarse.shown_by(transform, size, inside, axis)
    low, high = shown.min() - 1.5 * coarse.step, shown.max() + 1.5 * coarse.step
    low = min(max(0.0, low), length - 2.0)
    fine = _Ramp(low, max(low + 1.0, min(length - 1.0, high)))
    source = fine.shown_by(transform, size, inside, axis)

    reach = _KERNEL_REACH if length >= 6 * _KERNEL_REACH else 0
    clear = (source > fine.low + max(reach, fine.step)) & (source < fine.high - max(reach, fine.step))
    if _extent(along[clear]) < 2:  # a crop of the border alone
        clear = (source > fine.low) & (source < fine.high)
    if _extent(along[clear]) == 0:
        raise _cannot("too little of the image is left to tell")
    equations = np.stack([along, across, np.ones_like(along)], axis=1).astype(np.float64)
    (scale, cross, offset), *_ = np.linalg.lstsq(equations[clear], source[clear], rcond=None)

    pixel = max(abs(scale), 1.0)  # a picture pixel or a source pixel, whichever is larger
    offset += cross * np.median(across)
    fitted = scale * along + offset
    if abs(cross) * _extent(across) > pixel:
        raise _cannot("it rotates or shears")
    if np.quantile(np.abs(fitted - source)[clear], 0.99) > max(3 * fine.step, pixel):
        raise _cannot("it warps the image or changes colours")
    if np.abs(fitted - shown).max() > 3 * coarse.step + 2 * pixel or scale == 0:
        raise _cannot("it changes contrast, or differs from call to call")
    return float(scale), float(offset)


def _extent(positions: NDArray[np.intp]) -> int:
    return int(np.ptp(positions)) if positions.size else 0


@dataclass(frozen=True)
class _Ramp:
    """Grey levels 0 to 255 for the positions from ``low`` to ``high``."""

    low: float
    high: float

    @property
    def step(self) -> float:
        return (self.high - self.low) / 255

    def shown_by(
        self, transform: Callable[[Image], Image], size: tuple[int, int], inside: NDArray[np.bool_], axis: int
    ) -> NDArray[np.float64]:
        """Run the transform on the ramp and read the source position of every pixel inside, float64 (n,)."""
        levels = ((np.arange(size[axis]) - self.low) / self.step).round().clip(0, 255).astype(np.uint8)
        levels = levels[None, :, None] if axis == 1 else levels[:, None, None]
        grey = _grey(transform(np.broadcast_to(levels, (*size, 3)).copy()))
        if grey.shape != inside.shape:
            raise _cannot("it gives pictures of several sizes")
        return self.low + grey[inside].astype(np.float64) * self.step


def _grey(image: Image) -> Image:
    """One channel of a grey picture, (H, W)."""
    return image if image.ndim == 2 else image[..., 0]


def _cannot(why: str) -> CamkitError:
    return CamkitError(
        f"can't undo what the preprocessing does to the image: {why} (only resize, crop, pad and flip can be undone)"
        "; leave out --original-size to draw on the picture that the network saw"
    )
