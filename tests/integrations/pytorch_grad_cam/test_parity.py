"""Maps, pictures and names are those of grad-cam 1.5.7 itself, up to the faults that camkit mends."""

from __future__ import annotations

import inspect
import pkgutil
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from camkit.errors import UsageError
from camkit.integrations import pytorch_grad_cam as ours
from camkit.integrations.pytorch_grad_cam.feature_factorization.deep_feature_factorization import dff as own_dff
from camkit.integrations.pytorch_grad_cam.utils import image, model_targets, reshape_transforms, svd_on_activations
from tests.helpers.networks import SmallCNN, seeded
from tests.integrations.pytorch_grad_cam.networks import NETWORKS, SIZES, categories, images
from tests.parity import reference

pytestmark = pytest.mark.peers

EQUAL = [
    *("GradCAM", "HiResCAM", "GradCAMElementWise", "GradCAMPlusPlus", "XGradCAM", "LayerCAM", "FullGrad"),
    *("EigenCAM", "EigenGradCAM", "SegEigenCAM", "KPCA_CAM"),
]
"""The last ones up to the sign of a principal component; ScoreCAM, AblationCAM and FEM have faults of their own."""
INTERNAL = {
    "guided_backprop": {"GuidedBackpropReLU", "GuidedBackpropReLUasModule"},
    "sess": {"sliding_window", "window_starts"},
}
"""How grad-cam works inside, which no script asks for."""


def theirs(name: str, *args: Any, **how: Any) -> Any:
    import pytorch_grad_cam

    return getattr(pytorch_grad_cam, name)(*args, **how)


@pytest.mark.parametrize("name", EQUAL)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("wanted", [None, (1, 3)])
def test_maps(name: str, network: str, size: tuple[int, int], wanted: tuple[int, int] | None) -> None:
    if name == "FullGrad" and network == "vit":
        pytest.skip("grad-cam takes biases of convolutions alone")
    model, layers, layout = NETWORKS[network](size)
    targets = None if wanted is None else categories(*wanted)
    for aug_smooth, eigen_smooth in ((False, False), (True, False), (False, True), (True, True)):
        # grad-cam explains every view's own class, its FullGrad with eigen_smooth an eighth of the image.
        if (aug_smooth and wanted is None) or (name == "FullGrad" and (aug_smooth or eigen_smooth)):
            continue
        how = {"aug_smooth": aug_smooth, "eigen_smooth": eigen_smooth}
        undone = reference.restored(model)
        with undone, reference.quiet(), reference.energy_sign(), theirs(name, model, layers, layout) as cam:
            expected = cam(images(size), targets, **how)
        made = getattr(ours, name)(model, layers, layout)(images(size), targets, **how)
        assert expected.std((1, 2)).min() > 0
        assert_allclose(made, expected, atol=1e-4, rtol=0)


def test_maps_of_scores_that_are_functions() -> None:
    """Of the softmax, and of a binary network."""
    model, layers, layout = NETWORKS["cnn"]()
    for make in (model_targets.ClassifierOutputSoftmaxTarget, model_targets.ClassifierOutputReST):
        targets: list[Any] = [make(1), make(3)]
        with reference.restored(model), theirs("GradCAM", model, layers, layout) as cam:
            expected = cam(images(), targets)
        assert_allclose(ours.GradCAM(model, layers, layout)(images(), targets), expected, atol=1e-4)
    model.head = seeded(nn.Linear(6, 1))
    for category in (0, 1):
        targets = [model_targets.BinaryClassifierOutputTarget(category)] * 2
        with reference.restored(model), theirs("GradCAM", model, layers, layout) as cam:
            expected = cam(images(), targets)
        assert_allclose(ours.GradCAM(model, layers, layout)(images(), targets), expected, atol=1e-4)


def test_categories_may_be_counted_from_the_end() -> None:
    model, layers, layout = NETWORKS["cnn"]()
    with reference.restored(model), theirs("GradCAM", model, layers, layout) as cam:
        expected = cam(images(), categories(-1, -2))
    assert_allclose(ours.GradCAM(model, layers, layout)(images(), categories(-1, -2)), expected, atol=1e-4)


def test_layers_may_be_the_inside_of_a_container() -> None:
    model = seeded(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 5, 3, 2))))
    model.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten()])
    for layers in (model[1], model[1][-1:], nn.ModuleList([model[0]])):
        with reference.restored(model), theirs("GradCAM", model, layers) as cam:
            expected = cam(images(), categories(1, 3))
        assert_allclose(ours.GradCAM(model, layers)(images(), categories(1, 3)), expected, atol=1e-4)


def test_finer_maps_of_the_top_class_or_of_one_index() -> None:
    model, layers, layout = NETWORKS["cnn"]()
    for how in ({}, {"target_idx": 2}, {"alpha": 0.5, "comparison_categories": [1, 3]}):
        with reference.restored(model):
            cam = theirs("FinerCAM", model, layers[:1], layout)
            with cam.base_cam:
                expected = cam(images(), **how)
        if (
            "target_idx" not in how
        ):  # ranked by the distance to the class: the class itself comes first, then the others
            assert expected.std() > 0
        made = ours.FinerCAM(model, layers[:1], layout)(images(), **how)
        assert_allclose(made, expected, atol=1e-4)


def test_targets_are_counted_where_grad_cam_drops_some() -> None:
    model, layers, layout = NETWORKS["cnn"]()
    with reference.restored(model), theirs("GradCAM", model, layers, layout) as cam:
        short, long = cam(images(), categories(1)), cam(images(batch=1), categories(1, 3))
    assert not short[1].any()
    assert_allclose(long, ours.GradCAM(model, layers)(images(batch=1), categories(1)), atol=1e-4)
    for given, targets in ((images(), categories(1)), (images(batch=1), categories(1, 3))):
        with pytest.raises(UsageError, match="one per image"):
            ours.GradCAM(model, layers)(given, targets)


def test_what_is_written_behind_a_layer_is_not_read_back() -> None:
    """On a CPU grad-cam keeps the layer's own tensor, which the network then overwrites."""
    model = seeded(SmallCNN(inplace=True))
    with reference.restored(model), theirs("GradCAM", model, [model.norm2]) as cam:
        aliased = cam(images(), categories(1, 3))
    with reference.restored(model), theirs("GradCAM", model, [model.norm2], lambda output: output.clone()) as cam:
        cloned = cam(images(), categories(1, 3))
    assert abs(aliased - cloned).max() > 0.05
    assert_allclose(ours.GradCAM(model, [model.norm2])(images(), categories(1, 3)), cloned, atol=1e-4)


def test_an_error_in_a_with_block_is_no_secret() -> None:
    """grad-cam prints an IndexError and goes on."""
    model, layers, _ = NETWORKS["cnn"]()

    def lose(cam: Any) -> None:
        with cam:
            raise IndexError("lost")

    with reference.quiet():
        lose(theirs("GradCAM", model, layers))
    with pytest.raises(IndexError, match="lost"):
        lose(ours.GradCAM(model, layers))


def test_guided_backpropagation() -> None:
    class Plain(nn.Sequential):
        """Modules of ReLU alone, which are all that grad-cam sees."""

    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model = seeded(Plain(*layers, nn.Linear(5, 5)))
    for category in (None, 3, -2):
        with reference.restored(model):
            expected = theirs("GuidedBackpropReLUModel", model)(images(batch=1).clone(), category)
        made = ours.GuidedBackpropReLUModel(model, device="cpu")(images(batch=1), target_category=category)
        assert made.shape == (16, 16, 3)
        assert abs(expected).max() > 0
        assert_allclose(made, expected, atol=1e-5 * abs(expected).max())


def test_concepts() -> None:
    model, layers, layout = NETWORKS["cnn"]()
    with reference.restored(model), reference.quiet():
        cam = theirs("DeepFeatureFactorization", model, layers[0], layout, model.head)
        expected, maps, outputs = cam(images(), 3)
    found = ours.DeepFeatureFactorization(model=model, target_layer=layers[0], computation_on_concepts=model.head)
    made, own_maps, own_outputs = found(images(), 3)
    assert made.shape == expected.shape == (6, 3)
    assert np.shape(own_maps) == np.shape(maps) == (2, 3, 16, 16)
    assert own_outputs.shape == outputs.shape == (3, 5)
    with torch.no_grad():
        assert_allclose(own_outputs, model.head(torch.from_numpy(made.T)).numpy(), atol=1e-5)
    activations = found.activations_and_grads.activations[0].numpy()
    # Other starting points lead to other factors, no worse than scikit-learn's.
    from pytorch_grad_cam.feature_factorization.deep_feature_factorization import dff

    with reference.quiet():
        of_theirs = residual(activations, *dff(activations.copy(), 3))
    of_ours = residual(activations, *own_dff(activations, 3))
    assert of_ours < 1.2 * of_theirs


def residual(activations: Any, concepts: Any, maps: Any) -> float:
    """Of the activations less each channel's minimum, which both packages take off and put back on the concepts."""
    rows = activations.transpose(1, 0, 2, 3).reshape(activations.shape[1], -1)
    offset = rows.min(1, keepdims=True)
    product = (concepts - offset) @ maps.transpose(1, 0, 2, 3).reshape(maps.shape[1], -1)
    return float(np.linalg.norm(rows - offset - product))


def test_pictures() -> None:
    from pytorch_grad_cam.utils import image as their_image

    generator = np.random.default_rng(0)
    photo, heat = generator.random((12, 10, 3), dtype=np.float32), generator.random((12, 10), dtype=np.float32)
    for how in ({}, {"use_rgb": True}, {"image_weight": 0.7, "colormap": 4}):
        expected = their_image.show_cam_on_image(photo, heat, **how)
        assert_allclose(image.show_cam_on_image(photo, heat, **how).astype(int), expected.astype(int), atol=1)
    rounded = heat / heat.max() * np.float32(1 + 1e-6)
    expected = their_image.show_cam_on_image(photo, rounded)
    assert_allclose(image.show_cam_on_image(photo, rounded).astype(int), expected.astype(int), atol=1)
    assert (image.deprocess_image(photo - 0.3) == their_image.deprocess_image(photo - 0.3)).all()
    for given in (photo, (255 * photo).astype(np.uint8), photo.astype(np.float64)):
        for numbers in ({}, {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]}):
            tensor = their_image.preprocess_image(given, **numbers)
            torch.testing.assert_close(image.preprocess_image(given, **numbers), tensor)
    maps = generator.random((2, 4, 5), dtype=np.float32)
    for size in (None, (10, 12), (3, 2)):
        assert_allclose(image.scale_cam_image(maps, size), their_image.scale_cam_image(maps, size), atol=1e-5)
    channels = generator.random((2, 3, 4, 5), dtype=np.float32)
    scaled = image.scale_accross_batch_and_channels(channels, (10, 12))
    assert_allclose(scaled, their_image.scale_accross_batch_and_channels(channels, (10, 12)), atol=1e-5)
    scores, labels = generator.random((3, 4)), {number: f"a{number}, b, c, d" for number in range(4)}
    assert image.create_labels_legend(scores, labels) == their_image.create_labels_legend(scores, labels)


def test_pictures_of_concepts() -> None:
    from pytorch_grad_cam.utils import image as their_image

    generator = np.random.default_rng(0)
    photo, maps = generator.random((12, 10, 3)), generator.random((3, 12, 10))
    colours = [np.array(each) for each in ((1.0, 0.2, 0.1), (0.1, 0.9, 0.3), (0.2, 0.3, 0.8))]
    expected = their_image.show_factorization_on_image(photo, maps.copy(), colours, 0.4)
    made = image.show_factorization_on_image(photo, maps, colours, 0.4)
    # Their colours go through 8 bits of hue.
    assert_allclose(made.astype(int), expected.astype(int), atol=5)
    legend = image.show_factorization_on_image(photo, maps, concept_labels=["one", "two", "three"])
    assert legend.shape == (12, 20, 3)


def test_targets() -> None:
    from pytorch_grad_cam.utils import model_targets as their_targets

    row, batch = torch.randn(5), torch.randn(4, 5)
    for name, given in (
        *((name, (2,)) for name in dir(their_targets) if name.startswith("Classifier")),
        ("BinaryClassifierOutputTarget", (0,)),
        ("BinaryClassifierOutputTarget", (1,)),
        ("SoftmaxOutputTarget", ()),
        ("RawScoresOutputTarget", ()),
        ("FinerWeightedTarget", (2, [0, 4], 0.7)),
    ):
        for output in (row, batch):
            expected = getattr(their_targets, name)(*given)(output)
            torch.testing.assert_close(getattr(model_targets, name)(*given)(output), expected)
    scores, mask = torch.randn(5, 4, 6), (np.arange(24).reshape(4, 6) % 2).astype(np.float32)
    expected = their_targets.SemanticSegmentationTarget(3, mask)(scores)
    torch.testing.assert_close(model_targets.SemanticSegmentationTarget(3, mask)(scores), expected)


def test_layouts_and_projections() -> None:
    from pytorch_grad_cam.utils import reshape_transforms as their_transforms
    from pytorch_grad_cam.utils import svd_on_activations as their_projections

    tokens = torch.randn(2, 13, 5)
    size = {"height": 3, "width": 4}
    made = reshape_transforms.vit_reshape_transform(tokens, **size)
    torch.testing.assert_close(made, their_transforms.vit_reshape_transform(tokens, **size))
    made = reshape_transforms.swinT_reshape_transform(tokens[:, 1:], **size)
    torch.testing.assert_close(made, their_transforms.swinT_reshape_transform(tokens[:, 1:], **size))
    levels = {"0": torch.randn(2, 3, 8, 8), "1": torch.randn(2, 3, 4, 4), "pool": torch.randn(2, 3, 2, 2)}
    made = reshape_transforms.fasterrcnn_reshape_transform(levels)
    torch.testing.assert_close(made, their_transforms.fasterrcnn_reshape_transform(levels))
    activations = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    activations[0, 0, 0, 0] = np.nan
    for name in ("get_2d_projection", "get_2d_projection_kernel", "get_2d_projection_with_sign_correction"):
        expected = getattr(their_projections, name)(activations)
        made = getattr(svd_on_activations, name)(activations)
        signs = np.sign((made * expected).sum((1, 2), keepdims=True))
        assert_allclose(made, signs * expected, atol=1e-4)


def modules() -> list[str]:
    try:
        import pytorch_grad_cam
    except ImportError:
        return []
    return [
        each.name.partition(".")[2] for each in pkgutil.walk_packages(pytorch_grad_cam.__path__, "pytorch_grad_cam.")
    ]


@pytest.mark.parametrize("name", modules())
def test_every_name_and_signature_is_there(name: str) -> None:
    other = import_module(f"pytorch_grad_cam.{name}")
    own = import_module(f"camkit.integrations.pytorch_grad_cam.{name}")
    for each, value in vars(other).items():
        if getattr(value, "__module__", None) != other.__name__ or each.startswith("_"):
            continue
        if each in INTERNAL.get(name, ()) or name == "ablation_cam_multilayer":
            continue
        assert hasattr(own, each), f"{name}.{each}"
        here = getattr(own, each)
        # Every argument in its place; more may follow.
        assert arguments(here)[: len(arguments(value))] == arguments(value), f"{name}.{each}"


def arguments(value: Any) -> list[str]:
    given = inspect.signature(value).parameters.values()
    return [each.name for each in given if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]


def test_the_package_has_every_name() -> None:
    import pytorch_grad_cam

    assert {name for name, value in vars(pytorch_grad_cam).items() if inspect.isclass(value)} <= set(dir(ours))
