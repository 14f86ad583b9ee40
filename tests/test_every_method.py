"""What holds of every method there is, by whatever way it is called."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close

import camkit
from camkit import CAM, AugSmooth, EigenSmooth, Explanation
from camkit.errors import LayerError, UsageError
from camkit.methods import METHODS
from camkit.methods.maps import finish
from camkit.methods.needs import GuidedGradientsNeed, GuidedLayerNeed
from tests.helpers.kinds import CASES, CATEGORICAL, ON_SMALL_CNN, ON_SMALL_VIT, layer_of, options
from tests.helpers.networks import SmallCNN, SmallViT, seeded
from tests.helpers.refusals import refusal

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
CATEGORIES = [[0, 3, 1], [2, 2, 4]]
PIXELS = tuple(
    name for name, method in METHODS.items() if isinstance(method.need, GuidedGradientsNeed | GuidedLayerNeed)
)
each = pytest.mark.parametrize(("make", "method", "layer"), CASES)


OPTIONS = {"num_samples": 3, "num_concepts": 3, "k": 1.0}
"""Of the methods that have them: few samples and concepts, and a threshold that is passed on small grids."""


def cam_of(make: Any, method: str, layer: Any) -> CAM:
    return CAM(seeded(make()).double(), method, layer, **options(method, **OPTIONS))


def made(make: Any, method: str, layer: Any, images: Tensor = IMAGES, targets: Any = CATEGORIES) -> Explanation:
    return cam_of(make, method, layer).explain(images, targets)


@cache
def whole(make: Any, method: str, layer: str | None) -> Explanation:
    """What every test of the class below compares with."""
    return made(make, method, layer)


def parts(explanation: Explanation) -> tuple[Any, ...]:
    """All that is made of numbers."""
    pixels = () if explanation.pixels is None else (explanation.pixels,)
    return explanation.maps, explanation.raw, explanation.scores, explanation.logits, explanation.targets, pixels


def is_concept(method: str) -> bool:
    return METHODS[method].need.finds_targets


@each
class TestEveryMethod:
    def test_makes_maps(self, make: Any, method: str, layer: str | None) -> None:
        found = whole(make, method, layer)
        assert found.maps.shape == (2, 3, 16, 16)
        assert found.maps.dtype == torch.float32
        assert found.maps.isfinite().all()
        assert found.maps.min() >= 0
        assert found.maps.max() <= 1
        assert found.maps.flatten(2).std(2).min() > 0.01
        assert not found.maps.requires_grad
        assert found.method == method
        assert found.empty == {}
        if layer:
            assert found.layers == (layer,)
        for raw in found.raw.values():
            assert raw.shape[:2] == (2, 3)
            assert not raw.requires_grad
        if method in PIXELS:
            assert found.pixels is not None
            assert found.pixels.shape == (2, 3, 3, 16, 16)
            assert_close(found.pixels.abs().amax(2), next(iter(found.raw.values())))
        else:
            assert found.pixels is None

    def test_is_called(self, make: Any, method: str, layer: str | None) -> None:
        cam, expected = cam_of(make, method, layer), whole(make, method, layer)
        assert_close(cam(IMAGES, CATEGORIES), expected.maps)
        first = cam(IMAGES, [row[0] for row in CATEGORIES])
        if is_concept(method):
            assert_close(first, expected.maps)
        else:
            assert first.shape == (2, 16, 16)
            assert_close(first, expected.maps[:, 0])
        assert_close(cam(IMAGES), cam_of(make, method, layer)(IMAGES, expected.logits.argmax(1)))

    def test_several_categories_are_categories_one_by_one(self, make: Any, method: str, layer: str | None) -> None:
        together = whole(make, method, layer)
        for number in range(3):
            alone = made(make, method, layer, targets=[row[number] for row in CATEGORIES])
            if is_concept(method):
                assert_close(parts(together)[:2], parts(alone)[:2])
            else:
                assert_close(together.maps[:, number], alone.maps[:, 0], rtol=1e-5, atol=1e-6)
                for name, raw in alone.raw.items():
                    assert_close(together.raw[name][:, number], raw[:, 0], rtol=1e-6, atol=1e-9)

    def test_depends_on_the_category(self, make: Any, method: str, layer: str | None) -> None:
        maps = whole(make, method, layer).maps
        same = torch.allclose(maps[0, 0], maps[0, 1], atol=1e-4)
        is_free = method == "AttentionRollout" or method not in CATEGORICAL
        assert same is (is_free and not is_concept(method))

    def test_an_image_ignores_its_batch_mates(self, make: Any, method: str, layer: str | None) -> None:
        if is_concept(method):
            return  # it looks for what images have in common
        together = whole(make, method, layer)
        for image in range(2):
            alone = made(make, method, layer, IMAGES[image : image + 1], CATEGORIES[image : image + 1])
            for name, raw in alone.raw.items():
                assert_close(together.raw[name][image], raw[0], rtol=1e-6, atol=1e-9)
            assert_close(together.maps[image], alone.maps[0], rtol=1e-5, atol=1e-6)

    def test_two_calls_agree_and_leave_images_alone(self, make: Any, method: str, layer: str | None) -> None:
        images = IMAGES.clone()
        cam = cam_of(make, method, layer)
        first = cam.explain(images, CATEGORIES)
        assert_close(images, IMAGES, rtol=0, atol=0)
        assert_close(parts(cam.explain(images, CATEGORIES)), parts(first), rtol=1e-4, atol=1e-5)

    def test_in_inference_mode(self, make: Any, method: str, layer: str | None) -> None:
        cam = cam_of(make, method, layer)
        with torch.inference_mode():
            found = cam.explain(IMAGES.clone(), CATEGORIES)
        assert_close(parts(found)[:2], parts(whole(make, method, layer))[:2], rtol=1e-6, atol=1e-8)

    def test_functions_as_targets(self, make: Any, method: str, layer: str | None) -> None:
        cam = cam_of(make, method, layer)

        def third(row: Tensor) -> Tensor:
            return row[2]

        if method in ("FinerCAM", "ShapleyCAM"):
            message = refusal(cam, UsageError, IMAGES, third)
            assert message.startswith(f"{method} compares the scores of classes: targets must be class indices")
        else:
            assert_close(cam(IMAGES, third), cam(IMAGES, 2), rtol=1e-5, atol=1e-6)

    def test_augmented(self, make: Any, method: str, layer: str | None) -> None:
        cam = cam_of(make, method, layer)
        if is_concept(method):
            assert "finds other concepts in every view" in refusal(AugSmooth(cam).explain, UsageError, IMAGES)
            return
        found = AugSmooth(cam).explain(IMAGES, CATEGORIES)
        assert found.smoothing == ("AugSmooth",)
        single = cam_of(make, method, found.layers or None)
        straight = [single.explain(factor * IMAGES, CATEGORIES) for factor in (0.9, 1, 1.1)]
        flipped = [single.explain(factor * IMAGES.flip(-1), CATEGORIES) for factor in (0.9, 1, 1.1)]
        maps = torch.stack([*(one.maps for one in straight), *(one.maps.flip(-1) for one in flipped)])
        assert_close(found.maps, maps.mean(0), rtol=1e-5, atol=1e-6)
        if found.pixels is not None:
            views = [one.pixels for one in straight] + [one.pixels.flip(-1) for one in flipped]
            assert_close(found.pixels, torch.stack(views).mean(0))

    def test_eigen_smoothed(self, make: Any, method: str, layer: str | None) -> None:
        cam = EigenSmooth(cam_of(make, method, layer))
        if METHODS[method].reduction is None:
            assert refusal(cam, UsageError, IMAGES) == (
                f"{method} has no weighted channels for a principal component: leave EigenSmooth out"
            )
            return
        found, plain = cam.explain(IMAGES, CATEGORIES), whole(make, method, layer)
        assert found.maps.flatten(2).std(2).min() > 0.01
        assert torch.allclose(found.maps, plain.maps, atol=1e-4) is METHODS[method].keeps_reduction


@pytest.mark.parametrize("method", ON_SMALL_CNN)
def test_in_place_twins_agree(method: str) -> None:
    layer = layer_of(method)
    twin = made(lambda: SmallCNN(inplace=True), method, layer)
    assert_close(parts(twin), parts(whole(SmallCNN, method, layer)), rtol=1e-6, atol=1e-8)


def test_shapley_cam_of_a_score_takes_functions() -> None:
    cam = CAM(seeded(SmallCNN()).double(), "ShapleyCAM", "conv2", utility="score")
    assert_close(cam(IMAGES, lambda row: row[2]), cam(IMAGES, 2))


LAYERED = [name for name in ON_SMALL_CNN if METHODS[name].of_layers and name != "CAM" and not is_concept(name)]
"""Those that can take any two layers; concepts of one layer aren't those of another."""
ONE_LAYER = [name for name in ON_SMALL_CNN if METHODS[name].fusion == "mean"]
SEVERAL_LAYERS = [name for name in ON_SMALL_CNN if name != "CAM"]


@pytest.mark.parametrize("method", LAYERED)
class TestSeveralLayers:
    def test_are_fused(self, method: str) -> None:
        layers = ["conv1", "norm2"]
        found = made(SmallCNN, method, layers)
        assert found.layers == tuple(layers)
        for name in layers:
            if METHODS[method].fusion == "mean":
                assert_close(found.raw[name], whole(SmallCNN, method, name).raw[name], rtol=1e-6, atol=1e-9)
        flat = [raw.flatten(0, 1) for raw in found.raw.values()]
        assert_close(found.maps.flatten(0, 1), finish(flat, (16, 16), METHODS[method].fusion))


class TestTogether:
    """All methods in one call make what each makes alone."""

    @pytest.mark.parametrize(
        ("make", "names", "layers", "aug_smooth"),
        [
            pytest.param(SmallCNN, ON_SMALL_CNN, None, False, id="cnn"),
            pytest.param(SmallCNN, ON_SMALL_CNN, None, True, id="cnn augmented"),
            pytest.param(SmallCNN, ONE_LAYER, "relu", False, id="cnn layer"),
            pytest.param(SmallCNN, SEVERAL_LAYERS, ["conv1", "norm2"], False, id="cnn layers"),
            pytest.param(
                SmallCNN, SEVERAL_LAYERS, ["conv1", "norm2"], True, id="cnn layers augmented", marks=pytest.mark.slow
            ),
            pytest.param(SmallViT, ON_SMALL_VIT, None, False, id="vit"),
            pytest.param(SmallViT, ON_SMALL_VIT, None, True, id="vit augmented"),
            pytest.param(SmallViT, ON_SMALL_VIT, ["layers.0", "layers.1.ln1"], False, id="vit layers"),
            pytest.param(
                SmallViT,
                ON_SMALL_VIT,
                ["layers.0", "layers.1.ln1"],
                True,
                id="vit layers augmented",
                marks=pytest.mark.slow,
            ),
        ],
    )
    def test_all(self, make: Any, names: Any, layers: Any, aug_smooth: bool) -> None:
        several = isinstance(layers, list)
        names = [name for name in names if not ((aug_smooth or several) and is_concept(name))]
        given = {name: value for name, value in OPTIONS.items() if any(name in METHODS[each].options for each in names)}
        model = seeded(make()).double()
        together = camkit.explain(model, IMAGES, names, CATEGORIES, layers, aug_smooth=aug_smooth, **given)
        assert list(together) == list(names)
        for name, found in together.items():
            own = layers if METHODS[name].of_layers else None
            if METHODS[name].family == "attention" and layers:
                own = "layers.0"  # the only one of them that has a block
            alone = AugSmooth(cam_of(make, name, own), enabled=aug_smooth).explain(IMAGES, CATEGORIES)
            assert_close(
                parts(found), parts(alone), rtol=1e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
            )
            assert (found.layers, found.empty) == (alone.layers, alone.empty), name

    def test_share_the_forward(self) -> None:
        model, seen = seeded(SmallCNN()), []
        model.conv1.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
        names = [
            name for name in ON_SMALL_CNN if METHODS[name].family in ("gradient", "activation", "control", "pixel")
        ]
        names = [name for name in names if name not in ("SmoothGradCAM++", "CAM", "RefineCAM")]
        camkit.explain(model, IMAGES, names, CATEGORIES, "conv2")
        # The pass, one look each whether the layer's and all places are turned, and the pass of guided gradients.
        assert seen == [2, 1, 1, 2]

    def test_eigen_smooth_names_those_it_is_nothing_for(self) -> None:
        message = refusal(
            camkit.explain, UsageError, seeded(SmallCNN()), IMAGES, ["GradCAM", "FullGrad", "DFF"], eigen_smooth=True
        )
        assert message.startswith("FullGrad, DFF has no weighted channels")


class Linear(nn.Module):
    """One convolution and nothing that rectifies, on a head of its own."""

    def __init__(self, head: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.head, self.kind = nn.Linear(6, 5), head

    def forward(self, images: Tensor) -> Tensor:
        features = self.conv(images)
        pooled = {
            "mean": lambda: features.mean((2, 3)),
            "sum": lambda: 3 * features.sum((2, 3)),
            "max": lambda: features.amax((2, 3)),
            "gelu": lambda: functional.gelu(features).mean((2, 3)),
            "product": lambda: features.mean((2, 3)) * features.mean((2, 3)),
        }[self.kind]()
        return self.head(pooled)


class TestCAM:
    @pytest.mark.parametrize("kind", ["mean", "sum"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
    def test_where_the_head_is_linear(self, kind: str, dtype: torch.dtype) -> None:
        model = seeded(Linear(kind)).to(dtype)
        raw = CAM(model, "CAM", "conv").explain(IMAGES, CATEGORIES).raw["conv"]
        features = model.conv(IMAGES.to(dtype)).detach().float()
        size = {"mean": 1, "sum": 3 * 256}[kind]
        expected = torch.einsum(
            "btc,bchw->bthw", size * model.head.weight.detach().float()[torch.tensor(CATEGORIES)], features
        )
        assert_close(raw.float(), expected, rtol=0, atol=float(0.02 * expected.abs().max()))

    @pytest.mark.parametrize("kind", ["max", "gelu", "product"])
    def test_where_it_isnt(self, kind: str) -> None:
        message = refusal(CAM(seeded(Linear(kind)), "CAM", "conv"), LayerError, IMAGES, 1)
        assert message.startswith(
            "CAM needs a head of pooling and one linear layer: the score isn't linear in the mean"
        )
        assert "GradCAM or HiResCAM" in message

    def test_of_tokens_that_are_averaged(self) -> None:
        model = seeded(SmallViT(extra=0)).double()
        found = CAM(model, "CAM", "norm").explain(IMAGES, 3)
        hires = CAM(model, "HiResCAM", "norm").explain(IMAGES, 3)
        assert_close(found.maps, hires.maps, rtol=0, atol=1e-5)


class TestRefusals:
    """Each says what would work."""

    @pytest.mark.parametrize("method", ["FullGrad", "GuidedBackprop"])
    def test_layers_of_methods_that_look_everywhere(self, method: str) -> None:
        message = refusal(CAM(seeded(SmallCNN()), method, "conv1"), UsageError, IMAGES)
        assert message == f"{method} looks at the whole network: leave target layers out"

    def test_one_layer_to_be_multiplied(self) -> None:
        message = refusal(CAM(seeded(SmallCNN()), "RefineCAM", "conv1"), UsageError, IMAGES)
        assert message.startswith("RefineCAM multiplies the maps of several layers: name two or more, or leave")

    @pytest.mark.parametrize("method", ["GuidedBackprop", "GuidedGradCAM"])
    def test_networks_without_relus(self, method: str) -> None:
        message = refusal(CAM(seeded(SmallViT()), method), UsageError, IMAGES)
        assert message.startswith("guided backpropagation needs ReLUs, and this network calls none")

    @pytest.mark.parametrize("method", ["LeGrad", "AttentionRollout", "GradientRollout"])
    def test_networks_without_attention(self, method: str) -> None:
        message = refusal(CAM(seeded(SmallCNN()), method), LayerError, IMAGES)
        assert "this network has no attention at all: use LayerCAM or GradCAM" in message

    def test_more_concepts_than_channels(self) -> None:
        message = refusal(CAM(seeded(SmallCNN()), "DFF", "conv2", num_concepts=7), UsageError, IMAGES)
        assert message.startswith("num_concepts is 7, and the layer has 6 channels and 128 places in all images")

    def test_concepts_of_several_layers(self) -> None:
        message = refusal(CAM(seeded(SmallCNN()), "DFF", ["conv1", "conv2"]), UsageError, IMAGES)
        assert message == "DFF finds concepts in one layer, and got several: 'conv1', 'conv2'"

    def test_concepts_of_a_model_without_classes(self) -> None:
        class Maps(SmallCNN):
            def forward(self, images: Tensor) -> Tensor:
                return self.conv2(self.conv1(images))

        cam = CAM(seeded(Maps()), "DFF", "conv1")
        assert "concepts are named by class" in refusal(cam, UsageError, IMAGES, lambda row: row.mean())

    def test_comparisons_with_classes_there_arent(self) -> None:
        class Binary(SmallCNN):
            def forward(self, images: Tensor) -> Tensor:
                return super().forward(images)[:, :1]

        message = refusal(CAM(seeded(Binary()), "FinerCAM", "conv2"), UsageError, IMAGES, 0)
        assert message.startswith("FinerCAM compares with other classes")
        assert message.endswith("the model has 1: use GradCAM")


def test_black_images_make_empty_maps_and_no_errors() -> None:
    model = seeded(SmallCNN())
    for name in ON_SMALL_CNN:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            given = options(name, num_samples=2, num_concepts=2)
            assert CAM(model, name, layer_of(name), **given)(0 * IMAGES, 1).isfinite().all()
