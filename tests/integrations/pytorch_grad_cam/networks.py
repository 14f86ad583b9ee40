"""What the tests of grad-cam's names share: networks with their layers and layouts, images, and the classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from camkit.integrations.pytorch_grad_cam import BaseCAM
from camkit.integrations.pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from camkit.integrations.pytorch_grad_cam.utils.reshape_transforms import vit_reshape_transform
from tests.helpers.networks import SmallCNN, SmallViT, seeded

SIZES = [(16, 16), (16, 24)]
CLASSES: dict[str, type[BaseCAM]] = {each.__name__: each for each in BaseCAM.__subclasses__() if each.camkit_method}
"""Every class whose maps are a method's of camkit; tests define others."""
Layout = Callable[[Tensor], Tensor] | None


def images(size: tuple[int, int] = (16, 16), batch: int = 2, channels: int = 3) -> Tensor:
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(0))


def cnn(size: tuple[int, int] = (16, 16)) -> tuple[nn.Module, list[nn.Module], Layout]:
    """A network, its target layers, and a layout that grad-cam needs none of, but for copying."""
    model = seeded(SmallCNN())
    return model, [model.conv2, model.norm1], lambda output: output.clone()


def vit(size: tuple[int, int] = (16, 16)) -> tuple[nn.Module, list[nn.Module], Layout]:
    """The same for tokens."""
    model = seeded(SmallViT(size), 3)
    height, width = (side // 4 for side in size)
    return model, [model.layers[1].ln1], lambda output: vit_reshape_transform(output, height, width).clone()


NETWORKS = {"cnn": cnn, "vit": vit}


def categories(*indices: int) -> list[Any]:
    return [ClassifierOutputTarget(index) for index in indices]


class OneByOne(nn.Module):
    """Its last layer has a single position for images of 8 x 8, several for larger ones."""

    def __init__(self) -> None:
        super().__init__()
        self.early = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.late = nn.Conv2d(4, 5, 4, stride=4)
        self.head = nn.Linear(5, 5)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.late(self.early(images).relu()).relu().mean((2, 3)))
        return logits
