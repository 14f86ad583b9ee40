"""Run built transforms on one image, keeping the picture from before normalisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray

from camkit.errors import reason
from camkit.models.mmpretrain_reader import Form, pixels, read_form
from camkit.models.randomness import same_randomness

Step = Callable[[dict[str, Any]], Any]
"""A built transform: takes MMPretrain's dict of results, with the image as ``img``, and returns one."""


class StepError(Exception):
    """A pipeline that fails on an image.

    Attributes:
        while_reading: Before there was an image.
        wants_image: It takes an image, not the path of one.
    """

    def __init__(self, message: str, *, while_reading: bool = False, wants_image: bool = False) -> None:
        super().__init__(message)
        self.while_reading = while_reading
        self.wants_image = wants_image


@dataclass(frozen=True, eq=False)
class Run:
    """An image's way through a pipeline.

    Attributes:
        loaded: The image as it was read, (H, W) or (H, W, C).
        form: Its layout in the pipeline.
        packed: The results at the end, with the network's input as ``inputs``, (C, H, W).
        picture: The last image before a step normalised it, (h, w) or (h, w, C).
        again: Runs the steps behind the reading ones on another image in the same form; returns the picture.
    """

    loaded: NDArray[Any]
    form: Form
    packed: dict[str, Any]
    picture: NDArray[Any]
    again: Callable[[Any], NDArray[Any]]


def run(steps: Sequence[Step], sample: dict[str, Any], path: str) -> Run:
    """Run a pipeline on what a data set hands over, ``path`` in one form or another.

    Raises:
        StepError: It fails, or makes no single image.
    """
    with same_randomness():
        results, image, rest = read(steps, sample, path)
        key, form, loaded = _image_key(steps), read_form(image), pixels(image).copy()
        if form is None:
            raise TypeError(f"{type(image).__name__} is no image")
        packed, picture = _finish(rest, {**results, key: image}, key, path)

    def again(other: Any) -> NDArray[Any]:
        with same_randomness():
            return _finish(rest, {**results, key: other}, key, path)[1]

    return Run(loaded, form, packed, picture, again)


def read(steps: Sequence[Step], sample: dict[str, Any], path: str) -> tuple[dict[str, Any], Any, Sequence[Step]]:
    """Run the steps up to the one that brings the image: none where the sample holds it.

    Returns:
        The results without the image, the image, and the steps that are left.

    Raises:
        StepError: They fail, or bring none.
    """
    key = _image_key(steps)
    results: Any = dict(sample)
    for index in range(len(steps) + 1):
        if read_form(image := results.get(key)) is not None:
            return {name: value for name, value in results.items() if name != key}, image, steps[index:]
        if index < len(steps):
            results = _read_step(steps[index], results, key, path)
    raise StepError(
        f"the config's test pipeline loads no image from {path}; start it with LoadImageFromFile",
        while_reading=True,
        wants_image="inputs" not in results,
    )


def step_name(step: Step) -> str:
    """The name of a transform's class."""
    step = getattr(step, "t", step)  # inside MMPretrain's wrapper around torchvision's transforms
    return str(getattr(step, "__name__", type(step).__name__))


def _image_key(steps: Sequence[Step]) -> str:
    """Where the results hold the image: what the packing transform is told, ``img`` by default."""
    return next((key for step in steps if isinstance(key := getattr(step, "input_key", None), str)), "img")


def _read_step(step: Step, results: dict[str, Any], key: str, path: str) -> dict[str, Any]:
    try:
        results = step(results)
    except KeyError as error:
        message = (
            f"the config's test pipeline starts with {step_name(step)}, which can't read an image file (it needs "
            f"{error}); start it with LoadImageFromFile, or with a reader that takes img_path"
        )
        raise StepError(message, while_reading=True, wants_image=error.args[:1] == (key,)) from error
    except Exception as error:
        raise _unreadable(step, path, reason(error)) from error
    if not isinstance(results, dict):
        raise _unreadable(step, path, f"it returns {type(results).__name__}")
    return results


def _unreadable(step: Step, path: str, why: str) -> StepError:
    message = f"{step_name(step)} can't read {path} as an image ({why}); give a picture such as a JPEG or PNG"
    return StepError(message, while_reading=True)


def _finish(steps: Sequence[Step], results: dict[str, Any], key: str, path: str) -> tuple[dict[str, Any], NDArray[Any]]:
    """Run the steps behind the reading ones; return the packed results and the picture."""
    picture, normalised = pixels(results[key]), False
    for step in steps:
        try:
            results = step(results)
        except Exception as error:
            raise StepError(
                f"the config's test pipeline fails on {path} at {step_name(step)}: {reason(error)}"
            ) from error
        normalised |= "Normalize" in step_name(step)
        image = results.get(key) if isinstance(results, dict) else None
        if not normalised and (form := read_form(image)) and (form.kind != "tensor" or form.dtype == torch.uint8):
            picture = pixels(image)
    inputs = results.get("inputs") if isinstance(results, dict) else None
    if not isinstance(inputs, torch.Tensor) or inputs.ndim != 3:
        raise StepError(f"the config's test pipeline makes no single image of {path}; end it with PackInputs")
    if tuple(inputs.shape[1:]) != picture.shape[:2]:
        raise StepError(
            f"the config's test pipeline changes the size of {path} after normalising it, so that there is no picture "
            "of what the network saw"
        )
    return results, picture
