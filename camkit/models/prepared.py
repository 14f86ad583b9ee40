"""A preprocessed image: the network's input, the picture that it shows, and where in the whole image that lies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from camkit.errors import CamkitError
from camkit.models.bands import how_shown, is_eight_bit, keeps_eight_bit, show
from camkit.models.geometry import Geometry, fit_geometry


@dataclass(frozen=True, eq=False)
class Prepared:
    """A preprocessed image.

    Attributes:
        inputs: (1, C, H, W), normalised, on the model's device: what the network is called with.
        seen: (H, W) or (H, W, B): what the network saw, before normalisation, as the framework has it: RGB, or of any
            depth and any number of bands.
        whole: (H0, W0) or (H0, W0, B): the whole image as the framework's own loader reads it, which decides about EXIF
            orientation, bit depth and transparency.
        seen_bgr: Whether three or four bands of ``seen`` are in the order blue, green, red.
        whole_bgr: Whether those of ``whole`` are.
        bands: Which bands ``picture`` and ``original`` show, counted from 1; none for the first three.

    Which channel of an image of MMPretrain's pipelines is red is found by what a config's reader makes of a red picture
    of the same kind of file. Where that can't be told, the channels are taken to be in the file's order, unless the
    data preprocessor exchanges three of them (``to_rgb=True``): then they are BGR, as its own tools have it.
    """

    inputs: Tensor
    seen: NDArray[Any]
    whole: NDArray[Any]
    _transform: Callable[[NDArray[Any]], NDArray[Any]] = field(repr=False)
    seen_bgr: bool = False
    whole_bgr: bool = False
    bands: Sequence[int] = ()

    @cached_property
    def picture(self) -> NDArray[np.uint8]:
        """uint8 (H, W, 3), RGB: what the network saw; see :func:`camkit.models.bands.show`.

        Raises:
            UsageError: The image doesn't have the bands asked for.
        """
        return show(self.seen, self.bands, bgr=self.seen_bgr, eight_bit=self._seen_has_eight_bit)

    @cached_property
    def original(self) -> NDArray[np.uint8]:
        """uint8 (H0, W0, 3), RGB: the whole image.

        Raises:
            UsageError: See ``picture``.
        """
        return show(self.whole, self.bands, bgr=self.whole_bgr)

    def how_shown(self, *, original_size: bool = False) -> str | None:
        """What ``picture``, or ``original``, chooses and scales of the image, as a line; None where nothing."""
        if original_size:
            return how_shown(self.whole, self.bands)
        return how_shown(self.seen, self.bands, eight_bit=self._seen_has_eight_bit)

    @cached_property
    def _seen_has_eight_bit(self) -> bool:
        return is_eight_bit(self.whole) and keeps_eight_bit(self.seen)

    @cached_property
    def geometry(self) -> Geometry:
        """Where in ``original`` the picture's pixels lie, fitted when first asked for.

        Raises:
            CamkitError: The preprocessing does more than resize, crop, pad and flip.
        """
        height, width = self.whole.shape[:2]
        return fit_geometry(self._transform, (height, width))

    def to_original(self, values: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Lay a map (H, W) of the picture over ``original``; see :meth:`camkit.models.geometry.Geometry.to_original`.

        Returns:
            The map, float32 (H0, W0), and where the network saw the image, bool (H0, W0).
        """
        height, width = self.whole.shape[:2]
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
