"""Prepare images for batches: in worker processes up to small uint8 tensors, which are normalised a batch at a time.

:meth:`camkit.models.classifier.Classifier.prepare` prepares one image, with its picture. Over a data set that costs: a
third of the time goes into normalising image by image, and floats are four times as large to hand over. A loader does
the same work in two halves. Whether they give the same numbers is tried when the loader is chosen; where they don't,
images are prepared as ever.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from camkit.errors import CamkitError, UsageError
from camkit.models import pillow
from camkit.models.prepared import Prepared

TRIED = ((375, 500), (97, 64))
"""Heights and widths of the images that a loader is tried with."""


class Loaded(NamedTuple):
    """An image as a worker process prepares it.

    Attributes:
        pixels: (C, H, W), uint8 or float32.
        size: (H0, W0) of the whole image, as the framework's own loader reads it.
    """

    pixels: Tensor
    size: tuple[int, int]


class Loader(Protocol):
    """The two halves of a preprocessing."""

    def load(self, path: str) -> Loaded:
        """Read an image and prepare it as far as that goes image by image. Needs no device; runs in any process.

        Raises:
            CamkitError: The image is missing or unreadable, or the preprocessing fails on it.
        """

    def inputs(self, pixels: Tensor) -> Tensor:
        """The network's input (B, C, H, W), on its device, of pixels (B, C, H, W) as they were loaded."""

    def describe(self) -> str:
        """All that the preprocessing does, as text for people; see :mod:`camkit.models.fingerprint`."""


class _Finished:
    """The second half where the first one does all but move the images."""

    device: torch.device

    def inputs(self, pixels: Tensor) -> Tensor:
        """See :class:`Loader`."""
        return pixels.to(self.device)


@dataclass(frozen=True)
class WholeLoader(_Finished):
    """Any preprocessing: images are prepared whole in the first half."""

    prepare: Callable[[str], Prepared]
    device: torch.device

    def load(self, path: str) -> Loaded:
        """See :class:`Loader`."""
        prepared = self.prepare(path)
        height, width = prepared.original.shape[:2]
        return Loaded(prepared.inputs[0].cpu(), (height, width))

    def describe(self) -> str:
        """See :class:`Loader`."""
        return described(self.prepare)


@dataclass(frozen=True)
class PillowLoader:
    """A transform of Pillow images whose last step normalises.

    Attributes:
        transform: The whole of it.
        colours: The transform without that step, to (C, H, W) in 0..255 or, with ``unit``, in [0, 1]; or to an image.
        unit: See ``colours``.
        normalise: From uint8 (B, C, H, W) to what the network takes.
        device: Where the model is.
    """

    transform: pillow.Transform
    colours: pillow.Transform
    unit: bool
    normalise: Callable[[Tensor], Tensor]
    device: torch.device

    def load(self, path: str) -> Loaded:
        """See :class:`Loader`."""
        image, made = pillow.transformed(path, self.colours)
        # Where the step to a tensor was left out, too, there is an image still.
        colours = made if isinstance(made, Tensor) else torch.from_numpy(np.array(made)).permute(2, 0, 1).contiguous()
        if colours.dtype != torch.uint8:
            colours = (colours * 255 if self.unit else colours).round().clamp(0, 255).to(torch.uint8)
        return Loaded(colours, (image.height, image.width))

    def inputs(self, pixels: Tensor) -> Tensor:
        """See :class:`Loader`."""
        return self.normalise(pixels.to(self.device))

    def describe(self) -> str:
        """See :class:`Loader`."""
        return described(self.transform)


def choose_loader(prepare: Callable[[str], Prepared], device: torch.device) -> Loader:
    """The first loader that gives exactly what ``prepare`` does on images of noise.

    Raises:
        UsageError: There is no preprocessing.
    """
    with noise(TRIED) as paths:
        try:
            expected = [prepare(path).inputs for path in paths]
        except UsageError:
            raise
        except CamkitError:  # a preprocessing that takes other images than these
            return WholeLoader(prepare, device)
        for loader in candidates(prepare, device):
            if gives(loader, paths, expected):
                return loader
    return WholeLoader(prepare, device)


def candidates(prepare: Any, device: torch.device) -> Iterator[Loader]:
    """Loaders that may fit a framework's preprocessing."""
    if hasattr(prepare, "loaders"):
        yield from prepare.loaders()
    if isinstance(prepare, partial) and prepare.func is pillow.prepare:
        transform = prepare.keywords["transform"]
        for colours, mean, std in without_normalisation(transform):
            yield PillowLoader(transform, colours, True, Normalise(mean, std, 255.0), device)
        # The whole transform, without making the picture again.
        yield FloatLoader(transform, device)


@dataclass(frozen=True)
class FloatLoader(_Finished):
    """A transform of Pillow images that can't be cut in two."""

    transform: pillow.Transform
    device: torch.device

    def load(self, path: str) -> Loaded:
        """See :class:`Loader`."""
        image, pixels = pillow.transformed(path, self.transform)
        return Loaded(pixels, (image.height, image.width))

    def describe(self) -> str:
        """See :class:`Loader`."""
        return described(self.transform)


@dataclass(frozen=True)
class Normalise:
    """``(colours / scale - mean) / std`` in float32, step by step as torchvision computes it."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float

    def __call__(self, colours: Tensor) -> Tensor:
        """Normalise (B, C, H, W)."""
        mean, std = (
            torch.tensor(each, dtype=torch.float32, device=colours.device)[:, None, None]
            for each in (self.mean, self.std)
        )
        made = colours.to(torch.float32)
        if self.scale != 1:
            made = made.div_(self.scale)
        return made.sub_(mean).div_(std)


def without_normalisation(
    transform: Any,
) -> Iterator[tuple[pillow.Transform, tuple[float, ...], tuple[float, ...]]]:
    """A torchvision transform without its normalisation, to [0, 1], and the mean and the deviation it had."""
    steps = getattr(transform, "transforms", None)
    if isinstance(steps, list) and len(steps) > 1 and type(steps[-1]).__name__ == "Normalize":
        mean, std = _floats(steps[-1].mean), _floats(steps[-1].std)
        if type(steps[-2]).__name__ in ("ToTensor", "MaybeToTensor"):
            yield type(transform)(steps[:-2]), mean, std
        yield type(transform)(steps[:-1]), mean, std
    elif hasattr(transform, "mean") and hasattr(transform, "std"):  # the presets of torchvision's weights
        neutral = copy.deepcopy(transform)
        channels = len(transform.mean)
        neutral.mean, neutral.std = [0.0] * channels, [1.0] * channels
        yield neutral, _floats(transform.mean), _floats(transform.std)


def gives(loader: Loader, paths: Sequence[str], expected: Sequence[Tensor]) -> bool:
    """Whether a loader makes exactly the inputs that are expected."""
    try:
        made = [loader.inputs(loader.load(path).pixels[None]) for path in paths]
    except Exception:  # noqa: BLE001 (another package's transform, called in another way than it is meant to be)
        return False
    pairs = zip(made, expected, strict=True)
    return all(
        one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other) for one, other in pairs
    )


@contextmanager
def noise(sizes: Sequence[tuple[int, int]]) -> Iterator[list[str]]:
    """Paths of pictures of noise, there as long as the context.

    Raises:
        CamkitError: They can't be written.
    """
    random = np.random.default_rng(0)
    with pictures([random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]) as paths:
        yield paths


@contextmanager
def pictures(images: Sequence[NDArray[np.uint8]]) -> Iterator[list[str]]:
    """Paths of pictures, (H, W, 3) each, there as long as the context.

    Raises:
        CamkitError: They can't be written.
    """
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / f"{number}.bmp") for number in range(len(images))]
        try:
            for path, image in zip(paths, images, strict=True):
                Image.fromarray(image).save(path)
        except OSError as error:
            raise CamkitError(f"can't write pictures to try to {folder}: {error.strerror or error}") from error
        yield paths


def described(what: Any) -> str:
    """What a preprocessing does, as text without addresses in memory."""
    if isinstance(what, partial):
        inner = what.keywords.get("transform", what.func)
        return described(inner)
    owner: Any = getattr(what, "__self__", None)
    if owner is not None and hasattr(owner, "describe"):
        return str(owner.describe())
    text = what.describe() if hasattr(what, "describe") else repr(what)
    if " at 0x" in text:
        return f"{getattr(what, '__module__', '')}.{getattr(what, '__qualname__', type(what).__qualname__)}"
    return str(text)


def _floats(values: Any) -> tuple[float, ...]:
    found = values.tolist() if hasattr(values, "tolist") else values
    if not all(isinstance(each, int | float) for each in found):
        raise CamkitError("a normalisation that isn't by numbers")
    return tuple(map(float, found))
