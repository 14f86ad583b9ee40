"""Handwritten digits at random places of a noisy canvas, so that the place of every class is known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

SIDE = 12
"""A digit's height and width in pixels, three patches of the network; scikit-learn's are 8 and get enlarged."""
CLASSES = 10
NOISE = 0.2
"""Scale of the background, the magnitude of Gaussian noise; ink is 0 to 1."""
DIGITS = {"training": range(1200), "validation": range(1200, 1450), "held-out": range(1450, 1797)}
"""Which of scikit-learn's digits go into which split. Runs, not a shuffle: neighbours in the
set tend to be of one writer, so that the held-out ones are mostly of hands that training didn't see."""


@dataclass(frozen=True)
class Canvases:
    """Images with two places each, all of one size.

    Attributes:
        images: (N, 1, H, W), background and ink from 0 up to about 1.
        classes: (N, 2), the class of the digit at each place; never twice the same.
        corners: (N, 2, 2), top and left of each place's box, which is :data:`SIDE` pixels high and wide.
        digits: (N, 2), the digits' numbers in scikit-learn's set.
        filled: (N, 2), whether the digit was drawn; the first one always is.
    """

    images: Tensor
    classes: Tensor
    corners: Tensor
    digits: Tensor
    filled: Tensor

    @property
    def presence(self) -> Tensor:
        """(N, CLASSES), 1 for the classes that are on the canvas."""
        labels = torch.zeros(len(self.images), CLASSES)
        return labels.scatter_reduce(1, self.classes, self.filled.float(), "amax")


def draw(split: str, count: int, size: tuple[int, int], generator: torch.Generator, *, single: float = 0) -> Canvases:
    """Draw ``count`` canvases of ``size`` (height, width).

    Two digits of different classes stand at places that don't overlap, every pair of places being equally likely.
    Where ink and background meet, the brighter one shows, so that no frame gives a box away.

    Args:
        split: a key of :data:`DIGITS`.
        count: how many.
        size: height and width, at least :data:`SIDE` each and twice that in one of them.
        generator: what all chance comes from.
        single: the share of canvases on which only the first digit is drawn.
    """
    inks, labels = digits()
    known = DIGITS[split]
    numbers, corners = (torch.zeros(count, 2, dtype=torch.long), torch.zeros(count, 2, 2, dtype=torch.long))
    redo = torch.ones(count, dtype=torch.bool)
    while redo.any():
        missing = int(redo.sum())
        numbers[redo] = torch.randint(known.start, known.stop, (missing, 2), generator=generator)
        places = [torch.randint(length - SIDE + 1, (missing, 2), generator=generator) for length in size]
        corners[redo] = torch.stack(places, 2)
        overlap = (corners[:, 0] - corners[:, 1]).abs().amax(1) < SIDE
        redo = overlap | (labels[numbers[:, 0]] == labels[numbers[:, 1]])
    filled = torch.stack([torch.ones(count), torch.rand(count, generator=generator) >= single], 1).bool()
    images = (NOISE * torch.randn(count, 1, *size, generator=generator)).abs()
    image, box = torch.arange(count)[:, None, None], torch.arange(SIDE)
    for place in range(2):
        y = (corners[:, place, :1] + box)[:, :, None]
        x = (corners[:, place, 1:] + box)[:, None, :]
        shown = inks[numbers[:, place]] * filled[:, place, None, None]
        images[image, 0, y, x] = torch.maximum(images[image, 0, y, x], shown)
    return Canvases(images, labels[numbers], corners, numbers, filled)


@cache
def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's 1797 digits, (N, SIDE, SIDE) in [0, 1], and their classes (N,)."""
    from sklearn.datasets import load_digits

    found = load_digits()
    inks = torch.from_numpy(found.images / found.images.max()).float()
    enlarged = functional.interpolate(inks[:, None], size=(SIDE, SIDE), mode="bilinear")[:, 0]
    return enlarged, torch.from_numpy(found.target).long()


def box_share(size: tuple[int, int]) -> float:
    """The share of a canvas that one digit's box covers: how often a hottest position at random would hit it."""
    return SIDE**2 / math.prod(size)
