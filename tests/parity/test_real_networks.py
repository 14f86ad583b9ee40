"""camkit's finished maps of real networks are those of grad-cam and torchcam, to 1e-4."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import zoo
from tests.helpers.cases import agree, finished, positive, raw, same, uniform
from tests.helpers.zoo import TRAINED, ZOO
from tests.parity import reference

pytestmark = [pytest.mark.peers, pytest.mark.frameworks]
LAYOUT = reference.cloning()


@pytest.mark.parametrize("net", ["mobilenet_v3", TRAINED])
@pytest.mark.parametrize("method", ["HiResCAM", "GradCAMElementWise", "SegEigenCAM"])
def test_real_networks(net: str, method: str) -> None:
    images, targets = zoo.images(net, 2), ZOO[net].categories
    for layers in (ZOO[net].layers[:1], ZOO[net].pair):
        theirs = reference.reference_maps(zoo.network(net), images, method, layers, targets, layout=LAYOUT)
        same(finished(zoo.network(net), images, method, list(layers), targets), theirs)


@pytest.mark.parametrize("method", ["HiResCAM", "GradCAMElementWise"])
def test_resnet(method: str) -> None:
    net, layer = "resnet50", "backbone.layer3.5"
    images, targets = zoo.images(net, 1), ZOO[net].categories[:1]
    theirs = reference.reference_maps(zoo.network(net), images, method, [layer], targets, layout=LAYOUT)
    same(finished(zoo.network(net), images, method, layer, targets), theirs)


def test_fullgrad_of_a_real_network() -> None:
    net = "mobilenet_v3"
    images, targets = zoo.images(net, 1), ZOO[net].categories[:1]
    theirs = reference.reference_maps(zoo.network(net), images, "FullGrad", [], targets, layout=None)
    same(finished(zoo.network(net), images, "FullGrad", None, targets), theirs)


@pytest.mark.parametrize("net", ["mobilenet_v3", TRAINED])
def test_kpca_cam_of_real_networks(net: str) -> None:
    images, layer = zoo.images(net, 2), ZOO[net].layers[0]
    with reference.energy_sign():
        theirs = reference.reference_maps(zoo.network(net), images, "KPCA-CAM", [layer], None, layout=LAYOUT)
    same(finished(zoo.network(net), images, "KPCA-CAM", layer, None), theirs)


@pytest.mark.parametrize("net", ["mobilenet_v3", TRAINED])
def test_finer_cam_of_real_networks(net: str) -> None:
    images, layer, target = zoo.images(net, 2), ZOO[net].layers[0], ZOO[net].categories[0]
    theirs, _ = reference.reference_finer(
        zoo.network(net), images, [layer], target_idx=target, ranks=[1, 2, 3], layout=LAYOUT
    )
    options = {"gamma": 1.0, "weights": "probability"}
    same(finished(zoo.network(net), images, "FinerCAM", layer, target, **options), theirs)


@pytest.mark.parametrize("net", ["mobilenet_v3", TRAINED])
def test_finer_cam_of_torchcam_of_real_networks(net: str) -> None:
    images, layer, targets = zoo.images(net, 2), ZOO[net].layers[0], ZOO[net].categories
    theirs = reference.torchcam_finer(zoo.network(net), images, layer, targets, layout=LAYOUT)
    agree(theirs, raw(zoo.network(net), images, "FinerCAM", layer, targets), 1e-4)


@pytest.mark.parametrize("net", ["mobilenet_v3", TRAINED])
def test_random_cam_of_real_networks(net: str) -> None:
    images, layer, targets = zoo.images(net, 1), ZOO[net].layers[0], ZOO[net].categories[:1]
    channels = collected_channels(net, layer)
    with reference.random_weights(uniform(channels)[None]):
        theirs = reference.reference_maps(zoo.network(net), images, "RandomCAM", [layer], targets, layout=LAYOUT)
    same(finished(zoo.network(net), images, "RandomCAM", layer, targets), theirs)


def collected_channels(net: str, layer: str) -> int:
    kept: list[Tensor] = []
    hook = zoo.layer(net, layer).register_forward_hook(lambda module, args, output: kept.append(output))
    with hook, torch.no_grad():
        zoo.network(net)(zoo.images(net, 1))
    return kept[0].shape[1]


@pytest.mark.parametrize("utility", ["score", "ReST"])
def test_shapley_cam_of_a_real_network(utility: str) -> None:
    """MobileNetV3, whose Hardswish and squeeze-and-excitation have second derivatives."""
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputReST

    net, layer = "mobilenet_v3", "backbone.layer12"
    images, target = zoo.images(net, 1), ZOO[net].categories[0]
    theirs = reference.reference_maps(
        zoo.network(net),
        images,
        "ShapleyCAM",
        [layer],
        [target if utility == "score" else ClassifierOutputReST(target)],
        layout=None,
    )
    ours = finished(zoo.network(net), images, "ShapleyCAM", layer, [target], utility=utility)
    same(ours, theirs)
    assert (finished(zoo.network(net), images, "GradCAM", layer, [target]) - ours).abs().max() > 0.01


@pytest.mark.parametrize(("net", "layer"), [("mobilenet_v3", "backbone.layer1"), (TRAINED, "model.blocks.1")])
def test_score_cam_of_real_networks(net: str, layer: str) -> None:
    images, targets = zoo.images(net, 1), ZOO[net].categories[:1]
    with reference.half_pixel_upsampling():
        theirs = reference.reference_maps(zoo.network(net), images, "ScoreCAM", [layer], targets, layout=LAYOUT)
    same(finished(zoo.network(net), images, "ScoreCAM", layer, targets), theirs)


@pytest.mark.parametrize(
    ("net", "layer"), [("mobilenet_v3", "backbone.layer1.depthwise_conv.activate"), (TRAINED, "model.blocks.0.0.bn1")]
)
def test_ablation_cam_of_real_networks(net: str, layer: str) -> None:
    images = zoo.images(net, 1)
    targets = positive(zoo.network(net), images)
    theirs = reference.reference_maps(zoo.network(net), images, "AblationCAM", [layer], targets, layout=LAYOUT)
    same(finished(zoo.network(net), images, "AblationCAM", layer, targets), theirs)


@pytest.mark.parametrize("net", ["resnet50", TRAINED])
def test_cam_of_real_networks(net: str) -> None:
    """From the linear head's weights, by torchcam where it finds the head."""
    model, layer = zoo.network(net), {"resnet50": "backbone.layer4.2", TRAINED: "model.bn2"}[net]
    images, targets = zoo.images(net, 1), ZOO[net].categories[:1]
    (head,) = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    theirs = reference.torchcam_raw(model, images, "CAM", layer, targets, fc_layer=head, layout=LAYOUT)
    agree(theirs, raw(model, images, "CAM", layer, targets), 1e-4)
