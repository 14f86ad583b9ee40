"""An image on its way into the network: what goes in, what the network saw, and where in the file that was."""

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
from camkit.geometry import Geometry, fit_geometry


@dataclass(frozen=True, eq=False)
class Prepared:
    """An image on its way into the network.

    ``inputs`` is (1, C, H, W) on the model's device, normalised; ``picture`` uint8 (H, W, 3), what the network saw
    before normalisation; ``original`` uint8 (H0, W0, 3), the whole image as the framework's own loader reads it
    (orientation, depth and transparency are treated as the loader does). Both are BGR; MMPretrain's are taken for BGR,
    as its own tools do: a pipeline that exchanges channels on its way shows them exchanged.
    """

    inputs: Tensor
    picture: NDArray[np.uint8]
    original: NDArray[np.uint8]
    _transform: Callable[[NDArray[Any]], NDArray[Any]] = field(repr=False)

    @cached_property
    def geometry(self) -> Geometry:
        """Where in ``original`` the picture's pixels come from, found when first asked for.

        Raises:
            CamkitError: The preprocessing does more than resize, crop, pad and flip.
        """
        height, width = self.original.shape[:2]
        return fit_geometry(self._transform, (height, width))

    def to_original(self, values: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """A map (H, W) laid over ``original``: float32 (H0, W0), and bool (H0, W0), where the network looked."""
        height, width = self.original.shape[:2]
        return self.geometry.to_original(values, (height, width))


def check_file(path: str) -> None:
    """Refuse what is no readable file before a loader runs into it.

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
    """Rounded and clipped to 0..255, contiguous."""
    if image.dtype == np.uint8:
        return np.ascontiguousarray(image)
    return np.asarray(image, dtype=np.float64).round().clip(0, 255).astype(np.uint8)


def as_bgr(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Three channels: grey ones thrice, transparency dropped."""
    if image.ndim == 2:
        image = image[..., None]
    return image.repeat(3, axis=2) if image.shape[2] < 3 else np.ascontiguousarray(image[..., :3])
