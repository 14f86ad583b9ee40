"""Random changes of images, which don't depend on the map: noise, and cells or pixels set to the mean colour."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Noise:
    """The image minus normal noise, ``num_samples`` times.

    Attributes:
        num_samples: how many images there are.
        std: standard deviation of the noise, in units of the normalised image.
    """

    num_samples: int
    std: float
    of_map: bool = False

    def count(self, image: Tensor) -> int:
        """How many changed images there are."""
        return self.num_samples

    def images(self, image: Tensor, heat: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
        """Yield x - I."""
        for change in self.changes(image, generator):
            yield image - change

    def changes(self, image: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
        """Yield I, (C, H, W), as the image's dtype holds it."""
        for _ in range(self.num_samples):
            yield (self.std * torch.randn(image.shape, generator=generator)).to(image)


@dataclass(frozen=True)
class RemovedCells:
    """The image with random cells of a grid set to 0, the mean colour.

    Attributes:
        num_subsets: how many images there are.
        grid: cells along each side; an image of fewer pixels has as many cells as pixels.
        share: of the cells that are removed.
    """

    num_subsets: int
    grid: int
    share: float
    of_map: bool = False

    def count(self, image: Tensor) -> int:
        """How many changed images there are."""
        return self.num_subsets

    def images(self, image: Tensor, heat: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
        """Yield them."""
        cells = self.cells(*image.shape[1:]).to(image.device)
        for subset in self.subsets(image.shape[1], image.shape[2], generator):
            yield image.masked_fill(torch.isin(cells, subset.to(image.device)), 0)

    def cells(self, height: int, width: int) -> Tensor:
        """The number of each pixel's cell, (H, W)."""
        rows, columns = min(self.grid, height), min(self.grid, width)
        down = torch.arange(height) * rows // height
        across = torch.arange(width) * columns // width
        return down[:, None] * columns + across

    def subsets(self, height: int, width: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Yield the numbers of the cells that are removed, all equally many."""
        cells = min(self.grid, height) * min(self.grid, width)
        removed = min(max(1, round(self.share * cells)), cells)
        for _ in range(self.num_subsets):
            yield torch.randperm(cells, generator=generator)[:removed]


@dataclass(frozen=True)
class RemovedPixels:
    """The image with random pixels set to 0, the mean colour: ``num_subsets`` images of each share in turn.

    Attributes:
        num_subsets: how many images there are of each share.
        shares: of the pixels that are removed.
    """

    num_subsets: int
    shares: tuple[float, ...]
    of_map: bool = False

    def count(self, image: Tensor) -> int:
        """How many changed images there are."""
        return self.num_subsets * len(self.shares)

    def images(self, image: Tensor, heat: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
        """Yield them."""
        changed = image.clone(memory_format=torch.contiguous_format)
        flat, kept = changed.flatten(1), image.flatten(1)
        for pixels in self.subsets(image.shape[1] * image.shape[2], generator):
            there = pixels.to(image.device)
            flat[:, there] = 0
            yield changed
            flat[:, there] = kept[:, there]

    def subsets(self, pixels: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Yield the indices of the pixels that are removed, row by row."""
        for share in self.shares:
            removed = min(max(1, round(share * pixels)), max(1, pixels - 1))
            for _ in range(self.num_subsets):
                yield torch.randperm(pixels, generator=generator)[:removed]
