"""Controls: maps that know nothing of the network. A metric that can't tell a method from these says nothing of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from camkit.methods.maps import finish, normalise
from camkit.metrics.perturbations import generator_of

RANDOM = "Random"
STRIDE = 32
"""Pixels of the image per cell of a random map, where the layer's resolution is unknown."""
FEWEST = 4
"""Cells of such a map along each side, at least."""
_SEED_SHIFT = 104_729
"""Metrics draw from :func:`generator_of`, too; maps that were drawn from the same numbers would not be independent."""

Control = Callable[[Tensor], Tensor]
"""From images (N, C, H, W) to maps (N, H, W) in [0, 1]."""


def random_maps(images: Tensor, *, grid: Sequence[int] | None = None, seed: int = 0) -> Tensor:
    """Random maps, finished as a method's are: noise at the layer's resolution, rectified, enlarged bilinearly.

    Each image has a map of its own, which depends on the image and the seed alone.

    Args:
        images: (N, C, H, W).
        grid: (h, w), the layer's resolution; None takes a cell per 32 pixels.
        seed: any whole number from 0 on.

    Returns:
        (N, H, W) float32 in [0, 1].

    Example:
        >>> random_maps(images, grid=(7, 7)).shape
        torch.Size([2, 32, 32])
    """
    size = images.shape[2:]
    cells = [max(FEWEST, side // STRIDE) for side in size] if grid is None else list(grid)
    draws = [2 * torch.rand(cells, generator=generator_of(image, seed + _SEED_SHIFT)) - 1 for image in images]
    return finish([torch.stack(draws)], size).to(images.device)


def centred_gaussian(images: Tensor) -> Tensor:
    """A Gaussian in the middle of the image, whose standard deviation is a quarter of each side.

    Photographers put their object there; where a method is no better, the metric rewards the habit.

    Args:
        images: (N, C, H, W).

    Returns:
        (N, H, W) float32 in [0, 1], the same map for every image.

    Example:
        >>> centred_gaussian(images).shape
        torch.Size([2, 32, 32])
    """
    down, across = (_bell(side) for side in images.shape[2:])
    heat = normalise((down[:, None] * across)[None]).float()
    return heat.expand(len(images), -1, -1).to(images.device)


def edges(images: Tensor) -> Tensor:
    """How steep each image is: the magnitude of Sobel's gradient of its mean channel.

    Edges are where images are, for any network: a map that looks right may show them alone.

    Args:
        images: (N, C, H, W), normalised.

    Returns:
        (N, H, W) float32 in [0, 1]; zero for an image of one colour.

    Example:
        >>> edges(images).shape
        torch.Size([2, 32, 32])
    """
    grey = images.float().mean(1, keepdim=True)
    across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], device=images.device)
    kernels = torch.stack([across, across.T])[:, None]
    slopes = functional.conv2d(functional.pad(grey, (1, 1, 1, 1), mode="replicate"), kernels)
    return normalise(slopes.square().sum(1).sqrt())


def make_controls(grid: Sequence[int] | None = None, seed: int = 0) -> dict[str, Control]:
    """All controls by name, ready to be called with images.

    Args:
        grid: see :func:`random_maps`.
        seed: see :func:`random_maps`.
    """
    return {
        RANDOM: lambda images: random_maps(images, grid=grid, seed=seed),
        "Gaussian": centred_gaussian,
        "Edges": edges,
    }


CONTROLS = tuple(make_controls())
"""The controls' names."""


def _bell(side: int) -> Tensor:
    places = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    return torch.exp(-((places / (side / 4)) ** 2) / 2)
