"""Networks, images and maps that metrics are tested on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from camkit.metrics.perturbations import generator_of
from tests.helpers.networks import SmallCNN, seeded

TARGETS = [3, 1]


class Sharp(SmallCNN):
    """A network that is sure of some images."""

    def forward(self, images: Tensor) -> Tensor:
        return 6 * super().forward(images)


def network(seed: int = 0) -> nn.Module:
    model: nn.Module = seeded(Sharp(), seed).double()
    return model


def pictures(height: int = 14, width: int = 12, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def heats(height: int = 14, width: int = 12, batch: int = 2) -> Tensor:
    """Maps in [0, 1], half of it exact zeros, as rectified maps have them."""
    values = torch.rand(batch, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    return (2 * values - 1).clamp(min=0)


def chance(model: nn.Module, target: int) -> Callable[[Any], float]:
    """A class's probability, of an image as an array."""

    def of(image: Any) -> float:
        with torch.no_grad():
            return float(model(torch.as_tensor(image)[None]).softmax(1)[0, target])

    return of


def noise_of(image: Tensor, seed: int = 0) -> Tensor:
    """What ROAD draws for an image."""
    return torch.randn(image.shape, dtype=torch.float64, generator=generator_of(image, seed))
