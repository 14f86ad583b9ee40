"""A preprocessed image: the network's input, the picture that it shows, and where in the whole image that lies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from camkit.errors import CamkitError
from camkit.models.geometry import Geometry, fit_geometry


@dataclass(frozen=True, eq=False)
class Prepared:
    """A preprocessed image.

    Attributes:
        inputs: (1, C, H, W), normalised, on the model's device: what the network is called with.
        picture: uint8 (H, W, 3), RGB: what the network saw, before normalisation.
        original: uint8 (H0, W0, 3), RGB: the whole image as the framework's own loader reads it, which decides about
            EXIF orientation, bit depth and transparency.

    MMPretrain's images are taken for BGR at every step, as its own tools take them: a pipeline that exchanges channels
    before its end has a picture with exchanged colours.
    """

    inputs: Tensor
    picture: NDArray[np.uint8]
    original: NDArray[np.uint8]
    _transform: Callable[[NDArray[Any]], NDArray[Any]] = field(repr=False)

    @cached_property
    def geometry(self) -> Geometry:
        """Where in ``original`` the picture's pixels lie, fitted when first asked for.

        Raises:
            CamkitError: The preprocessing does more than resize, crop, pad and flip.
        """
        height, width = self.original.shape[:2]
        return fit_geometry(self._transform, (height, width))

    def to_original(self, values: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Lay a map (H, W) of the picture over ``original``; see :meth:`camkit.models.geometry.Geometry.to_original`.

        Returns:
            The map, float32 (H0, W0), and where the network saw the image, bool (H0, W0).
        """
        height, width = self.original.shape[:2]
        return self.geometry.to_original(values, (height, width))


def check_file(path: str) -> None:
    """Refuse what is no readable file, before an image loader fails on it with a message of its own.

    Raises:
        CamkitError: Missing, a folder, not readable or empty.
    """
    try:
        with Path(path).open("rb") as file:
            empty = not file.read(1)
    except FileNotFoundError as error:
        raise CamkitError(f"no image {path}; give the path of a picture") from error
    except IsADirectoryError as error:
        raise CamkitError(f"{path} is a folder, not an image; name one picture in it") from error
    except OSError as error:
        raise CamkitError(f"can't read the image {path}: {error.strerror}") from error
    if empty:
        raise CamkitError(f"the image {path} is an empty file")


def as_uint8(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Round and clip to 0..255; uint8 stays as it is."""
    if image.dtype == np.uint8:
        return image
    clipped: NDArray[np.uint8] = np.asarray(image, dtype=np.float64).round().clip(0, 255).astype(np.uint8)
    return clipped


def as_rgb(image: NDArray[np.uint8], *, bgr: bool = False) -> NDArray[np.uint8]:
    """A contiguous copy (H, W, 3) in RGB of an image (H, W) or (H, W, C) in grey or RGB; ``bgr`` says that it is BGR.

    Grey is repeated three times, transparency dropped.
    """
    if image.ndim == 2:
        image = image[..., None]
    if image.shape[2] < 3:
        rgb: NDArray[np.uint8] = image[..., :1].repeat(3, axis=2)
    else:
        rgb = image[..., 2::-1].copy() if bgr else image[..., :3].copy()
    return rgb
