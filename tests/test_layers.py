"""Names to modules, and the default layer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from camkit import CAM
from camkit.errors import LayerError, TokenGridError, UsageError
from camkit.forward import Setup
from camkit.layers import layer_names, resolve
from camkit.probe import default_layer, probe
from tests.networks import SmallCNN, SmallViT, seeded

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_names_and_modules_are_the_same_layer() -> None:
    model = seeded(SmallCNN())
    assert resolve(model, ["norm1", model.conv2]) == {"norm1": model.norm1, "conv2": model.conv2}
    assert resolve(model, "relu") == resolve(model, model.relu)
    assert layer_names(model) == ["conv1", "norm1", "conv2", "norm2", "relu", "dropout", "head"]


def test_a_shared_module_answers_to_all_its_names() -> None:
    model = seeded(SmallCNN())
    model.alias = model.norm1
    assert list(CAM(model, target_layers="alias").target_layers(IMAGES)) == ["alias"]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            "norm3",
            r"no layer 'norm3'; closest: norm\d, norm\d; top-level layers: conv1, .*list all with: camkit layers",
        ),
        (["norm1", "norm1"], "target layer 'norm1' is given twice"),
        ([], "no target layer given"),
        ([nn.ReLU()], "the ReLU given as target layer is not a submodule of the model"),
        (5, "target layers are dotted names or modules, got int"),
        ([3], "a target layer is a dotted name or a module of the model, got int"),
    ],
)
def test_layers_that_arent_there(layers: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CAM(SmallCNN(), target_layers=layers)


def test_a_compiled_or_parallel_model_keeps_its_own_names() -> None:
    model = seeded(SmallCNN())
    assert list(CAM(nn.DataParallel(model), target_layers="norm1").target_layers(IMAGES)) == ["norm1"]


class TestDefaultLayer:
    def test_is_the_last_norm_of_a_cnn(self) -> None:
        assert default_layer(seeded(SmallCNN()), IMAGES).name == "norm2"

    @pytest.mark.parametrize("extra", [1, 4])
    def test_is_in_front_of_the_last_attention_where_only_the_class_token_is_read(self, extra: int) -> None:
        assert default_layer(seeded(SmallViT(extra=extra)), IMAGES).name == "layers.1.ln1"

    def test_is_the_last_norm_where_all_tokens_are_read(self) -> None:
        assert default_layer(seeded(SmallViT(extra=0)), IMAGES).name == "norm"

    def test_is_sought_in_the_backbone_only(self) -> None:
        model = nn.Sequential()
        model.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        model.neck = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        assert default_layer(seeded(model), IMAGES).name == "backbone.1"

    def test_is_any_live_layer_where_there_is_no_norm(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        assert default_layer(seeded(model), IMAGES).name == "1"

    def test_skips_norms_without_places(self) -> None:
        pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4), nn.Flatten(), nn.LayerNorm(4))
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), pooled)
        assert default_layer(seeded(model), IMAGES).name == "1"

    def test_follows_execution_not_registration(self) -> None:
        class Backwards(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.last, self.first = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

            def forward(self, images: Tensor) -> Tensor:
                logits: Tensor = self.last(self.first(images).relu()).mean((2, 3))
                return logits

        assert default_layer(seeded(Backwards()), IMAGES).name == "last"

    def test_a_score_that_depends_on_no_place_is_refused(self) -> None:
        model = seeded(SmallCNN())
        model.head.weight.data.zero_()
        with pytest.raises(LayerError, match="depends on no place of any spatial layer .*: check the weights"):
            default_layer(model, IMAGES)

    def test_says_why_it_was_chosen(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        assert default_layer(seeded(model), IMAGES).why == "the last live layer, as no norm layer is spatial and live"
        assert default_layer(seeded(SmallCNN()), IMAGES).why == "the last norm layer that is spatial and live"

    def test_tokens_given_are_never_passed_over(self) -> None:
        with pytest.raises(TokenGridError, match=r"would fit: --num-extra-tokens 1 \(4x4\)"):
            default_layer(seeded(SmallViT(extra=1)), IMAGES, setup=Setup(num_extra_tokens=3))

    def test_none_says_what_to_do(self) -> None:
        with pytest.raises(LayerError, match="more than one place for a 16x16 input.*flattened"):
            default_layer(nn.Sequential(nn.Flatten(), nn.Linear(768, 4)), IMAGES)

    def test_is_found_with_the_targets_asked_for(self) -> None:
        class Places(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.norm = nn.BatchNorm2d(3)

            def forward(self, images: Tensor) -> Tensor:
                return self.norm(images)

        def second(output: Tensor) -> Tensor:
            return output[1].mean()

        cam = CAM(seeded(Places()))
        cam(IMAGES, second)
        assert list(cam.target_layers(IMAGES, second)) == ["norm"]

    def test_of_a_half_precision_network_is_the_same(self) -> None:
        model = seeded(SmallCNN())
        model.head.weight.data *= 1e-5
        assert default_layer(model.half(), IMAGES).name == "norm2"

    def test_is_found_once(self) -> None:
        model = seeded(SmallCNN())
        cam = CAM(model)
        cam(IMAGES)
        runs: list[int] = []
        handle = model.head.register_forward_hook(lambda *_: runs.append(1))
        cam(IMAGES)
        handle.remove()
        assert len(runs) == 1


def test_live_counts_places_not_tokens() -> None:
    model = seeded(SmallViT(extra=1))
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)}
    found = probe(model, layers, IMAGES)
    assert [each.name for each in found if each.is_live] == ["layers.0.ln1", "layers.0.ln2", "layers.1.ln1"]
    assert [each.live_places for each in found] == [16, 16, 16, 0, 0]
