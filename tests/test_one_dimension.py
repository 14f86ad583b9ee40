"""Signals (B, C, L): convolutions and transformers over time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import camkit
from camkit import CAM, METHODS, AugSmooth, EigenSmooth
from camkit.errors import UsageError
from tests.helpers.by_hand import gradcam, of_class
from tests.helpers.kinds import options
from tests.helpers.networks import SmallCNN, seeded
from tests.helpers.refusals import refusal

pytestmark = pytest.mark.filterwarnings("ignore::camkit.errors.EmptyMapWarning")


class Ecg(nn.Module):
    """Convolutions with strides and pools over time, pooled, then linear."""

    def __init__(self, channels: int = 2) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv1d(channels, 6, 7, 2, 3), nn.BatchNorm1d(6)
        self.pool = nn.MaxPool1d(2)
        self.conv2, self.norm2 = nn.Conv1d(6, 6, 5, 2, 2), nn.BatchNorm1d(6)
        self.relu = nn.ReLU()
        self.head = nn.Linear(6, 5)

    def forward(self, signals: Tensor) -> Tensor:
        features = self.pool(self.relu(self.norm1(self.conv1(signals))))
        features = self.relu(self.norm2(self.conv2(features)))
        logits: Tensor = self.head(features.mean(2))
        return logits


class OverTime(nn.Module):
    """Attention over steps of time, behind a class token or not."""

    def __init__(self, *, class_token: bool = False) -> None:
        super().__init__()
        self.patch = nn.Conv1d(2, 8, 8, 8)
        self.token = nn.Parameter(torch.zeros(1, int(class_token), 8))
        block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, signals: Tensor) -> Tensor:
        tokens = torch.cat([self.token.expand(len(signals), -1, -1), self.patch(signals).mT], 1)
        features = self.norm(self.encoder(tokens))
        logits: Tensor = self.head(features[:, 0] if self.token.shape[1] else features.mean(1))
        return logits


class InARow(nn.Module):
    """Takes signals as images of one row, or of one column."""

    def __init__(self, net: nn.Module, dimension: int) -> None:
        super().__init__()
        self.net, self.dimension = net, dimension

    def forward(self, images: Tensor) -> Any:
        return self.net(images.squeeze(self.dimension))


def signals(length: int = 256, channels: int = 2) -> Tensor:
    return torch.randn(2, channels, length, generator=torch.Generator().manual_seed(length))


@pytest.mark.parametrize("length", [256, 999, 187])
@pytest.mark.parametrize("layer", ["conv1", "norm1", "pool", "conv2", "norm2", "relu", None])
def test_maps_of_convolutions(layer: str | None, length: int) -> None:
    model = seeded(Ecg())
    found = CAM(model, "GradCAM", layer).explain(signals(length), 1)
    (name,) = found.layers
    assert name == (layer or "norm2")
    assert_close(found.raw[name][:, 0], gradcam(model, model.get_submodule(name), signals(length), of_class(1)))
    assert found.maps.shape == (2, 1, length)


def test_a_rule_serves_all_lengths() -> None:
    model = seeded(Ecg())
    cam = CAM(model)
    cam(signals(256))
    runs: list[int] = []
    model.head.register_forward_hook(lambda module, args, output: runs.append(1))
    for length in (300, 77, 512):
        assert cam(signals(length), 1).shape == (2, length)
    assert len(runs) == 3


def test_other_numbers_of_channels() -> None:
    model = seeded(Ecg(12))
    assert CAM(model)(signals(100, 12)).shape == (2, 100)


@pytest.mark.parametrize("method", [name for name in METHODS if METHODS[name].family != "attention"])
def test_every_method(method: str) -> None:
    model = seeded(Ecg())
    small = options(method, num_samples=2, top_k=3, num_concepts=2)
    found = CAM(model, method, **small).explain(signals(), 1)
    assert found.maps.shape[0] == 2
    assert found.maps.shape[2:] == (256,)
    assert found.maps.isfinite().all()
    # The same as of an image of one row, which two-dimensional layers would take.
    row = CAM(InARow(model, 2), method, **small).explain(signals()[:, :, None], 1)
    assert row.maps.shape[2:] == (1, 256)
    assert_close(row.maps[:, :, 0], found.maps, rtol=0, atol=1e-5)


@pytest.mark.parametrize("class_token", [False, True])
@pytest.mark.parametrize("method", ["GradCAM", "LayerCAM", "EigenCAM", "LeGrad", "AttentionRollout", "ScoreCAM"])
def test_transformers_over_time(method: str, class_token: bool) -> None:
    model = seeded(OverTime(class_token=class_token))
    small = options(method, top_k=2)
    found = CAM(model, method, **small).explain(signals(), 1)
    assert found.maps.shape == (2, 1, 256)
    if METHODS[method].of_layers:
        (name,) = found.layers
        assert found.raw[name].shape == (2, 1, 32)
        assert name == ("encoder.layers.0.norm2" if class_token else "norm")


@pytest.mark.parametrize("dimension", [2, 3])
def test_an_image_of_one_row_or_column(dimension: int) -> None:
    model = seeded(Ecg())
    images = signals().unsqueeze(dimension)
    found = CAM(InARow(model, dimension), "GradCAM", "net.norm2").explain(images, 1)
    expected = gradcam(model, model.norm2, signals(), of_class(1))
    assert_close(found.raw["net.norm2"][:, 0], expected.unsqueeze(dimension - 1))


def test_wrappers() -> None:
    model = seeded(Ecg())
    assert AugSmooth(EigenSmooth(CAM(model)))(signals(), 1).shape == (2, 256)


def test_one_image_without_its_batch_dimension_is_no_signal() -> None:
    message = refusal(CAM(seeded(SmallCNN())), UsageError, torch.zeros(3, 32, 32))
    assert message.endswith("the first convolution is a Conv2d: add the batch dimension, images[None]")


def test_curves() -> None:
    heat = CAM(seeded(Ecg()))(signals(), 1)[0]
    picture = camkit.curve(signals()[0], heat, size=(640, 240), sampling_rate=100)
    assert picture.shape == (240, 640, 3)
    assert picture.dtype == np.uint8
    cold, hot = (camkit.curve(signals()[0, 0], np.full(256, value)) for value in (0.0, 1.0))
    # jet begins in blue and ends in red
    assert cold[:, :, 2].astype(int).sum() > cold[:, :, 0].astype(int).sum()
    assert hot[:, :, 0].astype(int).sum() > hot[:, :, 2].astype(int).sum()
    for wrong in (np.zeros((1, 256)), np.zeros(255)):
        with pytest.raises(UsageError, match="its map"):
            camkit.curve(signals()[0], wrong)
    with pytest.raises(UsageError, match="no colour map 'jett'"):
        camkit.curve(signals()[0], heat, colormap="jett")
    explanation = CAM(seeded(Ecg())).explain(signals(), 1)
    with pytest.raises(UsageError, match=r"camkit.curve"):
        explanation.overlay(np.zeros((256, 1, 3), np.uint8))
