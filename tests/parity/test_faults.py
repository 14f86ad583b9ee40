"""Where grad-cam 1.5.7 and MMPretrain's vis_cam.py are wrong: what they do, beside what camkit does."""

from __future__ import annotations

import sys
from functools import cache
from importlib import util
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

import camkit
from camkit.layers.layout import plan
from camkit.layers.token_grid import Hints
from tests.helpers import zoo
from tests.helpers.zoo import TRAINED
from tests.parity import reference

pytestmark = [pytest.mark.peers, pytest.mark.frameworks]
MIDDLE_TO_LAST = [f"model.blocks.{stage}" for stage in range(1, 7)]


@pytest.mark.parametrize("method", ["GradCAM", "EigenCAM"])
def test_aliased_activations(method: str) -> None:
    """On a CPU grad-cam keeps the very tensor that ResNet's residual addition and ReLU then overwrite.

    That camkit agrees with the clone, tests.parity.test_six_methods has of all six.
    """
    net, layers, targets = "resnet50", ["backbone.layer4.2.bn3"], [281]
    model, images = zoo.network(net), zoo.images(net, 1)
    with reference.energy_sign():
        aliased = reference.reference_maps(model, images, method, layers, targets, layout=None)
        cloned = reference.reference_maps(model, images, method, layers, targets, layout=reference.cloning())
    ours = camkit.CAM(model, method, layers)(images, targets)
    assert abs(aliased - cloned).max() > 0.1
    torch.testing.assert_close(ours, torch.from_numpy(cloned), atol=1e-4, rtol=0)


def test_inverted_eigencam() -> None:
    """LAPACK's sign makes some of grad-cam's maps hot just where the layer has the least energy."""
    model, images = zoo.network(TRAINED), zoo.images(TRAINED, 2)
    inverted = 0
    for layer in MIDDLE_TO_LAST:
        theirs = torch.from_numpy(
            reference.reference_raw(model, images, "EigenCAM", layer, None, layout=reference.cloning())
        )
        ours = camkit.CAM(model, "EigenCAM", layer).explain(images).raw[layer][:, 0]
        for mine, other, energy in zip(ours, theirs, layer_energy(layer), strict=True):
            ours_follows, theirs_follows = correlation(mine, energy), correlation(other, energy)
            assert ours_follows >= 0
            # Two answers that differ by nothing but the sign.
            assert abs(ours_follows) == pytest.approx(abs(theirs_follows), abs=1e-3)
            if theirs_follows < -0.3:
                inverted += 1
                assert energy[mine > 0].mean() > energy.mean() > energy[other > 0].mean()
    assert inverted, "LAPACK happened to choose well everywhere"


def layer_energy(layer: str) -> Tensor:
    """Squared L2 norm of every position's channel vector, both photographs."""
    kept: list[Tensor] = []
    handle = zoo.layer(TRAINED, layer).register_forward_hook(lambda module, args, output: kept.append(output.clone()))
    with handle, torch.no_grad():
        zoo.network(TRAINED)(zoo.images(TRAINED, 2))
    return kept[0].square().sum(1)


def correlation(first: Tensor, second: Tensor) -> float:
    """Pearson's, over all positions."""
    return float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])


def test_targets_zipped_short() -> None:
    """Two categories for one image: grad-cam explains the first and says nothing."""
    model, images, layers = zoo.network(TRAINED), zoo.images(TRAINED, 1), ["model.blocks.6"]
    layout = reference.cloning()
    both = reference.reference_maps(model, images, "GradCAM", layers, [282, 967], layout=layout)
    first = reference.reference_maps(model, images, "GradCAM", layers, [282], layout=layout)
    assert both.shape == first.shape == (1, 224, 224)
    torch.testing.assert_close(torch.from_numpy(both), torch.from_numpy(first))
    cam = camkit.CAM(model, "GradCAM", layers)
    with pytest.raises(camkit.UsageError, match=r"2 targets for 1 image.*\[\[282, 967\]\]"):
        cam(images, targets=[282, 967])
    assert cam(images, targets=[[282, 967]]).shape == (1, 2, 224, 224)


def test_targets_missing() -> None:
    """One category for two images: grad-cam hands back an empty map for the second and says nothing."""
    model, images, layers = zoo.network(TRAINED), zoo.images(TRAINED, 2), ["model.blocks.6"]
    maps = reference.reference_maps(model, images, "GradCAM", layers, [282], layout=reference.cloning())
    assert maps[0].max() > 0.9
    assert maps[1].max() == 0
    with pytest.raises(camkit.UsageError, match=r"1 targets? for 2 images"):
        camkit.CAM(model, "GradCAM", layers)(images, targets=[282])


def test_state_left_behind() -> None:
    """grad-cam switches the model to evaluation for good and leaves a gradient on every parameter."""
    from pytorch_grad_cam import GradCAM

    model, images = zoo.network(TRAINED), zoo.images(TRAINED, 1)
    try:
        model.train()
        camkit.CAM(model, "GradCAM", "model.blocks.6")(images)
        assert all(module.training for module in model.modules())
        assert all(parameter.grad is None for parameter in model.parameters())
        with GradCAM(model, [zoo.layer(TRAINED, "model.blocks.6")]) as cam:
            cam(images, None)
        assert not model.training
        assert all(parameter.grad is not None for parameter in model.parameters())
    finally:
        model.eval().zero_grad()


@cache
def vis_cam() -> ModuleType:
    """MMPretrain's script as it ships, with a stand-in for the ``pkg_resources`` that it can't start without."""
    specification = util.find_spec("mmpretrain")
    assert specification is not None
    assert specification.origin is not None
    script = Path(specification.origin).parent / ".mim/tools/visualization/vis_cam.py"
    script_specification = util.spec_from_file_location("vis_cam", script)
    assert script_specification is not None
    assert script_specification.loader is not None
    module = util.module_from_spec(script_specification)
    with patch.dict(sys.modules, pkg_resources=ModuleType("pkg_resources")):
        script_specification.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore:Exception ignored in.*BaseCAM.__del__")  # it trips over its own half-built self
def test_vis_cam_fits_no_current_grad_cam() -> None:
    with pytest.raises(TypeError, match="use_cuda"):
        vis_cam().init_cam("gradcam", nn.Identity(), [], use_cuda=False, reshape_transform=None)


@pytest.mark.parametrize(
    ("tokens", "size", "num_extra_tokens", "grid"),
    [
        pytest.param(196, (224, 224), 0, (14, 14), id="num-extra-tokens 0 is ignored"),
        pytest.param(99, (112, 224), 1, (7, 14), id="grid that isn't square"),
    ],
)
def test_vis_cam_token_grids(tokens: int, size: tuple[int, int], num_extra_tokens: int, grid: tuple[int, int]) -> None:
    """Both know from the network that it has one extra token; the user says how many this layer has."""
    output, images = torch.randn(1, tokens, 8), torch.zeros(1, 3, *size)
    model = SimpleNamespace(backbone=SimpleNamespace(num_extra_tokens=1))
    args = SimpleNamespace(vit_like=True, num_extra_tokens=num_extra_tokens)
    with pytest.raises(AssertionError, match="not a perfect square"):
        vis_cam().reshape_transform(output, model, args)
    layout = plan("ln1", nn.Identity(), output, images, Hints(given=num_extra_tokens, declared=1))["ln1"]
    expected = output[:, num_extra_tokens:].reshape(1, *grid, 8).permute(0, 3, 1, 2)
    torch.testing.assert_close(layout(output), expected)
