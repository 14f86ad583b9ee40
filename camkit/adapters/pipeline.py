"""From an image file through a test pipeline of built transforms to what the network gets, and what it saw."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from camkit.errors import CamkitError, reason
from camkit.geometry import Geometry, fit_geometry

Step = Any
"""One built transform: dict of results to dict of results."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """An image on its way into the network.

    ``inputs`` is (1, C, H, W) on the model's device, normalised; ``picture`` uint8 (H, W, 3), what the network saw
    before normalisation; ``original`` uint8 (H0, W0, 3), the whole image as the config's loader reads it (orientation,
    depth and transparency are treated as the loader does). Both are taken for BGR, as MMPretrain's own tools do: a
    pipeline that exchanges channels on its way shows them exchanged.
    """

    inputs: Tensor
    picture: NDArray[np.uint8]
    original: NDArray[np.uint8]
    _transform: Callable[[NDArray[Any]], NDArray[Any]] = field(repr=False)

    @cached_property
    def geometry(self) -> Geometry:
        """Where in ``original`` the picture's pixels come from, found when first asked for.

        Raises:
            CamkitError: The test pipeline does more than resize, crop, pad and flip.
        """
        height, width = self.original.shape[:2]
        return fit_geometry(self._transform, (height, width))

    def to_original(self, values: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """A map (H, W) laid over ``original``: float32 (H0, W0), and bool (H0, W0), where the network looked."""
        height, width = self.original.shape[:2]
        return self.geometry.to_original(values, (height, width))


def flip_channels(results: dict[str, Any]) -> dict[str, Any]:
    """The step that exchanges BGR and RGB."""
    return results | {"img": np.ascontiguousarray(results["img"][..., ::-1])}


def check_file(path: str) -> None:
    """Refuse what is no readable file before a pipeline runs into it.

    Raises:
        CamkitError: Missing, a folder, not readable or empty.
    """
    if "://" in path:  # MMEngine's file backends fetch it
        return
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


def load_image(steps: list[Step], path: str) -> tuple[dict[str, Any], list[Step]]:
    """Run the steps up to the one that has the image; the results so far, and the steps that remain."""
    results: Any = {"img_path": path}
    for index, step in enumerate(steps):
        try:
            results = step(results)
        except KeyError as error:
            raise CamkitError(
                f"the config's test pipeline starts with {_name(step)}, which can't read an image file (it needs "
                f"{error}); start it with LoadImageFromFile"
            ) from error
        except Exception as error:
            raise CamkitError(
                f"can't read {path} as an image ({reason(error)}); give a picture such as a JPEG or PNG"
            ) from error
        image = results.get("img") if isinstance(results, dict) else None
        if isinstance(image, np.ndarray) and image.ndim in (2, 3) and image.size:
            return results, steps[index + 1 :]
    raise CamkitError(f"the config's test pipeline loads no image from {path}; start it with LoadImageFromFile")


def run_steps(steps: list[Step], results: Any, path: str) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    """Run the steps behind the loading one: what they pack, and the last picture before it was normalised."""
    picture, normalised, flipped = results["img"], False, False
    for step in steps:
        try:
            results = step(results)
        except Exception as error:
            raise CamkitError(
                f"the config's test pipeline fails on {path} at {_name(step)}: {reason(error)}"
            ) from error
        normalised |= "Normalize" in _name(step)
        flipped |= step is flip_channels
        image = results.get("img") if isinstance(results, dict) else None
        if image is not None and not isinstance(image, torch.Tensor) and not normalised:
            picture = image if isinstance(image, np.ndarray) else np.array(image)
    inputs = results.get("inputs") if isinstance(results, dict) else None
    if not isinstance(inputs, torch.Tensor) or inputs.ndim != 3:
        raise CamkitError(f"the config's test pipeline makes no single image of {path}; end it with PackInputs")
    if tuple(inputs.shape[1:]) != picture.shape[:2]:
        raise CamkitError(
            f"the config's test pipeline changes the size of {path} after normalising it: nothing to show"
        )
    return results, as_uint8(picture[..., ::-1] if flipped else picture)


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


def _name(step: Step) -> str:
    step = getattr(step, "t", step)  # MMPretrain's wrapper around torchvision's transforms
    return str(getattr(step, "__name__", type(step).__name__))


@contextmanager
def same_randomness() -> Iterator[None]:
    """Start every run of a pipeline from the same random state, and leave the process' own untouched."""
    python, numpy, pytorch = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (what the transforms draw from)
    torch.default_generator.manual_seed(0)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(pytorch)
