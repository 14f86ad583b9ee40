"""Preprocess images with Pillow, as timm, torchvision and transformers do, and turn tensors back into pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from camkit.errors import CamkitError, reason
from camkit.models.bands import show
from camkit.models.environment import quiet
from camkit.models.prepared import Prepared, check_file

if TYPE_CHECKING:
    from PIL.Image import Image

Transform = Callable[["Image"], Tensor]
"""An RGB image to the normalised (C, H, W) tensor that the network takes."""

_DEEP_MODES = ("I", "F")  # more than eight bits, which Pillow would clip to white on the way to RGB


@dataclass(frozen=True)
class Normalisation:
    """How a transform normalises colours: ``(colour / 255 - mean) / std`` per channel.

    ``mean`` and ``std`` are in the order of the tensor's channels: RGB or grey, or BGR where ``bgr`` is set.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr: bool = False

    def undo(self, inputs: Tensor) -> NDArray[np.uint8]:
        """The picture in a normalised (C, H, W) tensor: uint8 (H, W, 3), RGB."""
        mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (self.mean, self.std))
        colours = (inputs.double() * std + mean).mul(255).permute(1, 2, 0).numpy()
        return show(colours, bgr=self.bgr, eight_bit=True)


def measure(transform: Transform) -> Normalisation:
    """Find a transform's normalisation from what it makes of a black, a white and a red image.

    Image processors of transformers have many ways to say it: mean and std, factor and offset, exchanged channels.

    Raises:
        CamkitError: What comes out isn't an image, or doesn't show the colours that went in.
    """
    from PIL import Image

    def centre(colour: str) -> Tensor:
        out = transform(Image.new("RGB", (256, 256), colour)).double()
        return out[:, out.shape[1] // 2, out.shape[2] // 2]

    black, white, red = (centre(colour) for colour in ("black", "white", "red"))
    std = 1 / (white - black)
    if len(std) not in (1, 3) or not std.isfinite().all():
        raise CamkitError("the preprocessing makes no picture: black and white images come out alike")
    seen = (red - black) * std
    mean = -black * std
    return Normalisation(tuple(mean.tolist()), tuple(std.tolist()), bgr=len(seen) == 3 and bool(seen[2] > seen[0]))


def prepare(path: str, transform: Transform, normalisation: Normalisation, device: torch.device) -> Prepared:
    """Read an image and run a transform on it.

    Raises:
        CamkitError: The image is missing or unreadable, or the transform fails on it.
    """
    from PIL import Image

    image, inputs = transformed(path, transform)

    def picture_of(array: NDArray[Any]) -> NDArray[Any]:
        with quiet():
            return normalisation.undo(transform(Image.fromarray(array)))

    return Prepared(inputs[None].to(device), normalisation.undo(inputs), np.array(image), picture_of)


def transformed(path: str, transform: Transform) -> tuple[Image, Tensor]:
    """Read an image and run a transform on it: the image, and what came out.

    Raises:
        CamkitError: The image is missing or unreadable, or the transform fails on it.
    """
    image = read(path)
    try:
        with quiet():
            return image, transform(image)
    except Exception as error:
        raise CamkitError(f"the preprocessing fails on {path}: {type(error).__name__}: {reason(error)}") from error


def read(path: str) -> Image:
    """Read an image file as RGB, turned as its EXIF orientation says.

    Raises:
        CamkitError: Missing, unreadable, or of more than eight bits per colour.
    """
    from PIL import Image, ImageOps

    check_file(path)
    try:
        with quiet(), Image.open(path) as file:
            mode = file.mode
            image = ImageOps.exif_transpose(file).convert("RGB")
    except Exception as error:
        raise CamkitError(
            f"can't read {path} as an image ({reason(error)}); give a picture such as a JPEG or PNG"
        ) from error
    if mode.startswith(_DEEP_MODES):
        raise CamkitError(f"the image {path} has more than eight bits per pixel (mode {mode}); save it with eight")
    return image
