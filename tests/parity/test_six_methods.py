"""camkit's maps are grad-cam 1.5.7's, to 1e-4, over networks, layers, methods, smoothing and batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import camkit
from tests.helpers import zoo
from tests.helpers.kinds import SIX as METHODS
from tests.helpers.zoo import TRAINED, ZOO
from tests.parity import reference
from tests.parity.reference import FloatArray

pytestmark = [pytest.mark.peers, pytest.mark.frameworks]

# eigen_smooth, aug_smooth
SMOOTHING = {"plain": (False, False), "eigen": (True, False), "aug": (False, True), "both": (True, True)}

# Every method meets every other axis on one cheap network of each kind; the others see what they may do differently.
CHEAP = ("mobilenet_v3", "deit_s")
# At 384 pixels one pass costs what eight cost elsewhere: one image, plain.
COSTLY = "vit_b_384"


def camkit_maps(
    net: str, images: Tensor, method: str, layers: Sequence[str] | None, targets: Sequence[int] | None, smoothing: str
) -> Tensor:
    """The same question put to camkit."""
    eigen, aug = SMOOTHING[smoothing]
    cam = camkit.CAM(zoo.network(net), method=method, target_layers=layers)
    if eigen:
        cam = camkit.EigenSmooth(cam)
    if aug:
        cam = camkit.AugSmooth(cam)
    return cam(images, targets=targets)


def reference_maps(
    net: str, images: Tensor, method: str, layers: Sequence[str], targets: Sequence[int] | None, smoothing: str
) -> FloatArray:
    """The reference's maps with the sign defined, none of them flat: agreeing on nothing would prove nothing."""
    eigen, aug = SMOOTHING[smoothing]
    layout = reference.cloning(ZOO[net].extra_tokens)
    with reference.energy_sign():
        maps = reference.reference_maps(
            zoo.network(net), images, method, layers, targets, layout=layout, eigen_smooth=eigen, aug_smooth=aug
        )
    assert (maps.std(axis=(1, 2)) > 0.01).all(), f"flat reference maps: {maps.std(axis=(1, 2))}"
    return maps


def check(net: str, method: str, layers: Sequence[str], *, batch: int, smoothing: str = "plain") -> None:
    """Both packages, a given category per image."""
    images, targets = zoo.images(net, batch), ZOO[net].categories[:batch]
    ours = camkit_maps(net, images, method, layers, targets, smoothing)
    theirs = reference_maps(net, images, method, layers, targets, smoothing)
    torch.testing.assert_close(ours, torch.from_numpy(theirs), atol=1e-4, rtol=0)


@pytest.mark.parametrize("net", ZOO)
def test_the_zoo_is_alive(net: str) -> None:
    """Logits tell images apart; gradients at the target layers are neither gone nor the same everywhere."""
    spec, images = ZOO[net], zoo.images(net, 2)
    with torch.no_grad():
        logits = zoo.network(net)(images)
    assert logits.shape == (2, 1000)
    assert 0.3 < logits.std() < 30
    assert (logits[0] - logits[1]).abs().mean() > 0.05
    # One layer before the last, where a global pooling hasn't made the gradient constant.
    layer = spec.pair[0]
    with reference.running(zoo.network(net), "GradCAM", [layer], reference.cloning(spec.extra_tokens)) as cam:
        cam(images, None)
        gradient = cam.activations_and_grads.gradients[0]
    assert gradient.abs().median() > 1e-7
    assert gradient.abs().max() < 10
    assert (gradient.std((2, 3)) > 0.1 * gradient.abs().mean((2, 3))).float().mean() > 0.9


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("net", "layer"), [(net, layer) for net, spec in ZOO.items() for layer in spec.layers])
def test_documented_layers(net: str, layer: str, method: str) -> None:
    check(net, method, [layer], batch=1 if net == COSTLY else 2)


@pytest.mark.parametrize(
    ("net", "method"),
    # ResNet-50's default is the layer that in-place operations behind it overwrite.
    [(net, method) for net in ("resnet50", *CHEAP) for method in METHODS]
    + [(net, "GradCAM") for net in ("swin_t", "t2t_vit_14", "deit_s_distilled", TRAINED)],
)
def test_default_layer_and_own_class(net: str, method: str) -> None:
    images = zoo.images(net, 1)
    ours = camkit_maps(net, images, method, None, None, "plain")
    theirs = reference_maps(net, images, method, [ZOO[net].default_layer], None, "plain")
    torch.testing.assert_close(ours, torch.from_numpy(theirs), atol=1e-4, rtol=0)


def test_default_layer_at_384() -> None:
    images = zoo.images(COSTLY, 1)
    cam = camkit.CAM(zoo.network(COSTLY))
    assert list(cam.target_layers(images)) == [ZOO[COSTLY].default_layer]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("net", [net for net in ZOO if net != COSTLY])
def test_two_layers(net: str, method: str) -> None:
    check(net, method, ZOO[net].pair, batch=1)


@pytest.mark.parametrize("smoothing", [smoothing for smoothing in SMOOTHING if smoothing != "plain"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("net", CHEAP)
def test_smoothing(net: str, method: str, smoothing: str) -> None:
    check(net, method, ZOO[net].layers[:1], batch=1, smoothing=smoothing)


@pytest.mark.parametrize("smoothing", ["eigen", "both"])
@pytest.mark.parametrize("net", ["resnet50", "swin_t", "t2t_vit_14", TRAINED])
def test_smoothing_elsewhere(net: str, smoothing: str) -> None:
    check(net, "GradCAM", ZOO[net].layers[:1], batch=1, smoothing=smoothing)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("net", CHEAP)
def test_several_categories_from_one_forward(net: str, method: str) -> None:
    images, layers, categories = zoo.images(net, 1), ZOO[net].layers[:1], (281, 282, 285)
    ours = camkit.CAM(zoo.network(net), method, layers)(images, targets=[list(categories)])
    theirs = [reference_maps(net, images, method, layers, [category], "plain") for category in categories]
    torch.testing.assert_close(ours, torch.from_numpy(np.stack(theirs, 1)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("net", CHEAP)
def test_own_class_is_decided_before_augmentation(net: str) -> None:
    images, layers = zoo.images(net, 1), ZOO[net].layers[:1]
    with torch.no_grad():
        top = zoo.network(net)(images).argmax(1).tolist()
    ours = camkit_maps(net, images, "LayerCAM", layers, None, "aug")
    theirs = reference_maps(net, images, "LayerCAM", layers, top, "aug")
    torch.testing.assert_close(ours, torch.from_numpy(theirs), atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("net", [*CHEAP, TRAINED])
def test_unpatched_projection_up_to_sign(net: str, method: str) -> None:
    """The reference as it is installed, LAPACK's sign and all, before anything is rectified."""
    images, layer, targets = zoo.images(net, 2), ZOO[net].layers[0], ZOO[net].categories
    theirs = torch.from_numpy(
        reference.reference_raw(
            zoo.network(net),
            images,
            method,
            layer,
            targets,
            layout=reference.cloning(ZOO[net].extra_tokens),
            eigen_smooth=True,
        )
    )
    ours = camkit.EigenSmooth(camkit.CAM(zoo.network(net), method, layer)).explain(images, targets).raw[layer][:, 0]
    for mine, other in zip(ours, theirs, strict=True):
        scale = other.abs().max()
        assert scale > 0
        sign = torch.sign((mine * other).sum())
        torch.testing.assert_close(mine / scale, sign * other / scale, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("net", "layer"),
    [
        ("resnet50", "backbone.layer4.2"),
        ("resnet50", "backbone.layer4.2.conv1"),
        ("resnet50", "backbone.layer3.5.conv2"),
        ("mobilenet_v3", "backbone.layer16"),
        ("mobilenet_v3", "backbone.layer12.expand_conv.conv"),
        (TRAINED, "model.blocks.6"),
    ],
)
def test_captum_layer_gradcam(net: str, layer: str) -> None:
    """Signed and unscaled, at layers whose output nothing behind them writes to."""
    from captum.attr import LayerGradCam

    model: nn.Module = zoo.network(net)
    images, targets = zoo.images(net, 2), ZOO[net].categories
    theirs = LayerGradCam(model, zoo.layer(net, layer)).attribute(images, list(targets), relu_attributions=False)
    theirs = theirs.detach()[:, 0]
    ours = camkit.CAM(model, "GradCAM", layer).explain(images, targets).raw[layer][:, 0]
    scale = theirs.abs().max()
    assert theirs.std() > 0.05 * scale
    torch.testing.assert_close(ours / scale, theirs / scale, atol=1e-5, rtol=0)
