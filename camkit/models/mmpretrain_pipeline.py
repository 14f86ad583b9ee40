"""Run MMPretrain's test transforms on an image file, keeping the picture from before normalisation."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from camkit.errors import CamkitError, reason

Step = Any
"""A built transform: takes MMPretrain's dict of results, with the image as ``img``, and returns one."""


def flip_channels(results: dict[str, Any]) -> dict[str, Any]:
    """A step that exchanges BGR and RGB."""
    return results | {"img": np.ascontiguousarray(results["img"][..., ::-1])}


def load_image(steps: list[Step], path: str) -> tuple[dict[str, Any], list[Step]]:
    """Run the steps up to the one that loads the image; return its results and the remaining steps."""
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


def run_steps(steps: list[Step], results: Any, path: str) -> tuple[dict[str, Any], NDArray[Any]]:
    """Run the steps behind the loading one on its results.

    Returns:
        The packed results, with the network's input as ``inputs``, and the picture: the last image before a step
        normalised it, of any dtype, in the channel order in which it was loaded.
    """
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
            f"the config's test pipeline changes the size of {path} after normalising it, so that there is no picture "
            "of what the network saw"
        )
    return results, picture[..., ::-1] if flipped else picture


def _name(step: Step) -> str:
    step = getattr(step, "t", step)  # inside MMPretrain's wrapper around torchvision's transforms
    return str(getattr(step, "__name__", type(step).__name__))


@contextmanager
def same_randomness() -> Iterator[None]:
    """Run a pipeline from the same random state every time, and leave the process' own as it was."""
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
