"""Inputs that are no squares: real networks, two proportions, and the grid the right way round."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camkit import CAM
from camkit.engine.network import Network
from camkit.engine.record import record
from camkit.errors import LayerError
from camkit.layers.layout import Layout
from camkit.layers.layout_finder import LayoutFinder
from camkit.layers.names import backbone_modules, is_norm
from camkit.layers.token_grid import misfit
from tests.models.installed import installed

pytestmark = [pytest.mark.frameworks, pytest.mark.slow]


def mmpretrain(name: str, **backbone: Any) -> nn.Module:
    model: nn.Module = installed("mmpretrain").get_model(name, pretrained=False, backbone=backbone)
    return model


def timm(name: str, **options: Any) -> nn.Module:
    model: nn.Module = installed("timm").create_model(name, pretrained=False, **options)
    return model


def dinov2_with_registers() -> nn.Module:
    transformers = installed("transformers")
    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=48, num_hidden_layers=4, num_attention_heads=3, image_size=224, patch_size=14, num_labels=10
    )
    model: nn.Module = transformers.Dinov2WithRegistersForImageClassification(config)
    return model


NETWORKS = {
    "swin": lambda: mmpretrain("swin-tiny_16xb64_in1k", pad_small_map=True),
    "twins pcpvt": lambda: mmpretrain("twins-pcpvt-small_3rdparty_8xb128_in1k"),
    "pvt v2": lambda: timm("pvt_v2_b0"),
    "convnext": lambda: mmpretrain("convnext-tiny_32xb128_in1k"),
    "xcit": lambda: mmpretrain("xcit-nano-12-p16_3rdparty_in1k"),
    "dinov2 vit, timm": lambda: timm("vit_small_patch14_reg4_dinov2", dynamic_img_size=True, depth=4, num_classes=10),
    "dinov2 vit, transformers": dinov2_with_registers,
}
REACH = {"convnext": 2}  # cells that a change can be carried: its kernels are 7 wide, and the last grid is 3 high
# Multiples of every stride here, and (below) of none.
SIZES = [(112, 224), (336, 224)]
ODD = (120, 230)
# timm's ViT takes multiples of its patch size only.
CASES = [(name, size) for name in NETWORKS for size in (*SIZES, ODD) if (name, size) != ("dinov2 vit, timm", ODD)]


@cache
def network(name: str) -> nn.Module:
    """With random weights, and no branch or position that starts at zero."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = NETWORKS[name]()
        for parameter_name, parameter in model.named_parameters():
            leaf = parameter_name.rpartition(".")[2]
            if leaf.startswith(("gamma", "lambda", "layer_scale")):
                nn.init.uniform_(parameter, 0.3, 1)
            elif "token" in leaf or "pos" in leaf or parameter_name.endswith(("head.weight", "fc.weight")):
                nn.init.normal_(parameter, std=0.1)
    return model.eval()


def laid_out(model: nn.Module, images: Tensor) -> dict[str, tuple[Layout, Tensor]]:
    """Every norm layer of the backbone that has places: its layout and its activations."""
    norms = {name: module for name, module in backbone_modules(model).items() if is_norm(module)}
    found = {}
    with record(Network(model), images, norms) as forward:
        finder = LayoutFinder(forward)
        for name, output in forward.outputs.items():
            try:
                layouts = finder.of(name)
            except LayerError as error:  # behind the pooling, or of XCiT's class token alone
                assert "has a single position" in str(error)  # noqa: PT017
                continue
            for branch, layout in layouts.items():
                found[branch] = layout, layout(output).detach()
    return found


@pytest.mark.parametrize(("name", "size"), CASES, ids=[f"{name} {size[0]}x{size[1]}" for name, size in CASES])
def test_places_lie_where_they_lie_in_the_image(name: str, size: tuple[int, int]) -> None:
    """What changes in one corner of the image changes the activations there most, in every norm layer."""
    model = network(name)
    plain = 0.1 * torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    before = laid_out(model, plain)
    assert len(before) >= 8
    side = 32
    for top, left in ((0, 0), (0, size[1] - side), (size[0] - side, 0), (size[0] - side, size[1] - side)):
        changed = plain.clone()
        changed[:, :, top : top + side, left : left + side] *= 40
        for layer, (layout, after) in laid_out(model, changed).items():
            assert misfit(layout.grid, size) < 2, layer
            difference = (after - before[layer][1]).abs().sum(1)[0]
            row, column = divmod(int(difference.argmax()), layout.grid[1])
            # The centre of the hottest cell, in pixels: within the corner, give or take what a kernel reaches.
            for place, cells, length, start in (
                (row, layout.grid[0], size[0], top),
                (column, layout.grid[1], size[1], left),
            ):
                cell = length / cells
                slack = REACH.get(name, 1) * cell
                assert start - slack <= (place + 0.5) * cell <= start + side + slack, (layer, layout.grid, row, column)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", NETWORKS)
def test_maps_come_without_flags(name: str, size: tuple[int, int]) -> None:
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2))
    for method in ("GradCAM", "EigenCAM"):
        result = CAM(network(name), method).explain(images)
        (raw,) = result.raw.values()
        assert result.maps.shape == (2, 1, *size)
        assert misfit(raw.shape[2:], size) < 2
        assert (raw.flatten(2).std(2) > 1e-6 * raw.abs().amax()).all()
