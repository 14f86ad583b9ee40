"""The images of MMPretrain's pipelines: how a data set hands them over, how they are laid out, in which colours."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

_PATH_KEYS = (
    "img_path", "filename", "ori_filename", "file_name", "file", "path", "filepath", "file_path", "image_path",
    "image_file", "img_file", "img_filename", "image_filename", "img_name", "image_name",
)  # fmt: skip
_MAX_PLANES = 4  # with more values along the last axis than this, an image may have its channels first


def samples_of(path: str) -> Iterator[dict[str, Any]]:
    """What a data set may hand to its pipeline for an image file, the usual form first.

    MMPretrain's own give ``img_path``; others, and those of MMClassification 0.x, other names for it; and some
    transforms ask for a label.
    """
    sample: dict[str, Any] = {"img_path": path, "sample_idx": 0}
    yield dict(sample)
    paths = dict.fromkeys(_PATH_KEYS, path)
    sample |= paths | {"img_prefix": "", "img_info": paths, "ann": paths, "ann_info": paths}
    yield dict(sample)
    yield sample | {"gt_label": 0}


@dataclass(frozen=True)
class Form:
    """How an image is laid out, to show it and to make another one like it.

    Attributes:
        kind: A NumPy array, a picture of Pillow's, or a tensor.
        channels: None for an image without an axis for them.
        channels_first: Whether that axis is the first one.
        dtype: Of an array or tensor; of a Pillow picture, its mode.
    """

    kind: Literal["array", "pillow", "tensor"]
    channels: int | None
    channels_first: bool
    dtype: Any

    def like(self, image: NDArray[np.uint8]) -> Any:
        """An image (H, W, C) or (H, W) in this form; of another number of channels, its first one is repeated."""
        if image.ndim == 3 and self.channels is None:
            image = image[..., 0]
        elif image.ndim == 3 and image.shape[2] != self.channels:
            image = image[..., :1].repeat(self.channels or 1, axis=2)
        if self.kind == "pillow":
            from PIL import Image

            return Image.fromarray(image).convert(self.dtype)
        image = np.ascontiguousarray(image.transpose(2, 0, 1) if self.channels_first else image)
        return torch.from_numpy(image).to(self.dtype) if self.kind == "tensor" else image.astype(self.dtype)


def read_form(image: Any) -> Form | None:
    """The form of an image; None for what is none."""
    if isinstance(image, torch.Tensor):
        if image.ndim not in (2, 3) or not image.numel():
            return None
        return Form("tensor", image.shape[0] if image.ndim == 3 else None, image.ndim == 3, image.dtype)
    if isinstance(image, np.ndarray):
        if image.ndim not in (2, 3) or not image.size or image.dtype.kind not in "buif":
            return None
        first = image.ndim == 3 and image.shape[2] > _MAX_PLANES and image.shape[0] < min(image.shape[1:])
        channels = None if image.ndim == 2 else image.shape[0 if first else 2]
        return Form("array", channels, first, image.dtype)
    bands = getattr(image, "getbands", None)  # Pillow's
    return Form("pillow", len(bands()) if len(bands()) > 1 else None, False, image.mode) if bands else None


def pixels(image: Any) -> NDArray[Any]:
    """An image of any form as an array (H, W) or (H, W, C)."""
    form = read_form(image)
    array = image.cpu().numpy() if isinstance(image, torch.Tensor) else np.asarray(image)
    return array.transpose(1, 2, 0) if form is not None and form.channels_first else array


def red_goes_first(read: Callable[[str], Any], path: str, loaded: NDArray[Any]) -> bool | None:
    """Whether a reader puts red first, found by what it makes of a red picture of the same kind of file.

    Args:
        read: Makes an image of a path.
        path: A file that the reader reads. The bands of a ``.npy`` file count as red, green, blue in its order.
        loaded: What it makes of that file, (H, W) or (H, W, C).

    Returns:
        None where it can't be told: the reader reads no such picture, or makes it grey or of other channels.
    """
    with suppress(Exception), tempfile.TemporaryDirectory() as folder:
        red = Path(folder) / f"red{Path(path).suffix or '.png'}"
        _write_red(red, path, loaded.shape)
        image = pixels(read(str(red)))
        return brighter(image) if image.shape[2:] == loaded.shape[2:] else None
    return None


def red_image(form: Form, size: tuple[int, ...]) -> Any:
    """An image in a form whose first channel is bright and whose others are black."""
    image = np.zeros((*size, form.channels or 1), np.uint8)
    image[..., 0] = 255
    return form.like(image)


def brighter(image: NDArray[Any]) -> bool | None:
    """Of an image (H, W, C), whether the first channel is brighter than the third; None where they are alike."""
    if image.ndim != 3 or image.shape[2] < 3:
        return None
    first, third = (float(image[..., channel].astype(np.float64).mean()) for channel in (0, 2))
    return None if first == third else first > third


def _write_red(red: Path, like: str, shape: tuple[int, ...]) -> None:
    if red.suffix.lower() == ".npy":
        array = np.load(like, mmap_mode="r")
        form = read_form(array)
        if form is None:
            return
        np.save(red, red_image(form, array.shape[1:] if form.channels_first else array.shape[:2]))
        return
    from PIL import Image

    height, width = shape[:2]
    mode = "RGB"
    if shape[2:] == (4,):
        with suppress(OSError), Image.open(like) as image:  # four bands may also be pages of their own
            mode = "RGBA" if image.mode == "RGBA" else mode
    Image.new(mode, (width, height), "red").save(red)
