"""Changed images whose scores metrics read: what a perturbation is, and those that several metrics share."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Changed = Tensor | Callable[[], Tensor]
"""A changed image (C, H, W), or what makes it: a function that threads call beside the network's passes."""


class Perturbation(Protocol):
    """A way to change an image. Frozen and hashable: the images of equal ones are run once, for all that ask."""

    @property
    def of_map(self) -> bool:
        """Whether the changed images depend on the map; those that don't are run once for all methods and targets."""

    def count(self, image: Tensor) -> int:
        """How many changed images there are of an image (C, H, W); the same for all images of a size."""

    def images(self, image: Tensor, heat: Tensor, generator: torch.Generator) -> Iterator[Changed]:
        """Yield the changed images (C, H, W) in order.

        A tensor that is yielded is copied before the next one is asked for, so that it can be changed in place. What
        takes long on the CPU is yielded as functions, which draw nothing: they run in threads, in any order.

        Args:
            image: (C, H, W), normalised, of the network's dtype and on its device.
            heat: (H, W), the map, float64 on the CPU; where ``of_map`` is False it isn't to be read.
            generator: on the CPU, seeded by the image and the seed alone, so that neither batches, nor order, nor the
                device change what is drawn.
        """


@dataclass(frozen=True)
class Original:
    """The image as it is."""

    of_map: bool = False

    def count(self, image: Tensor) -> int:
        """See :class:`Perturbation`."""
        return 1

    def images(self, image: Tensor, heat: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
        """See :class:`Perturbation`."""
        yield image


@dataclass(frozen=True)
class Masked:
    """The normalised image times the map: where the map is 0 there is the mean colour."""

    of_map: bool = True

    def count(self, image: Tensor) -> int:
        """See :class:`Perturbation`."""
        return 1

    def images(self, image: Tensor, heat: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
        """See :class:`Perturbation`."""
        yield image * heat.to(image)


def generator_of(image: Tensor, seed: int) -> torch.Generator:
    """Random numbers that depend on the image and the seed alone.

    Args:
        image: (C, H, W).
        seed: any whole number from 0 on.
    """
    content = image.detach().cpu().contiguous().float().numpy().tobytes()
    return torch.Generator().manual_seed(seed_of(content, seed))


def seed_of(content: bytes, seed: int) -> int:
    """A seed of something's own, of 32 bits: all that torch's generator takes of a number on the CPU."""
    return zlib.crc32(content, zlib.crc32(str(seed).encode()))
