"""When the model fails on the images, or a layer can't be used: what is said."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from camkit import CAM, ForwardError
from camkit.errors import LayerError
from tests.networks import SmallCNN, SmallViT, seeded

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class TestTheLayerThatFailed:
    @pytest.mark.parametrize("layers", [None, "norm2"], ids=["default layer", "layer given"])
    def test_wrong_channels(self, layers: str | None) -> None:
        message = r"fails on images \((2|1), 1, 16, 16\) in layer 'conv1' \(Conv2d\): .*input.*to have 3 channels"
        with pytest.raises(ForwardError, match=message) as error:
            CAM(seeded(SmallCNN()), target_layers=layers)(IMAGES[:, :1])
        assert isinstance(error.value.__cause__, RuntimeError)

    def test_wrong_size(self) -> None:
        with pytest.raises(ForwardError, match=r"fails on images \(2, 3, 8, 16\)"):
            CAM(seeded(SmallViT()), target_layers="layers.1.ln1")(IMAGES[:, :, :8])

    def test_too_small(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 5)), nn.Flatten())
        with pytest.raises(ForwardError, match=r"in layer '1.1' \(Conv2d\): Calculated padded input size"):
            CAM(seeded(model), target_layers="1.0")(IMAGES[:, :, :4, :4])

    def test_is_the_innermost_that_was_running(self) -> None:
        class Checks(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                assert x.shape[-1] == 7, "Input width (8) doesn't match model (7)."
                return x

        model = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ModuleDict({"check": Checks()})["check"], nn.Flatten())
        with pytest.raises(ForwardError, match=r"in layer '1' \(Checks\): Input width \(8\) doesn't match.*7\)$"):
            CAM(model, target_layers="0")(IMAGES)

    def test_a_failure_outside_all_layers_names_none(self) -> None:
        class Fails(SmallCNN):
            def forward(self, images: Tensor) -> Tensor:
                raise KeyError("mask")

        with pytest.raises(ForwardError, match=re.escape("the model fails on images (2, 3, 16, 16): mask")):
            CAM(seeded(Fails()), target_layers="conv1")(IMAGES)

    def test_lack_of_memory_stays_what_it_is(self) -> None:
        class Hungry(SmallCNN):
            def forward(self, images: Tensor) -> Tensor:
                raise torch.OutOfMemoryError("CUDA out of memory")

        with pytest.raises(torch.OutOfMemoryError):
            CAM(seeded(Hungry()), target_layers="conv1")(IMAGES)


class Windowed(nn.Module):
    """Attention within 2 x 2 windows: they go into the batch and come out of it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 2, 2)
        self.norm = nn.BatchNorm2d(8)
        self.attention = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm(self.stem(images)).permute(0, 2, 3, 1)
        windows = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, 8)
        logits: Tensor = self.head(self.attention(windows).reshape(len(images), -1, 8).mean(1))
        return logits


class TestWindows:
    def test_are_refused_with_the_layers_that_can_be_used(self) -> None:
        message = r"'attention' gives \(32, 4, 8\) for a batch of 2.*window partitions.*; live norm layers: 'norm'; "
        with pytest.raises(LayerError, match=message):
            CAM(seeded(Windowed()), target_layers="attention")(IMAGES)

    def test_are_passed_over_by_default(self) -> None:
        assert list(CAM(seeded(Windowed())).target_layers(IMAGES)) == ["norm"]


def test_other_unusable_layers_too_are_refused_with_those_that_can_be_used() -> None:
    with pytest.raises(LayerError, match=r"'head' gives \(2, 5\), which .*; live norm layers: 'norm1', 'norm2';"):
        CAM(seeded(SmallCNN()), target_layers="head")(IMAGES)
