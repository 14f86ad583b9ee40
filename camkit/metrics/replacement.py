"""Pixels of one picture replaced by those of another, in the order of a map: what deletion and insertion run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from camkit.metrics.ranks import descending

BLUR_SIZE, BLUR_SIGMA = 11, 5.0
"""Of the blurred image, in pixels."""


@dataclass(frozen=True)
class Replaced:
    """Pixels of one picture replaced by those of another, in descending order of the map.

    Attributes:
        pixels_per_step: how many; None for the image's width.
        start: the picture before the first step, ``"image"``, ``"zeros"`` or ``"blur"``.
        end: the picture after the last step.
    """

    pixels_per_step: int | None
    start: str
    end: str
    of_map: bool = True

    def count(self, image: Tensor) -> int:
        """See :class:`camkit.metrics.perturbations.Perturbation`."""
        return len(self.shares(image.shape[1], image.shape[2]))

    def shares(self, height: int, width: int) -> Tensor:
        """The share of pixels replaced, from 0 to 1, step by step."""
        total = height * width
        counts = [*range(0, total, self.pixels_per_step or width), total]
        return torch.tensor(counts, dtype=torch.float64) / total

    def images(self, image: Tensor, heat: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
        """See :class:`camkit.metrics.perturbations.Perturbation`."""
        changing, end = _picture(self.start, image).clone(), _picture(self.end, image)
        yield changing
        # In place: a picture of its own for every step takes several times as long.
        pixels, replacement = changing.flatten(1), end.flatten(1)
        for chosen in torch.split(descending(heat).to(image.device), self.pixels_per_step or image.shape[2]):
            pixels[:, chosen] = replacement[:, chosen]
            yield changing


def _picture(name: str, image: Tensor) -> Tensor:
    """The picture of a name, contiguous."""
    if name == "zeros":
        return torch.zeros_like(image, memory_format=torch.contiguous_format)
    return blurred(image) if name == "blur" else image.contiguous()


def blurred(image: Tensor) -> Tensor:
    """A normalised image (C, H, W) blurred by an 11 x 11 Gaussian of sigma 5, the mean colour around it."""
    reach = BLUR_SIZE // 2
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64)
    weights = (-(offsets**2) / (2 * BLUR_SIGMA**2)).exp()
    weights = (weights / weights.sum()).to(image)
    rows = functional.conv2d(image[:, None], weights.view(1, 1, -1, 1), padding=(reach, 0))
    return functional.conv2d(rows, weights.view(1, 1, 1, -1), padding=(0, reach))[:, 0]
