"""Methods that are another method under some condition, and what adds up: on whole networks, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import camkit
from camkit import CAM, METHODS
from camkit.methods import Maps
from camkit.methods.maps import resize
from camkit.methods.needs import CurvatureNeed
from tests.helpers.cases import (
    LAYER,
    SMALL_TARGETS,
    TARGETS,
    Swapped,
    pictures,
    plain,
    scores,
    smooth,
    strided,
)
from tests.helpers.networks import PlainCNN, SmallCNN, SmallViT, seeded


def raw(model: nn.Module, images: Tensor, method: Any, layer: Any, targets: Any, **options: Any) -> Tensor:
    made = CAM(model, method, layer, **options).explain(images, targets).raw
    return torch.stack(list(made.values()))[:, :, 0]


# Of a pooled layer with a linear head.


def test_cam_is_gradcam_times_the_number_of_places() -> None:
    model, images = plain(), pictures(8, 7)
    ours = raw(model, images, "CAM", "relu2", SMALL_TARGETS)
    assert_close(ours, 56 * raw(model, images, "GradCAM", "relu2", SMALL_TARGETS))
    assert ours.std() > 0


def test_cam_is_hirescam_times_the_number_of_places() -> None:
    """HiResCAM adds up to the score; CAM's mean does."""
    model, images = plain(), pictures(8, 7)
    ours = raw(model, images, "CAM", "relu2", SMALL_TARGETS)
    whole = raw(model, images, "HiResCAM", "relu2", SMALL_TARGETS)
    assert_close(ours, 56 * whole)
    found = scores(model, images)[range(2), SMALL_TARGETS]
    assert_close(whole[0].sum((1, 2)), found)
    assert_close(ours[0].mean((1, 2)), found)


def test_finished_maps_of_cam_gradcam_hirescam_and_xgradcam_are_one() -> None:
    """The last up to its epsilon."""
    model, images = plain(), pictures(8, 7)
    first, *others = (
        CAM(model, each, "relu2")(images, SMALL_TARGETS) for each in ("CAM", "GradCAM", "HiResCAM", "XGradCAM")
    )
    for other in others:
        assert_close(other, first, rtol=0, atol=1e-4)


@pytest.mark.parametrize("layer", ["relu2", "conv2"])
def test_cam_is_refused_where_the_head_is_more(layer: str) -> None:
    model, images = (plain(), pictures(8, 7)) if layer == "conv2" else (SquaredHead().double().eval(), pictures(8, 7))
    with pytest.raises(camkit.LayerError, match="CAM needs a head of pooling and one linear layer"):
        CAM(model, "CAM", layer)(images)


class SquaredHead(PlainCNN):
    """Pools squares: linear in nothing that the layer returns."""

    def forward(self, images: Tensor) -> Tensor:
        features = self.relu2(self.conv2(self.relu1(self.conv1(images))))
        logits: Tensor = self.head(features.square().flatten(2).mean(2))
        return logits


def test_ablationcam_is_each_channels_share_of_the_score() -> None:
    """Behind a linear head without a bias shares add up to one, with the score's sign."""
    model, images = plain(), pictures(8, 7)
    kept: list[Tensor] = []
    with model.relu2.register_forward_hook(lambda module, args, output: kept.append(output)):
        logits = scores(model, images)
    found = logits[range(2), SMALL_TARGETS]
    contributions = model.head.weight[SMALL_TARGETS].detach() * kept[0].detach().mean((2, 3))
    assert_close(contributions.sum(1), found)
    expected = ((contributions / found.abs()[:, None])[:, :, None, None] * kept[0].detach()).sum(1)
    assert_close(raw(model, images, "AblationCAM", "relu2", SMALL_TARGETS)[0], expected)


# Neutral settings.


@pytest.mark.parametrize("layer", ["conv1", LAYER])
def test_smooth_gradcampp_without_noise_is_gradcampp(layer: str) -> None:
    model, images = strided(), pictures()
    plusplus = raw(model, images, "GradCAM++", layer, TARGETS)
    for samples in (1, 3):
        options = {"std": 0.0, "num_samples": samples}
        assert_close(raw(model, images, "SmoothGradCAM++", layer, TARGETS, **options), plusplus)
    assert not torch.allclose(raw(model, images, "SmoothGradCAM++", layer, TARGETS), plusplus)


@pytest.mark.parametrize("comparison", [(1,), (1, 2, 3)])
def test_finercam_of_nothing_taken_off_is_gradcam(comparison: tuple[int, ...]) -> None:
    model, images = strided(), pictures()
    options = {"gamma": 0.0, "comparison": comparison}
    assert_close(
        raw(model, images, "FinerCAM", LAYER, TARGETS, **options), raw(model, images, "GradCAM", LAYER, TARGETS)
    )


def test_finercam_is_the_mean_of_differences_of_gradcam() -> None:
    """Grad-CAM is linear in the gradient: map of c less gamma times the mean map of the classes closest to c."""
    model, images = strided(), pictures()
    logits = scores(model, images)
    every = torch.stack([raw(model, images, "GradCAM", LAYER, each)[0] for each in range(5)], 1)
    for image, target in enumerate(TARGETS):
        near = sorted(set(range(5)) - {target}, key=lambda each: abs(logits[image, each] - logits[image, target]))
        expected = every[image, target] - 0.6 * every[image, near[:3]].mean(0)
        assert_close(raw(model, images, "FinerCAM", LAYER, TARGETS)[0, image], expected)


def test_kpca_cam_with_a_linear_kernel_is_eigencam() -> None:
    model, images = strided(), pictures()
    ours = raw(model, images, "KPCA-CAM", LAYER, TARGETS, kernel="linear")
    assert_close(ours, raw(model, images, "EigenCAM", LAYER, TARGETS))


def test_guided_gradcam_is_the_product_of_its_parts() -> None:
    model, images = strided(), pictures()
    guided = CAM(model, "GuidedBackprop").explain(images, TARGETS).pixels
    found = CAM(model, "GuidedGradCAM", LAYER).explain(images, TARGETS).pixels
    assert guided is not None
    assert found is not None
    large = resize(raw(model, images, "GradCAM", LAYER, TARGETS)[0].relu(), (20, 16))
    assert_close(found[:, 0], guided[:, 0] * large[:, None])


def test_guided_backpropagation_is_the_gradient_where_nothing_speaks_against_the_class() -> None:
    """All weights positive behind the first convolution: no ReLU sees a negative gradient."""
    model, images = plain(), pictures(8, 7)
    model.conv2.weight.data.abs_()
    model.head.weight.data.abs_()
    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf)[range(2), SMALL_TARGETS].sum(), leaf)
    found = CAM(model, "GuidedBackprop").explain(images, SMALL_TARGETS).pixels
    assert found is not None
    assert_close(found[:, 0], gradient)


def test_legrad_of_several_blocks_is_the_mean_over_them() -> None:
    model, images = seeded(SmallViT()).double(), pictures(16, 16)
    blocks = ["layers.0", "layers.1"]
    alone = [raw(model, images, "LeGrad", block, TARGETS) for block in blocks]
    assert_close(raw(model, images, "LeGrad", None, TARGETS), torch.stack(alone).mean(0))


@pytest.mark.parametrize("method", ["EigenCAM", "KPCA-CAM", "FEM", "RandomCAM", "AttentionRollout"])
def test_some_ask_for_no_class(method: str) -> None:
    is_attention = method == "AttentionRollout"
    model, images = (seeded(SmallViT()).double(), pictures(16, 16)) if is_attention else (strided(), pictures())
    layer = None if is_attention else LAYER
    first, second = (raw(model, images, method, layer, targets) for targets in (TARGETS, [0, 2]))
    assert_close(first, second)


# What adds up, and what differs.


class Pooled(nn.Module):
    """Max pooling, a strided convolution in groups, hidden layers in the head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 6, 3, stride=2, groups=2)
        self.hidden = nn.Linear(6, 7)
        self.head = nn.Linear(7, 5)

    def forward(self, images: Tensor) -> Tensor:
        features = nn.functional.max_pool2d(self.norm(self.conv1(images)).relu(), 2)
        pooled = self.conv2(features).relu().flatten(2).mean(2)
        logits: Tensor = self.head(self.hidden(pooled).relu())
        return logits


def terms_of(model: nn.Module, images: Tensor, targets: Sequence[int]) -> tuple[list[Tensor], tuple[int, ...]]:
    """What FullGrad adds up, before anything is rescaled."""
    kept: list[Any] = []

    def keep(terms: Any, size: Any) -> Maps:
        kept.append((terms, size))
        made: Maps = METHODS["FullGrad"].function(terms, size)
        return made

    CAM(model, replace(METHODS["FullGrad"], function=keep)).explain(images, list(targets))
    (found,) = kept
    return list(found[0]), found[1]


@pytest.mark.parametrize("kind", [SmallCNN, PlainCNN, Swapped, Pooled])
def test_fullgrad_is_complete(kind: type[nn.Module]) -> None:
    """The input's term and all biases' add up to the score, less what the head's own biases add (proposition 1)."""
    model, images, targets = seeded(kind()).double(), pictures(), SMALL_TARGETS
    terms, size = terms_of(model, images, targets)
    assert size == (20, 16)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    assert len(terms) == 1 + len(layers)
    total = torch.stack([term[0].flatten(1).sum(1) for term in terms]).sum(0)
    logits = model(images)
    left = torch.zeros(2, dtype=torch.float64)
    for linear in (m for m in model.modules() if isinstance(m, nn.Linear) and m.bias is not None):
        kept: list[Tensor] = []
        with linear.register_forward_hook(lambda module, args, output, kept=kept: kept.append(output)):
            found = model(images)[range(2), targets]
        (gradient,) = torch.autograd.grad(found.sum(), kept[0])
        left += (gradient * linear.bias).sum(1).detach()
    assert_close(total + left, logits[range(2), targets].detach())
    assert (terms[0].abs().sum() > 0.01) & (total.abs().max() > 0.01)


def test_the_hessian_is_how_the_gradient_changes() -> None:
    """Its product with the activations, by differences of gradients along them."""
    model, images = smooth(), pictures()
    kept: list[Tensor] = []

    def keep(a: Tensor, g: Tensor, curvature: Tensor) -> Tensor:
        kept.extend([a, g, curvature])
        weights: Tensor = METHODS["ShapleyCAM"].function(a, g, curvature)
        return weights

    method = replace(METHODS["ShapleyCAM"], function=keep)
    assert isinstance(method.need, CurvatureNeed)
    CAM(model, method, "conv1").explain(images, TARGETS)
    a, g, curvature = kept

    def gradient(scale: float) -> Tensor:
        leaf = (scale * a).requires_grad_()
        with model.conv1.register_forward_hook(lambda module, args, output: leaf):
            logits = model(images)
        worth = (logits + logits.log_softmax(1))[range(2), TARGETS].sum()
        return torch.autograd.grad(worth, leaf)[0]

    assert_close(g[0], gradient(1.0))
    step = 1e-5
    differences = (gradient(1 + step) - gradient(1 - step)) / (2 * step)
    assert differences.abs().max() > 1e-3
    assert_close(curvature[0], differences, rtol=1e-5, atol=1e-8)
