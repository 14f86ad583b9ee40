"""Classes around other classes, AblationCAM's channels, guided backpropagation, concepts and pictures."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor, nn

from camkit.errors import CamkitWarning, LayerError, UsageError
from camkit.integrations.pytorch_grad_cam import (
    SESS,
    AblationCAM,
    AblationLayer,
    AblationLayerFasterRCNN,
    AblationLayerVit,
    DeepFeatureFactorization,
    EigenCAM,
    FinerCAM,
    FullGrad,
    GradCAM,
    GuidedBackpropReLUModel,
    LayerCAM,
    RefineCAM,
    run_dff_on_image,
)
from camkit.integrations.pytorch_grad_cam.sobel_cam import sobel_cam
from camkit.integrations.pytorch_grad_cam.utils import find_layers, image
from camkit.integrations.pytorch_grad_cam.utils.model_targets import (
    FasterRCNNBoxScoreTarget,
    SemanticSegmentationTarget,
)
from camkit.integrations.pytorch_grad_cam.utils.reshape_transforms import (
    fasterrcnn_reshape_transform,
    vit_reshape_transform,
)
from tests.helpers.networks import SmallCNN, seeded
from tests.helpers.refusals import refusal
from tests.integrations.pytorch_grad_cam.networks import categories, cnn, images, vit


class TestRefineCAM:
    def test_is_the_product_of_its_layers(self) -> None:
        model, layers, _ = cnn()
        made = RefineCAM(model, layers, base_method=LayerCAM)
        maps = [each(images(), categories(1, 3)) for each in made.base_cam_per_layer]
        expected = np.prod(maps, axis=0)
        found = made(input_tensor=images(), targets=categories(1, 3))
        # The factors aren't scaled once more behind resizing, as camkit's RefineCAM has it.
        assert np.corrcoef(found.flatten(), expected.flatten())[0, 1] > 0.97
        assert made.outputs.shape == (2, 5)

    def test_of_one_layer_is_the_base(self) -> None:
        model, layers, _ = cnn()
        made = RefineCAM(model, layers[:1], base_method=GradCAM)(images(), categories(1, 3))
        assert_allclose(made, GradCAM(model, layers[:1])(images(), categories(1, 3)))

    def test_of_a_scripts_own_class(self) -> None:
        class Own(GradCAM):
            def get_cam_image(self, *args: Any, **kwargs: Any) -> Any:
                return 3 * super().get_cam_image(*args, **kwargs)

        model, layers, _ = cnn()
        made = RefineCAM(model, layers, base_method=Own)(images(), categories(1, 3))
        expected = image.scale_cam_image(
            np.prod([Own(model, [each])(images(), categories(1, 3)) for each in layers], 0)
        )
        assert_allclose(made, expected, atol=1e-6)

    def test_without_layers_is_refused(self) -> None:
        assert "name at least one" in refusal(RefineCAM, UsageError, cnn()[0], [])


class TestFinerCAM:
    def test_of_given_categories_compares_too(self) -> None:
        """grad-cam's FinerCAM is its base method then."""
        model, layers, _ = cnn()
        made = FinerCAM(model, layers)(images(), categories(2, 2))
        assert_allclose(made, FinerCAM(model, layers)(images(), target_idx=2), atol=1e-6)
        assert abs(made - GradCAM(model, layers)(images(), categories(2, 2))).max() > 0.01

    def test_of_other_functions_is_its_base(self) -> None:
        model, layers, _ = cnn()
        targets = [lambda row: row[1] - row[2]] * 2
        made = FinerCAM(model, layers, base_method=LayerCAM)(images(), targets)
        assert_allclose(made, LayerCAM(model, layers)(images(), targets))

    def test_needs_a_base_with_gradients(self) -> None:
        model, layers, _ = cnn()
        assert "EigenCAM doesn't differentiate" in refusal(FinerCAM, UsageError, model, layers, base_method=EigenCAM)


class TestSESS:
    def test_of_one_scale_and_one_window_is_the_base(self) -> None:
        model, layers, _ = cnn()
        made = SESS(model, layers, scales=[16], smooth=False)(images(), categories(1, 3))
        assert_allclose(made, GradCAM(model, layers)(images(), categories(1, 3)), atol=1e-5)

    @pytest.mark.parametrize("pool", ["mean", "max"])
    def test_of_several(self, pool: str) -> None:
        model, layers, _ = cnn()
        cam = SESS(model, layers, base_method=LayerCAM, num_scales=2, step_size=8, pool=pool, pre_filter_ratio=0.2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CamkitWarning)  # of single windows
            maps = cam(images((16, 24)), None)
        assert maps.shape == (2, 16, 24)
        assert maps.min() == 0
        assert_allclose(maps.max((1, 2)), 1, atol=1e-5)

    def test_refuses_what_makes_no_window(self) -> None:
        model, layers, _ = cnn()
        assert "pool is 'mean' or 'max'" in refusal(SESS, UsageError, model, layers, pool="min")
        assert "to below 1" in refusal(SESS, UsageError, model, layers, pre_filter_ratio=1.0)
        assert "at least the window's side" in refusal(SESS(model, layers, scales=[8]), UsageError, images())
        assert "1 targets for 2 images" in refusal(SESS(model, layers), UsageError, images(), categories(1))


class Levels(nn.Module):
    """A pyramid of features, as a detector's backbone returns it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.second = nn.Conv2d(4, 4, 3, stride=2, padding=1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        fine = self.first(images).relu()
        coarse = self.second(fine).relu()
        return {"0": fine, "1": coarse, "pool": coarse[:, :, ::2, ::2]}


class Pyramid(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = Levels()
        self.head = nn.Linear(12, 5)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.cat([each.mean((2, 3)) for each in self.backbone(images).values()], 1))
        return logits


class TestAblationCAM:
    def test_of_tokens_in_a_layout_of_ones_own(self) -> None:
        model, layers, layout = vit()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CamkitWarning)
            made = AblationCAM(model, layers, layout, ablation_layer=AblationLayerVit())(images(), categories(1, 3))
            assert_allclose(made, AblationCAM(model, layers)(images(), categories(1, 3)), atol=1e-6)

    def test_of_the_levels_of_a_pyramid(self) -> None:
        """Each channel of each level by itself, and a linear head, which says what it loses."""
        model = seeded(Pyramid())
        with torch.no_grad():
            model.head.weight.abs_()
        layer = AblationLayerFasterRCNN()
        cam = AblationCAM(model, [model.backbone], fasterrcnn_reshape_transform, ablation_layer=layer)
        made = cam(images(batch=1), categories(1))
        with torch.no_grad():
            levels = model.backbone(images(batch=1))
            lost = torch.cat([each.mean((2, 3))[0] for each in levels.values()]) * model.head.weight[1]
            score = model(images(batch=1))[0, 1].abs()
            laid_out = fasterrcnn_reshape_transform(levels)
        signed = ((lost / score)[:, None, None] * laid_out[0]).sum(0)
        expected = image.scale_cam_image(np.maximum(signed[None].numpy(), 0), (16, 16))
        assert_allclose(made, image.scale_cam_image(expected), atol=1e-4)

    def test_of_a_layout_that_mixes_channels_is_refused(self) -> None:
        model, layers, _ = cnn()
        cam = AblationCAM(model, layers[:1], lambda output: output + output.flip(1))
        assert "a reshape_transform that mixes channels" in refusal(cam, LayerError, images(), categories(1, 3))

    def test_of_a_share_of_the_channels(self) -> None:
        """At both ends of the ranking."""
        model, layers, _ = cnn()
        everything = AblationCAM(model, layers[:1])(images(), categories(1, 3))
        half = AblationCAM(model, layers[:1], ratio_channels_to_ablate=0.5)(images(), categories(1, 3))
        assert_allclose(half, everything, atol=1e-6)
        third = AblationCAM(model, layers[:1], ratio_channels_to_ablate=0.34)(images(), categories(1, 3))
        assert abs(third - everything).max() > 0.01
        ranked = AblationLayer().activations_to_be_ablated(np.random.default_rng(0).random((6, 3, 4)), 0.34)
        assert len(set(ranked.tolist())) == 4

    def test_of_no_channels_is_refused(self) -> None:
        model, layers, _ = cnn()
        cam = AblationCAM(model, layers[:1], ratio_channels_to_ablate=0.01)
        assert "of 6 channels is none" in refusal(cam, UsageError, images(), categories(1, 3))
        refused = refusal(AblationCAM, UsageError, model, layers, ratio_channels_to_ablate=2)
        assert refused == "ratio_channels_to_ablate is above 0 and at most 1, got 2"

    def test_says_that_another_layer_only_chooses(self) -> None:
        class Own(AblationLayer):
            pass

        model, layers, _ = cnn()
        with pytest.warns(CamkitWarning, match="the Own given as ablation_layer only chooses"):
            AblationCAM(model, layers, ablation_layer=Own())


def test_full_grad_takes_no_layers() -> None:
    model, layers, _ = cnn()
    expected = FullGrad(model, [])(images(), categories(1, 3))
    assert_allclose(FullGrad(model, layers)(images(), categories(1, 3)), expected)


def test_guided_backpropagation_explains_one_image() -> None:
    model = seeded(SmallCNN())
    guided = GuidedBackpropReLUModel(model)
    with pytest.warns(CamkitWarning, match="of 2 images the first is explained"):
        both = guided(images(), 3)
    assert_allclose(both, guided(images()[:1], 3))
    assert not any(type(module).__name__.startswith("Guided") for module in model.modules())


def test_concepts_on_an_image() -> None:
    model: Any = seeded(SmallCNN())
    model.config = type("Config", (), {"id2label": {number: f"class {number}, x" for number in range(5)}})
    photo = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    shown = run_dff_on_image(model, model.conv2, model.head, photo, images()[0], n_components=3)
    assert shown.shape == (16, 48, 3)
    assert shown.dtype == np.uint8
    assert (shown[:, :16] == photo).all()


def test_more_concepts_than_channels_are_refused() -> None:
    model = seeded(SmallCNN())
    found = DeepFeatureFactorization(model, model.conv2)
    assert "num_concepts is 16" in refusal(found, UsageError, images())


def test_layers_are_found_and_replaced() -> None:
    inner = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    model = nn.Sequential(inner, nn.ReLU(), nn.Dropout())
    assert find_layers.find_layer_types_recursive(model, [nn.ReLU]) == [inner[1], model[1]]
    assert find_layers.find_layer_predicate_recursive(model, lambda each: isinstance(each, nn.Sequential)) == [inner]
    new = nn.Tanh()
    assert find_layers.replace_layer_recursive(model, inner[1], new)
    assert inner[1] is new
    assert not find_layers.replace_layer_recursive(model, nn.ReLU(), new)
    find_layers.replace_all_layer_type_recursive(model, nn.Tanh, nn.GELU())
    assert isinstance(inner[1], nn.GELU)


def test_edges() -> None:
    picture = np.zeros((8, 8, 3), dtype=np.uint8)
    picture[:, 4:] = 200
    edges = sobel_cam(picture)
    assert edges.dtype == np.uint8
    assert (edges[:, 3:5] > 0).all()
    assert not edges[:, :3].any()


def test_boxes_of_a_detector() -> None:
    """Those of another label, or too far off, add nothing; so does a detector that finds nothing."""
    outputs = {
        "boxes": torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]]),
        "labels": torch.tensor([1, 2]),
        "scores": torch.tensor([0.9, 0.8]),
    }
    boxes = [np.array([0.0, 0, 10, 10]), np.array([20.0, 20, 30, 30]), np.array([40.0, 40, 50, 50])]
    assert FasterRCNNBoxScoreTarget([1, 1, 1], boxes)(outputs).item() == pytest.approx(1.9)
    assert FasterRCNNBoxScoreTarget([1, 2, 2], boxes)(outputs).item() == pytest.approx(3.7)
    nothing = {name: each[:0] for name, each in outputs.items()}
    assert FasterRCNNBoxScoreTarget([1], boxes[:1])(nothing).tolist() == [0]
    assert "3 boxes and 1 labels" in refusal(FasterRCNNBoxScoreTarget, UsageError, [1], boxes)


class TestBadPictures:
    """One line each."""

    heat = np.zeros((4, 4), dtype=np.float32)
    photo = np.zeros((4, 4, 3), dtype=np.float32)

    def test_images_that_arent_scaled(self) -> None:
        message = refusal(image.show_cam_on_image, UsageError, self.photo + 255, self.heat)
        assert message == "the image must be floats in [0, 1], its largest value is 255: divide by 255"

    def test_shares(self) -> None:
        message = refusal(image.show_cam_on_image, UsageError, self.photo, self.heat, image_weight=2)
        assert "image_weight is the image's share" in message

    def test_maps_of_another_size_or_range(self) -> None:
        assert "take one map" in refusal(image.show_cam_on_image, UsageError, self.photo, self.heat[None])
        assert "must lie in [0, 1]" in refusal(image.show_cam_on_image, UsageError, self.photo, self.heat + 2)
        assert "concepts, H, W" in refusal(image.show_factorization_on_image, UsageError, self.photo, self.heat)

    def test_black_images_stay_pictures(self) -> None:
        assert image.show_cam_on_image(self.photo, self.heat, image_weight=1.0).max() == 0

    def test_no_image(self) -> None:
        assert "an image is (H, W, C)" in refusal(image.preprocess_image, UsageError, self.photo[None])
        assert "1 channels" in refusal(image.preprocess_image, UsageError, self.heat, mean=[0, 0, 0])

    def test_masks_of_another_size(self) -> None:
        target = SemanticSegmentationTarget(1, self.heat)
        assert "resize it" in refusal(target, UsageError, torch.zeros(3, 5, 5))

    def test_tokens_that_make_no_such_grid(self) -> None:
        message = refusal(vit_reshape_transform, LayerError, torch.zeros(1, 17, 8))
        assert message.startswith("16 tokens behind the first 1 don't make a grid of 14 x 14")
