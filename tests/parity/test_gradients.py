"""camkit's maps of activations and gradients are those of grad-cam and torchcam, to 1e-4.

Where a package leaves its paper the test's name says how, and camkit agrees with the slow oracle in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn

import camkit
from camkit.methods.maps import finish
from tests import oracles
from tests.helpers.cases import (
    LAYER,
    SMALL_TARGETS,
    TARGETS,
    Tokens,
    agree,
    collected,
    contrast,
    distance,
    each,
    finished,
    pictures,
    plain,
    positive,
    raw,
    rest,
    same,
    smooth,
    strided,
    uniform,
)
from tests.helpers.kinds import SIX
from tests.helpers.networks import SmallViT, seeded
from tests.oracles import Array
from tests.parity import reference

pytestmark = pytest.mark.peers
LAYOUT = reference.cloning()


# grad-cam: gradients and activations.


@pytest.mark.parametrize("eigen", [False, True])
@pytest.mark.parametrize("layer", ["conv1", LAYER])
@pytest.mark.parametrize("method", [*SIX, "HiResCAM", "GradCAMElementWise", "SegEigenCAM"])
def test_signed_maps_of_grad_cam(method: str, layer: str, eigen: bool) -> None:
    model, images = strided(), pictures()
    with reference.energy_sign():
        theirs = reference.reference_raw(model, images, method, layer, TARGETS, layout=LAYOUT, eigen_smooth=eigen)
    cam = camkit.EigenSmooth(camkit.CAM(model, method, layer), enabled=eigen)
    agree(theirs, cam.explain(images, TARGETS).raw[layer][:, 0].numpy())


@pytest.mark.parametrize("layers", [["conv1"], [LAYER], ["conv1", LAYER]])
@pytest.mark.parametrize("method", [*SIX, "HiResCAM", "GradCAMElementWise", "SegEigenCAM"])
def test_finished_maps_of_grad_cam(method: str, layers: list[str]) -> None:
    model, images = strided(), pictures()
    with reference.energy_sign():
        theirs = reference.reference_maps(model, images, method, layers, TARGETS, layout=LAYOUT)
    same(finished(model, images, method, layers, TARGETS), theirs)


def test_gradients_of_tokens_of_grad_cam() -> None:
    model, images = seeded(Tokens()).double(), pictures(16, 16)
    for method in ("HiResCAM", "GradCAMElementWise", "SegEigenCAM"):
        theirs = reference.reference_raw(model, images, method, "relu", TARGETS, layout=reference.cloning(1))
        agree(theirs, raw(model, images, method, "relu", TARGETS))


@pytest.mark.parametrize(
    ("kernel", "gamma"),
    [
        ("sigmoid", None),
        ("sigmoid", 0.3),
        ("rbf", None),
        ("rbf", 0.7),
        ("poly", None),
        ("poly", 0.2),
        ("linear", None),
        ("cosine", None),
    ],
)
def test_kpca_cam_of_grad_cam_up_to_sign(kernel: str, gamma: float | None) -> None:
    model, images = strided(), pictures(12, 10, batch=4)
    theirs = reference.reference_raw(model, images, "KPCA-CAM", LAYER, None, layout=LAYOUT, kernel=kernel, gamma=gamma)
    ours = raw(model, images, "KPCA-CAM", LAYER, None, kernel=kernel, gamma=gamma)
    signs = np.sign((theirs * ours).sum(axis=(1, 2)))
    agree(theirs * signs[:, None, None], ours)


def test_kpca_cam_of_grad_cam_may_point_away_from_the_energy() -> None:
    """Its sign is scikit-learn's: the entry of largest size is positive. Rectified, the object is what goes."""
    model, images = strided(), pictures(12, 10, batch=8)
    a = collected(model, images, LAYER, [0] * 8)[0]
    theirs = reference.reference_raw(model, images, "KPCA-CAM", LAYER, None, layout=LAYOUT)
    ours = raw(model, images, "KPCA-CAM", LAYER, None)
    energy = np.square(a).sum(1)
    energy = energy - energy.mean((1, 2), keepdims=True)
    agree(ours, each(oracles.kernel_component, a))
    signs = np.sign((theirs * ours).sum(axis=(1, 2)))
    agree(theirs * signs[:, None, None], ours)
    assert (theirs.max(axis=(1, 2)) > -theirs.min(axis=(1, 2))).all()
    assert ((ours * energy).sum((1, 2)) > 0).all()
    assert ((theirs * energy).sum((1, 2)) < 0).any()


def test_random_cam_of_grad_cam() -> None:
    model, images, weights = strided(), pictures(), uniform(6, 3)
    with reference.random_weights(np.stack([weights, weights])):
        theirs = reference.reference_maps(model, images, "RandomCAM", [LAYER], TARGETS, layout=LAYOUT)
    same(finished(model, images, "RandomCAM", LAYER, TARGETS, seed=3), theirs)


def test_fem_of_grad_cam_weighs_by_the_share_of_places_instead_of_the_mean() -> None:
    """And multiplies activations by it, where the paper adds up the means of the channels that stand out."""
    model, images = strided(), pictures()
    a = collected(model, images, LAYER, TARGETS)[0]
    theirs = reference.reference_raw(model, images, "FEM", LAYER, TARGETS, layout=LAYOUT)
    ours = raw(model, images, "FEM", LAYER, TARGETS)
    agree(ours, each(oracles.fem, a))
    limits = a.mean((2, 3), keepdims=True) + 2 * a.std((2, 3), keepdims=True)
    agree(theirs, each(oracles.combined, a, (a > limits).mean((2, 3))))
    assert distance(theirs, ours) > 0.5


def test_grad_cam_element_wise_is_hirescam_as_its_paper_prints_it() -> None:
    """Its ReLU stands behind the sum there; in grad-cam and camkit, in front of it."""
    model, images = strided(), pictures()
    a, g, _ = collected(model, images, LAYER, TARGETS)
    ours = raw(model, images, "GradCAMElementWise", LAYER, TARGETS)
    agree(ours, np.maximum(a * g, 0).sum(1))
    agree(ours, each(lambda a, g: oracles.raw("GradCAMElementWise", a, g), a, g))
    printed = np.maximum((a * g).sum(1), 0)
    agree(np.maximum(raw(model, images, "HiResCAM", LAYER, TARGETS), 0), printed)
    assert distance(ours, printed) > 0.1


# torchcam: gradients.


def test_plus_plus_of_torchcam_divides_a_copy() -> None:
    """Its alpha stays G^2: the division by the denominator is in place, on what a mask has copied out."""
    model, images = strided(), pictures()
    a, g, _ = collected(model, images, LAYER, TARGETS)
    theirs = reference.torchcam_raw(model, images, "GradCAM++", LAYER, TARGETS)
    agree(theirs, each(oracles.combined, a, (g**2 * np.maximum(g, 0)).sum((2, 3))))
    assert distance(theirs, raw(model, images, "GradCAM++", LAYER, TARGETS)) > 0.9


# ShapleyCAM.


def shapley_targets(utility: str) -> list[Any]:
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputReST

    return list(TARGETS) if utility == "score" else [ClassifierOutputReST(target) for target in TARGETS]


@pytest.mark.parametrize("layer", ["conv1", "conv2"])
@pytest.mark.parametrize("utility", ["score", "ReST"])
def test_shapley_cam_of_grad_cam(utility: str, layer: str) -> None:
    model, images = smooth(), pictures()
    ours = raw(model, images, "ShapleyCAM", layer, TARGETS, utility=utility)
    for number, target in enumerate(shapley_targets(utility)):  # its ReST takes one image at a time
        one = images[number : number + 1]
        agree(
            reference.reference_raw(model, one, "ShapleyCAM", layer, [target], layout=None), ours[number : number + 1]
        )
    objective = {} if utility == "score" else {"objective": rest}
    agree(ours, each(oracles.shapley, *collected(model, images, layer, TARGETS, **objective)))
    assert distance(raw(model, images, "GradCAM", layer, TARGETS), ours) > 0.01


def test_shapley_cam_of_grad_cam_is_gradcam_unless_its_target_is_given() -> None:
    """It explains the logit, whose second derivative is zero behind the last convolution of a ReLU network."""
    model, images = strided(), pictures()
    assert not collected(model, images, LAYER, TARGETS)[2].any()
    theirs = reference.reference_raw(model, images, "ShapleyCAM", LAYER, TARGETS, layout=None)
    agree(theirs, raw(model, images, "GradCAM", LAYER, TARGETS))
    agree(theirs, raw(model, images, "ShapleyCAM", LAYER, TARGETS, utility="score"))
    ours = raw(model, images, "ShapleyCAM", LAYER, TARGETS)
    agree(ours, each(oracles.shapley, *collected(model, images, LAYER, TARGETS, rest)))
    assert distance(theirs, ours) > 0.1


def test_shapley_cam_of_tokens_which_grad_cam_has_not() -> None:
    """Theirs multiplies what wasn't laid out. The Hessian is that of all tokens, the one in front included."""
    model, images = seeded(Tokens()).double(), pictures(16, 16)
    targets = positive(model, images)
    with pytest.raises(ValueError, match="Invalid activation shape"):
        reference.reference_raw(model, images, "ShapleyCAM", "relu", targets, layout=reference.cloning(1))
    ours = raw(model, images, "ShapleyCAM", "relu", targets)
    found = collected(model, images, "relu", targets, rest)
    agree(ours, each(oracles.shapley, *(array[:, 1:].swapaxes(1, 2).reshape(2, 6, 4, 4) for array in found)))
    assert distance(raw(model, images, "GradCAM", "relu", targets), ours) > 0.1


def test_fused_attention_has_no_second_derivative() -> None:
    """On a CPU; PyTorch's own plain attention has one, which is what ShapleyCAM is computed with."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    model, images = seeded(SmallViT()).double(), pictures(16, 16)
    with pytest.raises(RuntimeError, match="flash_attention.* is not implemented"):
        collected(model, images, "layers.0", TARGETS)
    with sdpa_kernel(SDPBackend.MATH):
        assert collected(model, images, "layers.0", TARGETS)[2].any()


# FinerCAM.


def closest(output: Tensor, target: int) -> Tensor:
    """torchcam's, and the paper's: the mean over the three closest classes."""
    near = (output - output[target]).abs().argsort()[1:4]
    return output[target] - 0.6 * output[near].mean()


@pytest.mark.parametrize("target", [0, 1])
def test_finer_cam_of_grad_cam(target: int) -> None:
    model, images = strided(), pictures()
    theirs, theirs_raw = reference.reference_finer(
        model, images, [LAYER], target_idx=target, ranks=[1, 2, 3], layout=LAYOUT
    )
    options = {"gamma": 1.0, "weights": "probability"}
    agree(theirs_raw, raw(model, images, "FinerCAM", LAYER, [target] * 2, **options))
    same(finished(model, images, "FinerCAM", LAYER, target, **options), theirs)
    of_target = [target] * 2

    def slow(detached: bool) -> Array:
        a, g, _ = collected(model, images, LAYER, of_target, contrast([1, 2, 3], 1.0, detached))
        return each(lambda a, g: oracles.raw("FinerCAM", a, g), a, g)

    agree(theirs_raw, slow(detached=False))
    # Gradients flow through the weights too.
    assert distance(theirs_raw, slow(detached=True)) > 0.02


def test_comparison_categories_of_grad_cam_are_ranks() -> None:
    model, images, ranks = strided(), pictures(), [1, 3]
    _, theirs = reference.reference_finer(model, images, [LAYER], target_idx=1, alpha=0.6, ranks=ranks, layout=LAYOUT)
    options = {"gamma": 0.6, "comparison": tuple(ranks), "weights": "probability"}
    agree(theirs, raw(model, images, "FinerCAM", LAYER, [1, 1], **options))


def test_finer_cam_of_grad_cam_weighs_by_probability_and_takes_all_of_the_others_off() -> None:
    """The paper takes the plain mean, and 0.6 of it by default."""
    model, images = strided(), pictures()
    theirs = reference.reference_finer(model, images, [LAYER], target_idx=1, ranks=[1, 2, 3], layout=LAYOUT)[1]
    a, g, _ = collected(model, images, LAYER, [1, 1], closest)
    ours = raw(model, images, "FinerCAM", LAYER, [1, 1])
    agree(ours, each(lambda a, g: oracles.raw("FinerCAM", a, g), a, g))
    assert distance(theirs, ours) > 0.1


def test_finer_cam_of_grad_cam_compares_with_nothing_where_targets_are_given() -> None:
    from pytorch_grad_cam import FinerCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model, images = strided(), pictures()
    with reference.restored(model), reference.quiet():
        cam = FinerCAM(model, [model.conv2], LAYOUT)
        with cam.base_cam:
            theirs = cam(images, [ClassifierOutputTarget(target) for target in TARGETS])
    same(finished(model, images, "GradCAM", LAYER, TARGETS), theirs)
    assert distance(theirs, finished(model, images, "FinerCAM", LAYER, TARGETS).numpy()) > 0.1


@pytest.mark.parametrize(("gamma", "references"), [(0.6, 3), (1.0, 1), (0.3, 4)])
def test_finer_cam_of_torchcam(gamma: float, references: int) -> None:
    model, images = strided(), pictures()
    theirs = reference.torchcam_finer(model, images, LAYER, TARGETS, gamma=gamma, num_references=references)
    options = {"gamma": gamma, "comparison": tuple(range(1, references + 1))}
    agree(theirs, raw(model, images, "FinerCAM", LAYER, TARGETS, **options))
    if gamma == 0.6:
        agree(theirs, raw(model, images, "FinerCAM", LAYER, TARGETS))


# RefineCAM.


def layers_of(model: nn.Module, images: Tensor, layers: Sequence[str], targets: Sequence[int], method: str) -> Any:
    """The oracle's signed maps by image and layer."""
    evidence = [collected(model, images, layer, targets) for layer in layers]
    return [[oracles.raw(method, a[i], g[i]) for a, g, _ in evidence] for i in range(len(images))]


def refined(model: nn.Module, images: Tensor, layers: Sequence[str], targets: Sequence[int]) -> Array:
    size = tuple(images.shape[2:])
    return np.stack([oracles.refined(maps, size) for maps in layers_of(model, images, layers, targets, "RefineCAM")])


def test_refine_cam_of_grad_cam_where_nothing_is_resized() -> None:
    model, images, layers = plain(), pictures(), ["relu1", "relu2"]
    ours = finished(model, images, "RefineCAM", layers, SMALL_TARGETS)
    same(ours, reference.reference_refine(model, images, layers, SMALL_TARGETS, layout=LAYOUT))
    same(ours, refined(model, images, layers, SMALL_TARGETS))


def test_refine_cam_of_grad_cam_scales_once_more_after_resizing() -> None:
    """Its factors are finished maps, whose smallest value is 0: a layer that sees something everywhere loses that."""
    model, images, layers = strided(), pictures(12, 10, seed=5), ["conv1", LAYER]
    theirs = reference.reference_refine(model, images, layers, [1, 1], layout=LAYOUT)
    ours = finished(model, images, "RefineCAM", layers, [1, 1])
    same(ours, refined(model, images, layers, [1, 1]))
    assert distance(theirs, ours.numpy()) > 0.05
    # Of LayerCAM's maps, as torchcam's version below.
    theirs = reference.reference_refine(model, images, layers, [1, 1], base="LayerCAM", layout=LAYOUT)
    of_layers = [finished(model, images, "LayerCAM", layer, [1, 1]).double() for layer in layers]
    agree(theirs, np.stack([oracles.normalise(each.numpy()) for each in of_layers[0] * of_layers[1]]), 1e-4)


def test_refine_cam_of_torchcam() -> None:
    """The product of its LayerCAM's maps: its Grad-CAM++ is another method's."""
    model, images, layers = strided(), pictures(), ["conv1", LAYER]
    theirs = reference.torchcam_refine(model, images, layers, TARGETS, base="LayerCAM")
    raws = camkit.CAM(model, "LayerCAM", layers).explain(images, TARGETS).raw
    same(finish([raws[layer][:, 0] for layer in layers], (20, 16), "product"), theirs)


def test_refine_cam_of_torchcam_never_divides_by_the_denominator_of_alpha() -> None:
    """Its Grad-CAM++ weighs by the sum of G^2 relu(G)."""
    model, images, layers = strided(), pictures(), ["conv1", LAYER]
    theirs = reference.torchcam_refine(model, images, layers, TARGETS)
    evidence = [collected(model, images, layer, TARGETS) for layer in layers]
    undivided = [
        [oracles.combined(a[i], (g[i] ** 2 * np.maximum(g[i], 0)).sum((1, 2))) for a, g, _ in evidence]
        for i in range(2)
    ]
    agree(theirs, np.stack([oracles.refined(maps, (20, 16)) for maps in undivided]))
    ours = finished(model, images, "RefineCAM", layers, TARGETS)
    same(ours, refined(model, images, layers, TARGETS))
    assert distance(theirs, ours.numpy()) > 0.01
