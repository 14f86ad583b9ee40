"""What scores depend on is found by running the network, and nothing of the network is changed."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from camkit.models.architecture import foreign_tensors
from camkit.models.dependence import depended_on


class Net(nn.Module):
    """A network with all that may be missing without harm, and with all that may not."""

    index: Tensor
    drawn: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.register_buffer("index", torch.tensor([3, 2, 1, 0]))
        self.register_buffer("window", torch.linspace(0.5, 1, 4)[:, None, None])
        self.register_buffer("drawn", torch.randn(4, 1, 1))
        self.unused = nn.Linear(4, 2)
        self.auxiliary = nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
        self.head = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        features = self.norm(self.conv(images))[:, self.index] * self.window * self.drawn
        if self.training:
            return self.head(features.mean((2, 3))), self.auxiliary(features)
        scores: Tensor = self.head(features.mean((2, 3)))
        return scores


def asked(*names: str) -> list[str] | None:
    return depended_on(Net(), names, Net)


def test_parameters() -> None:
    assert asked("head.weight", "unused.weight", "conv.bias", "no such name") == ["head.weight", "conv.bias"]
    assert asked("unused.weight", "unused.bias", "auxiliary.1.weight") == []


def test_buffers_that_training_fills() -> None:
    assert asked("norm.running_mean", "auxiliary.0.running_mean") == ["norm.running_mean"]
    assert asked("auxiliary.0.running_var") == []


def test_buffers_that_are_computed_need_no_file_and_those_that_are_drawn_do() -> None:
    assert asked("index", "window", "norm.num_batches_tracked") == []
    assert asked("drawn") == ["drawn"]


def test_the_network_is_as_before() -> None:
    net = Net()
    before, drawn = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    assert depended_on(net, ["head.weight", "norm.running_var"]) == ["head.weight"]
    assert net.training
    assert net.auxiliary.training
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())
    assert torch.equal(torch.get_rng_state(), drawn)


def test_a_network_that_takes_no_image() -> None:
    assert depended_on(nn.Bilinear(2, 3, 4), ["weight"]) is None


def test_channels_and_size_are_the_networks_own() -> None:
    class Fixed(nn.Module):
        img_size = (40, 24)

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(5, 2, (40, 24))

        def forward(self, images: Tensor) -> Tensor:
            assert images.shape[1:] == (5, 40, 24)
            scores: Tensor = self.conv(images).flatten(1)
            return scores

    assert depended_on(Fixed(), ["conv.weight"]) == ["conv.weight"]


OWN = ["stem.weight", "layer1.0.conv1.weight", "layer1.1.conv1.weight", "blocks.0.fc.weight", "blocks.1.fc.weight", "fc.weight"]  # fmt: skip  # noqa: E501


def foreign(*names: str) -> list[str]:
    return list(foreign_tensors(OWN, dict.fromkeys(names, torch.ones(3))))


def test_blocks_of_another_architecture() -> None:
    assert foreign("layer1.2.conv1.weight", "blocks.2.fc.weight", "layer2.0.conv1.weight", "layer1.0.conv2.weight") == [
        "layer1.2.conv1.weight", "blocks.2.fc.weight", "layer2.0.conv1.weight", "layer1.0.conv2.weight",
    ]  # fmt: skip
    assert foreign("layer1.0.se.fc1.weight", "blocks.0.scale") == ["layer1.0.se.fc1.weight", "blocks.0.scale"]


def test_extras_beside_the_network() -> None:
    assert foreign(
        "head_dist.weight", "aux.0.weight", "teacher.layer1.2.conv1.weight", "ema.blocks.5.fc.weight", "proj.0.weight",
        "ema_layer1_0_conv1_weight", "optimizer.0.weight", "blocks.0.attn.relative_position_index", "norm_pre.weight",
    ) == []  # fmt: skip
    counted = {"layer1.0.total_ops": torch.ones(1, dtype=torch.float64), "blocks.0.steps": torch.tensor(3)}
    assert foreign_tensors(OWN, counted) == {}
