"""camkit's maps of attention, pixels and concepts are those of grad-cam, torchcam and Captum, to 1e-4.

Where a package leaves its paper the test's name says how, and camkit agrees with the slow oracle in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.testing import assert_close

import camkit
from tests import oracles
from tests.helpers.cases import (
    LAYER,
    SMALL_TARGETS,
    TARGETS,
    Swapped,
    agree,
    collected,
    distance,
    each,
    finished,
    full,
    own_gradients,
    pictures,
    plain,
    plain_weights,
    raw,
    same,
    strided,
    vision_transformer,
)
from tests.helpers.networks import PlainCNN, seeded
from tests.oracles import Array
from tests.parity import reference

pytestmark = pytest.mark.peers
LAYOUT = reference.cloning()


# Attention.


def test_legrad_of_torchcam() -> None:
    model, images = vision_transformer(), pictures(32, 32)
    blocks = [f"encoder.layers.encoder_layer_{i}" for i in range(3)]
    ours = raw(model, images, "LeGrad", None, TARGETS)
    agree(reference.torchcam_legrad(model, images, blocks, TARGETS), ours)
    slow = own_gradients(model, images, TARGETS)
    agree(ours, np.stack([oracles.legrad([g[i] for g in slow], (4, 4)) for i in range(2)]))
    for some in (blocks[2:], blocks[:1], blocks[:2]):
        theirs = reference.torchcam_legrad(model, images, some, TARGETS)
        (ours_of_some,) = camkit.CAM(model, "LeGrad", some).explain(images, TARGETS).raw.values()
        agree(theirs, ours_of_some[:, 0].numpy())


def attention_of(model: Any, images: Tensor, targets: Sequence[int]) -> tuple[list[Array], list[Array]]:
    """Probabilities by block, (B, heads, N, N), and the gradients of the score in them."""
    tokens = model._process_input(images)
    tokens = torch.cat([model.class_token.expand(len(images), -1, -1), tokens], 1) + model.encoder.pos_embedding
    kept = []
    for block in model.encoder.layers:
        inner = block.self_attention
        mixed = nn.functional.linear(block.ln_1(tokens), inner.in_proj_weight, inner.in_proj_bias)
        q, k, v = (part.unflatten(2, (inner.num_heads, -1)).transpose(1, 2) for part in mixed.chunk(3, 2))
        kept.append((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1))
        tokens = tokens + inner.out_proj((kept[-1] @ v).transpose(1, 2).flatten(2))
        tokens = tokens + block.mlp(block.ln_2(tokens))
    logits = model.heads(model.encoder.ln(tokens)[:, 0])
    assert_close(logits, model(images))
    gradients = torch.autograd.grad(logits[range(len(images)), list(targets)].sum(), kept)
    return [each.detach().numpy() for each in kept], [each.numpy() for each in gradients]


@pytest.mark.parametrize("method", ["AttentionRollout", "GradientRollout"])
def test_rollouts_of_a_vision_transformer(method: str) -> None:
    """No package has them: the oracle alone."""
    model, images = vision_transformer(), pictures(32, 32)
    probabilities, gradients = attention_of(model, images, TARGETS)

    def slow(image: int) -> Array:
        own = [p[image] for p in probabilities]
        if method == "AttentionRollout":
            return oracles.rollout(own, [0])[1:].reshape(4, 4)
        return oracles.gradient_rollout(own, [g[image] for g in gradients], [0])[1:].reshape(4, 4)

    agree(raw(model, images, method, None, TARGETS), np.stack([slow(image) for image in range(2)]))


# Pixels.


def test_fullgrad_of_grad_cam() -> None:
    model, images = strided(), pictures()
    ours = raw(model, images, "FullGrad", None, TARGETS)
    agree(reference.reference_raw(model, images, "FullGrad", None, TARGETS, layout=None), ours)
    agree(ours, full(model, images, TARGETS))
    maps = reference.reference_maps(model, images, "FullGrad", [], TARGETS, layout=None)
    same(finished(model, images, "FullGrad", None, TARGETS), maps)


def test_fullgrad_of_grad_cam_pairs_biases_by_order_of_definition() -> None:
    """With gradients in the order in which layers ran: here the wrong layer's biases are the ones that are 0."""
    model, images = seeded(Swapped()).double(), pictures()
    model.first.bias.data.zero_()
    theirs = reference.reference_raw(model, images, "FullGrad", None, TARGETS, layout=None)
    ours = raw(model, images, "FullGrad", None, TARGETS)
    agree(ours, full(model, images, TARGETS))
    assert distance(theirs, ours) > 0.1


class Norm(nn.BatchNorm2d):
    """As timm's networks have one of their own."""


def test_fullgrad_of_grad_cam_leaves_out_biases_of_subclasses() -> None:
    """It looks for two types exactly: of timm's EfficientNet Lite0 it shows the input's term alone."""
    model, images = strided(), pictures()
    expected = full(model, images, TARGETS)
    for name in ("norm1", "norm2"):
        norm = Norm(6).double().eval()
        norm.load_state_dict(model.get_submodule(name).state_dict())
        setattr(model, name, norm)
    ours = raw(model, images, "FullGrad", None, TARGETS)
    agree(ours, expected)
    theirs = reference.reference_raw(model, images, "FullGrad", None, TARGETS, layout=None)
    assert distance(theirs, ours) > 0.1


def pixels(model: nn.Module, images: Tensor, method: str, layer: str | None, targets: Sequence[int]) -> NDArray[Any]:
    """Signed, by input channel, (B, 3, H, W)."""
    explanation = camkit.CAM(model, method, layer).explain(images, targets)
    assert explanation.pixels is not None
    (signed,) = explanation.raw.values()
    assert_close(signed, explanation.pixels.abs().amax(2), rtol=0, atol=0)
    return np.asarray(explanation.pixels[:, 0].numpy())


@pytest.mark.parametrize("package", [reference.captum_guided, reference.reference_guided])
def test_guided_backpropagation_of_captum_and_grad_cam(package: Callable[..., NDArray[Any]]) -> None:
    model, images = plain(), pictures(8, 7)
    ours = pixels(model, images, "GuidedBackprop", None, SMALL_TARGETS)
    agree(package(model, images, SMALL_TARGETS), ours)
    agree(ours, each(lambda x, t: oracles.guided(x, plain_weights(model), t), images.numpy(), SMALL_TARGETS))


class Functional(PlainCNN):
    """The same, its ReLUs functions."""

    def forward(self, images: Tensor) -> Tensor:
        features = self.conv2(self.conv1(images).relu())
        logits: Tensor = self.head(nn.functional.relu(features).flatten(2).mean(2))
        return logits


@pytest.mark.parametrize("package", [reference.captum_guided, reference.reference_guided])
def test_guided_backpropagation_of_captum_and_grad_cam_leaves_functional_relus_alone(
    package: Callable[..., NDArray[Any]],
) -> None:
    """Theirs is the plain gradient then; camkit's is that of the same network with modules."""
    model, images = plain(), pictures(8, 7)
    functional = Functional().double()
    functional.load_state_dict(model.state_dict())
    ours = pixels(functional, images, "GuidedBackprop", None, SMALL_TARGETS)
    agree(ours, pixels(model, images, "GuidedBackprop", None, SMALL_TARGETS))
    theirs = package(functional, images, SMALL_TARGETS)
    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(functional(leaf)[range(2), SMALL_TARGETS].sum(), leaf)
    agree(theirs, gradient.numpy())
    assert distance(theirs, ours) > 0.5


def test_guided_backpropagation_of_grad_cam_leaves_one_relu_for_all() -> None:
    """And it knows the first image of a batch alone."""
    from pytorch_grad_cam import GuidedBackpropReLUModel

    model, images = plain(), pictures(8, 7)
    model.relu1 = nn.ReLU(inplace=True)
    before = model.relu1
    with reference.restored(model):
        gradient = GuidedBackpropReLUModel(model)(images.clone(), 2)
        assert model.relu1 is model.relu2 is not before
        assert not model.relu1.inplace
    assert gradient.shape == (8, 7, 3)
    assert model.relu1 is before
    camkit.CAM(model, "GuidedBackprop")(images, 2)
    assert model.relu1 is before
    assert before.inplace


@pytest.mark.parametrize("layer", ["conv1", "relu2"])
def test_guided_gradcam_of_captum(layer: str) -> None:
    model, images = plain(), pictures(8, 7)
    ours = pixels(model, images, "GuidedGradCAM", layer, SMALL_TARGETS)
    agree(reference.captum_guided_gradcam(model, images, layer, SMALL_TARGETS), ours)


class Halved(PlainCNN):
    """With pooling in between, so that maps are resized."""

    def forward(self, images: Tensor) -> Tensor:
        small = nn.functional.avg_pool2d(self.relu1(self.conv1(images)), 2)
        logits: Tensor = self.head(self.relu2(self.conv2(small)).flatten(2).mean(2))
        return logits


def test_guided_gradcam_of_captum_resized() -> None:
    """Bilinearly, as in the paper; the nearest place is Captum's default."""
    from captum.attr import GuidedGradCam

    model: Halved = seeded(Halved()).double()
    images = pictures(8, 6)
    ours = pixels(model, images, "GuidedGradCAM", "relu2", SMALL_TARGETS)
    agree(reference.captum_guided_gradcam(model, images, "relu2", SMALL_TARGETS), ours)
    a, g, _ = collected(model, images, "relu2", SMALL_TARGETS)
    maps = each(lambda a, g: oracles.raw("GradCAM", a, g), a, g)
    guided = pixels(model, images, "GuidedBackprop", None, SMALL_TARGETS)
    agree(ours, each(oracles.guided_gradcam, guided, maps))
    with reference.restored(model):
        nearest = GuidedGradCam(model, model.relu2).attribute(images.clone().requires_grad_(), SMALL_TARGETS)
    assert distance(nearest.detach().numpy(), ours) > 0.01


# Concepts.


def concepts_of(activations: Tensor) -> Tensor:
    """Three of them by channel, (3, C)."""
    found = camkit.METHODS["DFF"].configured(num_concepts=3).maps(activations).concepts
    assert found is not None
    return found


def test_deep_feature_factorization_of_grad_cam(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the same start; camkit scales maps to [0, 1] once more after resizing, as it does everywhere."""
    model, images = strided(), pictures(12, 10)

    def start(matrix: Tensor, count: int, seed: int) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(each) for each in reference.factorization_start(matrix.numpy(), count))

    monkeypatch.setattr("camkit.methods.concept.start", start)
    concepts, maps, ended = reference.reference_concepts(model, images, LAYER, 3, layout=LAYOUT)
    explanation = camkit.CAM(model, "DFF", LAYER, num_concepts=3).explain(images)
    agree(maps, explanation.raw[LAYER].numpy())
    expected = np.stack([[oracles.normalise(each) for each in image] for image in ended])
    assert_close(explanation.maps.double(), torch.from_numpy(expected).double(), rtol=0, atol=1e-4)
    found = concepts_of(torch.from_numpy(collected(model, images, LAYER, TARGETS)[0]))
    agree(concepts, found.T.numpy())


def test_concepts_are_the_classes_that_the_head_makes_of_them() -> None:
    """As grad-cam names them: its classifier of the concept's channels."""
    model, images = plain(), pictures(8, 7)
    a = torch.from_numpy(collected(model, images, "relu2", SMALL_TARGETS)[0])
    explanation = camkit.CAM(model, "DFF", "relu2", num_concepts=3).explain(images)
    logits = concepts_of(a) @ model.head.weight.detach().T
    assert_close(explanation.scores, logits.amax(1).expand(2, -1))
    assert_close(explanation.targets, logits.argmax(1).expand(2, -1))
