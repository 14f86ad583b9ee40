"""Changed images whose scores metrics read: what a perturbation is."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor


class Perturbation(Protocol):
    """A way to change an image. Frozen and hashable: the images of equal ones are run once, for all that ask."""

    @property
    def of_map(self) -> bool:
        """Whether the changed images depend on the map; those that don't are run once for all methods."""

    def count(self, image: Tensor) -> int:
        """How many changed images there are of an image (C, H, W)."""

    def images(self, image: Tensor, heat: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
        """Yield the changed images (C, H, W) in order.

        What is yielded is copied before the next one is asked for, so that it can be changed in place.

        Args:
            image: (C, H, W), normalised, on the network's device.
            heat: (H, W), the map; where ``of_map`` is False it isn't read.
            generator: on the CPU, seeded by the image and the seed alone, so that neither batches, nor order, nor the
                device change what is drawn.
        """


def generator_of(image: Tensor, seed: int) -> torch.Generator:
    """Random numbers that depend on the image and the seed alone.

    Args:
        image: (C, H, W).
        seed: any whole number from 0 on.
    """
    content = zlib.crc32(image.detach().cpu().contiguous().float().numpy().tobytes())
    return torch.Generator().manual_seed((seed * 2**32 + content) % 2**63)
