"""The slow oracles and the installed packages agree where they should; every test named after a fault shows one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tests import oracles, reference
from tests.cases import (
    LAYER,
    TARGETS,
    Swapped,
    Tokens,
    ablation,
    agree,
    collected,
    contrast,
    distance,
    each,
    full,
    own_gradients,
    pictures,
    plain,
    plain_weights,
    rest,
    rest_of,
    scorer,
    scores,
    strided,
    vision_transformer,
)
from tests.networks import SmallViT, seeded
from tests.oracles import Array

LAYOUT = reference.cloning()


# From activations and gradients.


@pytest.mark.parametrize("eigen", [False, True])
@pytest.mark.parametrize(
    "method",
    [
        "GradCAM",
        "GradCAM++",
        "XGradCAM",
        "EigenCAM",
        "EigenGradCAM",
        "LayerCAM",
        "HiResCAM",
        "GradCAMElementWise",
        "SegEigenCAM",
    ],
)
def test_channels(method: str, eigen: bool) -> None:
    model, images = strided(), pictures()
    a, g, _ = collected(model, images, LAYER, TARGETS)
    with reference.energy_sign():
        theirs = reference.reference_raw(model, images, method, LAYER, TARGETS, layout=LAYOUT, eigen_smooth=eigen)
    agree(theirs, each(lambda a, g: oracles.raw(method, a, g, eigen), a, g))


@pytest.mark.parametrize("method", ["GradCAM", "XGradCAM", "LayerCAM", "HiResCAM", "SegEigenCAM"])
def test_finished(method: str) -> None:
    model, images, layers = strided(), pictures(), ["conv1", LAYER]
    evidence = [collected(model, images, layer, TARGETS) for layer in layers]
    theirs = reference.reference_maps(model, images, method, layers, TARGETS, layout=LAYOUT)
    ours = [
        oracles.finish([oracles.raw(method, a[image], g[image]) for a, g, _ in evidence], (20, 16))
        for image in range(2)
    ]
    agree(theirs, np.stack(ours))


@pytest.mark.parametrize("kernel", ["sigmoid", "rbf", "poly", "linear", "cosine"])
def test_kernel_component(kernel: str) -> None:
    model, images = strided(), pictures(12, 10)
    a = collected(model, images, LAYER, TARGETS)[0]
    with reference.energy_sign():
        theirs = reference.reference_raw(model, images, "KPCA-CAM", LAYER, TARGETS, layout=LAYOUT, kernel=kernel)
    agree(theirs, each(lambda a: oracles.kernel_component(a, kernel), a))


def test_kernel_component_gamma() -> None:
    model, images = strided(), pictures(12, 10)
    a = collected(model, images, LAYER, TARGETS)[0]
    with reference.energy_sign():
        theirs = reference.reference_raw(
            model, images, "KPCA-CAM", LAYER, TARGETS, layout=LAYOUT, kernel="rbf", gamma=0.7
        )
    ours = each(lambda a: oracles.kernel_component(a, "rbf", 0.7), a)
    agree(theirs, ours)
    assert distance(each(lambda a: oracles.kernel_component(a, "rbf"), a), ours) > 0.05


def test_linear_kernel_is_eigencam() -> None:
    a = collected(strided(), pictures(12, 10), LAYER, TARGETS)[0]
    agree(each(lambda a: oracles.kernel_component(a, "linear"), a), each(oracles.principal_component, a))


def test_kpca_cam_sign_is_scikit_learns() -> None:
    """The entry of largest magnitude is made positive, be it where the layer has least energy."""
    model, images = strided(), pictures(12, 10, batch=8)
    a = collected(model, images, LAYER, [0] * 8)[0]
    theirs = reference.reference_raw(model, images, "KPCA-CAM", LAYER, None, layout=LAYOUT)
    ours = each(oracles.kernel_component, a)
    signs = np.sign((theirs * ours).sum(axis=(1, 2)))
    agree(theirs * signs[:, None, None], ours)
    assert (theirs.max(axis=(1, 2)) > -theirs.min(axis=(1, 2))).all()
    assert -1 in signs


def test_random_cam() -> None:
    model, images = strided(), pictures()
    a = collected(model, images, LAYER, TARGETS)[0]
    weights = np.random.default_rng(0).uniform(-1, 1, (2, 6))
    with reference.random_weights(weights):
        theirs = reference.reference_raw(model, images, "RandomCAM", LAYER, TARGETS, layout=LAYOUT)
    agree(theirs, each(oracles.combined, a, weights))


def test_cam_is_gradcam_of_a_pooled_layer() -> None:
    """CAM, from the head's weights; Grad-CAM's weights are the same, divided by the number of places."""
    model, images, targets = plain(), pictures(6, 5), [2, 0]
    a, g, _ = collected(model, images, "relu2", targets)
    ours = each(oracles.combined, a, model.head.weight.detach().numpy()[targets])
    agree(reference.torchcam_raw(model, images, "CAM", "relu2", targets, fc_layer="head"), ours)
    agree(30 * each(lambda a, g: oracles.raw("GradCAM", a, g), a, g), ours)


def test_shapley_cam() -> None:
    model, images = strided(), pictures()
    a, g, product = collected(model, images, LAYER, TARGETS, rest)
    targets = [lambda output, target=target: rest(output, target) for target in TARGETS]
    theirs = reference.reference_raw(model, images, "ShapleyCAM", LAYER, targets, layout=None)
    agree(theirs, each(oracles.shapley, a, g, product))
    assert distance(each(lambda a, g: oracles.raw("GradCAM", a, g), a, g), each(oracles.shapley, a, g, product)) > 0.01


def test_shapley_cam_of_a_logit_is_gradcam() -> None:
    """Behind the layer the logit is piecewise linear: no second derivative."""
    model, images = strided(), pictures()
    a, g, product = collected(model, images, LAYER, TARGETS)
    assert not product.any()
    theirs = reference.reference_raw(model, images, "ShapleyCAM", LAYER, TARGETS, layout=None)
    agree(theirs, each(lambda a, g: oracles.raw("GradCAM", a, g), a, g))


def test_shapley_cam_has_no_map_of_tokens() -> None:
    """It arranges gradients and activations for the weights, and multiplies what was not arranged."""
    model, images = seeded(Tokens()).double(), pictures(16, 16)
    with pytest.raises(ValueError, match="Invalid activation shape"):
        reference.reference_raw(model, images, "ShapleyCAM", "relu", TARGETS, layout=reference.cloning(1))


def test_fused_attention_has_no_second_derivative() -> None:
    """On a CPU; PyTorch's own plain attention has one."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    model, images = seeded(SmallViT()).double(), pictures(16, 16)
    with pytest.raises(RuntimeError, match="flash_attention.* is not implemented"):
        collected(model, images, "layers.0", TARGETS)
    with sdpa_kernel(SDPBackend.MATH):
        assert collected(model, images, "layers.0", TARGETS)[2].any()


def test_grad_cam_element_wise_rectifies_before_the_sum() -> None:
    """As the oracle does. The paper's ReLU comes after the sum over channels, which makes its map HiResCAM's."""
    model, images = strided(), pictures()
    a, g, _ = collected(model, images, LAYER, TARGETS)
    theirs = reference.reference_raw(model, images, "GradCAMElementWise", LAYER, TARGETS, layout=LAYOUT)
    agree(theirs, np.maximum(a * g, 0).sum(1))
    assert distance(theirs, np.maximum(each(lambda a, g: oracles.raw("HiResCAM", a, g), a, g), 0)) > 0.1


def test_fem_weighs_by_the_share_of_places_instead_of_the_mean() -> None:
    model, images = strided(), pictures()
    a = collected(model, images, LAYER, TARGETS)[0]
    theirs = reference.reference_raw(model, images, "FEM", LAYER, TARGETS, layout=LAYOUT)
    limits = a.mean((2, 3), keepdims=True) + 2 * a.std((2, 3), keepdims=True)
    shares = (a > limits).mean((2, 3))
    agree(theirs, each(oracles.combined, a, shares))
    assert distance(theirs, each(oracles.fem, a)) > 0.5


def test_fem() -> None:
    """By hand: one channel of ten places with one peak, one without any."""
    a = np.zeros((2, 2, 5))
    a[0, 1, 2] = 10
    a[1] = [[1, 2, 1, 2, 1], [2, 1, 2, 1, 2]]
    expected = np.zeros((2, 5))
    expected[1, 2] = 1
    np.testing.assert_allclose(oracles.fem(a), expected)
    np.testing.assert_allclose(oracles.fem(a, 0.5), expected + 1.5 * (a[1] == 2))


# Smooth Grad-CAM++.


def noisy_gradients(model: nn.Module, images: Tensor, noise: Tensor) -> list[tuple[Array, Array]]:
    """Activations and gradients per sample."""
    return [collected(model, images + sample, LAYER, TARGETS)[:2] for sample in noise]


def test_smooth_plus_plus_of_one_clean_sample_is_plus_plus() -> None:
    a, g, _ = collected(strided(), pictures(), LAYER, TARGETS)
    smooth = each(lambda a, g: oracles.smooth_plus_plus(a, [g]), a, g)
    agree(smooth, each(lambda a, g: oracles.raw("GradCAM++", a, g), a, g))
    assert distance(each(lambda a, g: oracles.smooth_plus_plus(a, [g], numerator=1), a, g), smooth) > 0.1


def test_torchcam_smooth_plus_plus_takes_the_last_sample() -> None:
    """Its ReLU's gradient and the activations of its map are the last sample's, and it sums A G^3, not A times G^3."""
    model, images = strided(), pictures()
    noise = 0.5 * torch.randn(3, 3, 20, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    theirs = reference.torchcam_raw(model, images, "Smooth Grad-CAM++", LAYER, TARGETS, noise=noise)
    clean = collected(model, images, LAYER, TARGETS)[0]
    samples = noisy_gradients(model, images, noise)
    squares = np.mean([g**2 for _, g in samples], axis=0)
    cubes = np.mean([g**3 for _, g in samples], axis=0)
    last_a, last_g = samples[-1]
    alpha = squares / (2 * squares + (cubes * clean).sum((2, 3), keepdims=True) + 1e-8)
    weights = (alpha * np.maximum(last_g, 0)).sum((2, 3))
    agree(theirs, each(oracles.combined, last_a, weights))
    ours = np.stack([oracles.smooth_plus_plus(clean[i], [g[i] for _, g in samples]) for i in range(2)])
    assert distance(theirs, ours) > 0.1


def test_torchcam_plus_plus_divides_a_copy() -> None:
    """Its alpha stays G^2: the division by the denominator is in place, on what a mask has copied out."""
    model, images = strided(), pictures()
    a, g, _ = collected(model, images, LAYER, TARGETS)
    theirs = reference.torchcam_raw(model, images, "GradCAM++", LAYER, TARGETS)
    agree(theirs, each(oracles.combined, a, (g**2 * np.maximum(g, 0)).sum((2, 3))))
    assert distance(theirs, each(lambda a, g: oracles.raw("GradCAM++", a, g), a, g)) > 0.9


# From scores.


def test_scorecam_of_grad_cam_with_half_pixel_masks() -> None:
    model, images = strided(), pictures()
    a = collected(model, images, LAYER, TARGETS)[0]
    with reference.half_pixel_upsampling():
        theirs = reference.reference_raw(model, images, "ScoreCAM", LAYER, TARGETS, layout=LAYOUT)
    ours = each(lambda a, x, t: oracles.scorecam(a, x, scorer(model, t)), a, images.numpy(), TARGETS)
    agree(theirs, ours)
    assert distance(a.mean(1), ours) > 0.05


def test_scorecam_of_grad_cam_aligns_corners() -> None:
    model, images = strided(), pictures()
    a = collected(model, images, LAYER, TARGETS)[0]
    theirs = reference.reference_raw(model, images, "ScoreCAM", LAYER, TARGETS, layout=LAYOUT)
    ours = each(lambda a, x, t: oracles.scorecam(a, x, scorer(model, t)), a, images.numpy(), TARGETS)
    assert 0.01 < distance(theirs, ours) < 0.1


def test_scorecam_of_torchcam_where_nothing_is_resized() -> None:
    model, images, targets = plain(), pictures(8, 7), [2, 0]
    a = collected(model, images, "conv2", targets)[0]
    theirs = reference.torchcam_raw(model, images, "ScoreCAM", "conv2", targets)
    agree(theirs, each(lambda a, x, t: oracles.scorecam(a, x, scorer(model, t)), a, images.numpy(), targets))


def test_scorecam_of_torchcam_scales_before_it_resizes() -> None:
    """So that a mask whose peak lies between pixels stays below 1."""
    model, images = strided(), pictures()
    a = collected(model, images, LAYER, TARGETS)[0]
    theirs = reference.torchcam_raw(model, images, "ScoreCAM", LAYER, TARGETS)
    ours = each(lambda a, x, t: oracles.scorecam(a, x, scorer(model, t)), a, images.numpy(), TARGETS)
    assert 0.01 < distance(theirs, ours) < 0.1


def test_sscam() -> None:
    model, images, targets = plain(), pictures(8, 7), [2, 0]
    a = collected(model, images, "conv2", targets)[0]
    noise = torch.randn(3, 8, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    theirs = reference.torchcam_raw(model, images, "SS-CAM", "conv2", targets, noise=noise)
    ours = each(lambda a, x, t: oracles.sscam(a, x, scorer(model, t), noise.numpy()), a, images.numpy(), targets)
    agree(theirs, ours)
    agree(
        each(lambda a, x, t: oracles.sscam(a, x, scorer(model, t), np.zeros((1, 8, 7))), a, images.numpy(), targets),
        each(lambda a, x, t: oracles.scorecam(a, x, scorer(model, t)), a, images.numpy(), targets),
    )


def test_iscam_of_torchcam_goes_one_step_too_far() -> None:
    """From 0.1 to 5.5 times the mask; the paper prints sums from 0 to 4.5, its author's code has 0.1, 0.2 ... 1."""
    model, images, targets = plain(), pictures(8, 7), [2, 0]
    a = collected(model, images, "conv2", targets)[0]

    def ours(coefficients: Sequence[float]) -> Array:
        return each(lambda a, x, t: oracles.iscam(a, x, scorer(model, t), coefficients), a, images.numpy(), targets)

    theirs = reference.torchcam_raw(model, images, "IS-CAM", "conv2", targets)
    agree(theirs, ours([i * (i + 1) / 20 for i in range(1, 11)]))
    assert oracles.printed_path(10)[-1] == pytest.approx(4.5)
    assert distance(theirs, ours(oracles.printed_path(10))) > 0.01
    assert distance(theirs, ours(oracles.path(10))) > 0.01


def test_channels_left_out() -> None:
    """They weigh nothing, and the softmax is over the others alone."""
    model, image = plain(), pictures(8, 7)[0]
    a = collected(model, image[None], "conv2", [2])[0][0]
    score = scorer(model, 2)
    agree(oracles.scorecam(a, image.numpy(), score, [3, 1]), oracles.scorecam(a[[1, 3]], image.numpy(), score))
    agree(oracles.scorecam(a, image.numpy(), score, [3]), a[3])
    every = oracles.ablationcam(a, rest_of(model, "conv2", image, 2))
    some = [oracles.ablationcam(a, rest_of(model, "conv2", image, 2), chosen) for chosen in ([0, 2], [1, 3, 4])]
    agree(some[0] + some[1], every)


def test_ablationcam() -> None:
    """Where the layer's smallest output is exactly 0 and scores are positive."""
    model, images = plain(), pictures(8, 7)
    targets = scores(model, images).argmax(1).tolist()
    assert (scores(model, images).amax(1) > 0).all()
    for layer in ("relu1", "relu2"):
        theirs = reference.reference_raw(model, images, "AblationCAM", layer, targets, layout=LAYOUT)
        agree(theirs, ablation(model, images, layer, targets))


def test_ablationcam_of_tokens() -> None:
    """A channel goes from every token, the one in front included."""
    model, images = seeded(Tokens()).double(), pictures(16, 16)
    targets = scores(model, images).argmax(1).tolist()
    assert (scores(model, images).amax(1) > 0).all()
    theirs = reference.reference_raw(
        model,
        images,
        "AblationCAM",
        "relu",
        targets,
        layout=reference.cloning(1),
        ablation_layer=reference.token_ablation(),
    )
    agree(theirs, ablation(model, images, "relu", targets)[:, 1:].reshape(2, 4, 4))


def test_ablationcam_of_grad_cam_turns_over_where_the_score_is_negative() -> None:
    model, images = plain(), pictures(8, 7)
    targets = scores(model, images).argmin(1).tolist()
    assert (scores(model, images).amin(1) < 0).all()
    theirs = reference.reference_raw(model, images, "AblationCAM", "relu2", targets, layout=LAYOUT)
    agree(theirs, -ablation(model, images, "relu2", targets))


def test_ablationcam_of_grad_cam_writes_ever_larger_values() -> None:
    """Where an output is negative: the smallest less 1e7, for the next channel of the batch that less 1e7, and on."""
    model, images, targets = plain(), pictures(8, 7), [0, 1]
    model.register_module("relu2", nn.Identity())
    a = collected(model, images, "conv2", targets)[0]
    assert a.min() < 0
    theirs = reference.reference_raw(model, images, "AblationCAM", "conv2", targets, layout=LAYOUT)
    # The head is linear here: a channel's weight is its row's times how far it was moved.
    depths = 1e7 * np.arange(1, 6)
    weights = model.head.weight.detach().numpy()[targets] * depths
    score = scores(model, images)[range(2), targets].numpy()
    agree(theirs, each(oracles.combined, a, weights / score[:, None]), 1e-5)
    assert distance(theirs, ablation(model, images, "conv2", targets)) > 1e6


# From attention.


def test_legrad() -> None:
    model, images = vision_transformer(), pictures(32, 32)
    own = own_gradients(model, images, TARGETS)
    blocks = [f"encoder.layers.encoder_layer_{i}" for i in range(3)]
    for first in (0, 2):
        theirs = reference.torchcam_legrad(model, images, blocks[first:], TARGETS)
        ours = [oracles.legrad([g[i] for g in own[first:]], (4, 4)) for i in range(2)]
        agree(theirs, np.stack(ours))


def random_attention(blocks: int = 3, heads: int = 2, n: int = 5) -> list[Array]:
    generator = np.random.default_rng(0)
    powers = [np.exp(2 * generator.standard_normal((heads, n, n))) for _ in range(blocks)]
    return [power / power.sum(2, keepdims=True) for power in powers]


@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
def test_rollout(fusion: str) -> None:
    """Against the matrix form."""
    attentions = random_attention()
    joint = np.eye(5)
    for a in attentions:
        step = getattr(a, fusion)(axis=0) / 2 + np.eye(5) / 2
        joint = step / step.sum(1, keepdims=True) @ joint
    agree(oracles.rollout(attentions, [0], fusion), joint[0])
    agree(oracles.rollout(attentions, [1, 4], fusion), (joint[1] + joint[4]) / 2)
    assert oracles.rollout(attentions, [2], fusion).sum() == pytest.approx(1)


def test_gradient_rollout() -> None:
    """Against the matrix form; gradients that are all negative leave the identity."""
    attentions = random_attention()
    gradients = [np.random.default_rng(i).standard_normal(a.shape) for i, a in enumerate(attentions)]
    joint = np.eye(5)
    for a, g in zip(attentions, gradients, strict=True):
        joint = (np.eye(5) + np.maximum(a * g, 0).mean(0)) @ joint
    agree(oracles.gradient_rollout(attentions, gradients, [0]), joint[0])
    agree(oracles.gradient_rollout(attentions, gradients, [1, 2]), (joint[1] + joint[2]) / 2)
    agree(oracles.gradient_rollout(attentions, [-np.ones_like(a) for a in attentions], [3]), np.eye(5)[3])


# At the input's resolution.


def test_fullgrad() -> None:
    model, images = strided(), pictures()
    ours = full(model, images, TARGETS)
    agree(reference.reference_raw(model, images, "FullGrad", None, TARGETS, layout=None), ours)
    finished = reference.reference_maps(model, images, "FullGrad", [], TARGETS, layout=None)
    agree(finished, each(oracles.normalise, ours))


def test_fullgrad_of_grad_cam_pairs_biases_by_order_of_definition() -> None:
    """With gradients in the order in which layers ran: here the wrong layer's biases are the ones that are 0."""
    model, images = seeded(Swapped()).double(), pictures()
    model.first.bias.data.zero_()
    theirs = reference.reference_raw(model, images, "FullGrad", None, TARGETS, layout=None)
    assert distance(theirs, full(model, images, TARGETS)) > 0.1


def test_fullgrad_does_not_see_how_large_a_bias_is() -> None:
    """Its rescaling per channel, which is the paper's, takes every factor out but 0."""
    generator = np.random.default_rng(0)
    product, gradient = generator.standard_normal((3, 8, 8)), generator.standard_normal((4, 4, 4))
    bias = np.array([0.1, -2.0, 3.0, 0.5])
    agree(oracles.fullgrad(product, [(bias, gradient)]), oracles.fullgrad(product, [(np.ones(4), gradient)]))


@pytest.mark.parametrize("package", [reference.reference_guided, reference.captum_guided])
def test_guided_backpropagation(package: Callable[..., NDArray[Any]]) -> None:
    model, images, targets = plain(), pictures(8, 7), [2, 0]
    ours = each(lambda x, t: oracles.guided(x, plain_weights(model), t), images.numpy(), targets)
    agree(package(model, images, targets), ours)


def test_guided_gradcam() -> None:
    model, images, targets = plain(), pictures(8, 7), [2, 0]
    a, g, _ = collected(model, images, "relu2", targets)
    maps = each(lambda a, g: oracles.raw("GradCAM", a, g), a, g)
    gradients = each(lambda x, t: oracles.guided(x, plain_weights(model), t), images.numpy(), targets)
    theirs = reference.captum_guided_gradcam(model, images, "relu2", targets)
    agree(theirs, each(oracles.guided_gradcam, gradients, maps))


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


# Concepts.


def test_deep_feature_factorization() -> None:
    model, images = strided(), pictures(12, 10)
    a = collected(model, images, LAYER, TARGETS)[0]
    rows = oracles.offset(a)
    start = reference.factorization_start(rows, 3)
    concepts, maps, finished = reference.reference_concepts(model, images, LAYER, 3, layout=LAYOUT)
    w, h = oracles.factorized(a, *start)
    agree(concepts, w + np.moveaxis(a, 1, 0).reshape(6, -1).min(1)[:, None])
    agree(maps, h)
    ours = [[oracles.resize(oracles.normalise(m), (12, 10)) for m in image] for image in h]
    agree(finished, np.array(ours))


# Around other methods.


def test_refinecam() -> None:
    model, images, layers = strided(), pictures(), ["conv1", LAYER]
    evidence = [collected(model, images, layer, TARGETS) for layer in layers]
    ours = [oracles.refined([oracles.raw("LayerCAM", a[i], g[i]) for a, g, _ in evidence], (20, 16)) for i in range(2)]
    agree(reference.torchcam_refine(model, images, layers, TARGETS, base="LayerCAM"), np.stack(ours))


def test_refinecam_of_grad_cam_scales_once_more_after_resizing() -> None:
    """Its layers' maps are finished ones, whose smallest value is 0; its own loop over them has no effect."""
    model, images, layers = strided(), pictures(), ["conv1", LAYER]
    theirs = reference.reference_refine(model, images, layers, TARGETS, base="LayerCAM", layout=LAYOUT)
    evidence = [collected(model, images, layer, TARGETS) for layer in layers]
    raw = [[oracles.raw("LayerCAM", a[i], g[i]) for a, g, _ in evidence] for i in range(2)]
    finished = [[oracles.finish([m], (20, 16)) for m in maps] for maps in raw]
    agree(theirs, np.stack([oracles.normalise(np.prod(maps, axis=0)) for maps in finished]))
    assert 1e-4 < distance(theirs, np.stack([oracles.refined(maps, (20, 16)) for maps in raw])) < 0.1


def test_finercam_of_grad_cam() -> None:
    """Comparison categories are ranks, and gradients flow through the weights too."""
    model, images, ranks = strided(), pictures(), [1, 3]
    _, raw = reference.reference_finer(model, images, [LAYER], target_idx=1, alpha=0.6, ranks=ranks, layout=LAYOUT)

    def ours(detached: bool) -> Array:
        a, g, _ = collected(model, images, LAYER, [1, 1], contrast(ranks, 0.6, detached))
        return each(lambda a, g: oracles.raw("GradCAM", a, g), a, g)

    agree(raw, ours(detached=False))
    assert distance(raw, ours(detached=True)) > 0.05


def test_finercam_of_torchcam() -> None:
    """Logit less gamma times the mean of the nearest classes' logits, unweighted."""
    model, images = strided(), pictures()

    def mean_contrast(output: Tensor, target: int) -> Tensor:
        near = (output - output[target]).abs().argsort()[1:4]
        return output[target] - 0.6 * output[near].mean()

    a, g, _ = collected(model, images, LAYER, TARGETS, mean_contrast)
    agree(
        reference.torchcam_finer(model, images, LAYER, TARGETS), each(lambda a, g: oracles.raw("GradCAM", a, g), a, g)
    )


# The runners.


def test_models_come_back_as_they_were() -> None:
    """In training mode, with their own modules, without hooks or gradients."""
    model, images, targets = plain(), pictures(8, 7), [2, 0]
    model.train()
    before = dict(model.named_modules())
    runs: list[Callable[[], object]] = [
        lambda: reference.reference_raw(model, images, "AblationCAM", "relu2", targets, layout=LAYOUT),
        lambda: reference.reference_raw(model, images, "GradCAM", "relu2", targets, layout=LAYOUT),
        lambda: reference.reference_raw(model, images, "FullGrad", None, targets, layout=None),
        lambda: reference.reference_finer(model, images, ["relu2"], target_idx=1, ranks=[1], layout=LAYOUT),
        lambda: reference.reference_refine(model, images, ["relu1", "relu2"], targets, layout=LAYOUT),
        lambda: reference.reference_concepts(model, images, "relu2", 2, layout=LAYOUT),
        lambda: reference.reference_guided(model, images, targets),
        lambda: reference.captum_guided(model, images, targets),
        lambda: reference.captum_guided_gradcam(model, images, "relu2", targets),
        lambda: reference.torchcam_raw(model, images, "ScoreCAM", "relu2", targets),
        lambda: reference.torchcam_refine(model, images, ["relu1", "relu2"], targets),
        lambda: reference.torchcam_finer(model, images, "relu2", targets, num_references=1),
    ]
    for run in runs:
        run()
        assert dict(model.named_modules()) == before
        assert all(module.training for module in model.modules())
        assert all(parameter.grad is None for parameter in model.parameters())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not images.requires_grad
