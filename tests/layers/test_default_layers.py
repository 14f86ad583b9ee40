"""The rules by which target layers are chosen where none are named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camkit import CAM
from camkit.engine.network import Network
from camkit.errors import LayerError, TokenGridError
from camkit.layers.default_layers import MOST_RESOLUTIONS, Chosen, Question, choose
from camkit.methods.needs import DefaultLayer
from tests.helpers.forwards import default_layer
from tests.helpers.networks import LinearBatchNorm, PreNorm, SmallCNN, SmallViT, TwoHeads, seeded

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def chosen(model: nn.Module, rule: DefaultLayer, images: Tensor = IMAGES, targets: Any = None) -> Chosen:
    return choose(rule, Question(Network(model), images, targets))


class TestLastNorm:
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
        reason = default_layer(seeded(model), IMAGES).reason
        assert reason == "the last live layer, as no norm layer is spatial and live"
        assert default_layer(seeded(SmallCNN()), IMAGES).reason == "the last norm layer that is spatial and live"

    def test_tokens_given_are_never_passed_over(self) -> None:
        with pytest.raises(TokenGridError, match=r"would fit: --num-extra-tokens 1 \(4x4\)"):
            default_layer(seeded(SmallViT(extra=1)), IMAGES, num_extra_tokens=3)

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
        assert default_layer(model.half(), IMAGES.half()).name == "norm2"

    def test_follows_the_output_that_is_explained(self) -> None:
        model = seeded(TwoHeads())
        assert default_layer(model, IMAGES, output=0).name == "norm1"
        assert default_layer(model, IMAGES, output=1).name == "norm2"

    def test_may_be_a_wrapped_norm_whose_own_batch_is_gone(self) -> None:
        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.patch = nn.Conv2d(3, 8, 4, 4)
                self.first = LinearBatchNorm()
                self.block = PreNorm()
                self.last = LinearBatchNorm()

            def forward(self, images: Tensor) -> Tensor:
                tokens = self.first(self.patch(images).flatten(2).mT)
                logits: Tensor = self.last(self.block(tokens)).square().mean(1)
                return logits

        assert default_layer(seeded(Net()), IMAGES).name == "last"

    def test_is_none_that_only_normalises_the_images(self) -> None:
        class Normalize(nn.Module):
            def forward(self, images: Tensor) -> Tensor:
                return (images - 0.5) / 0.2

        plain = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
        assert default_layer(seeded(nn.Sequential(Normalize(), *plain)), IMAGES).name == "2"
        with pytest.raises(LayerError, match="more than one place"):
            default_layer(seeded(nn.Sequential(Normalize(), nn.Identity(), nn.Flatten(), nn.Linear(768, 4))), IMAGES)


class Windowed(nn.Module):
    """Attention within 2 x 2 windows: they go into the batch and come out of it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 2, 2)
        self.norm = nn.BatchNorm2d(8)
        self.attention = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm(self.stem(images)).permute(0, 2, 3, 1)
        windows = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, 8)
        logits: Tensor = self.head(self.attention(windows).reshape(len(images), -1, 8).mean(1))
        return logits


class TestWindows:
    def test_are_refused_with_the_layers_that_can_be_used(self) -> None:
        message = r"'attention' gives \(32, 4, 8\) for a batch of 2.*window partitions.*; live norm layers: 'norm'; "
        with pytest.raises(LayerError, match=message):
            CAM(seeded(Windowed()), target_layers="attention")(IMAGES)

    def test_are_passed_over_by_default(self) -> None:
        assert list(CAM(seeded(Windowed())).target_layers(IMAGES)) == ["norm"]


class Stages(nn.Module):
    """So many convolutions with a norm and a ReLU each, every one at half the resolution of the one before."""

    def __init__(self, strides: list[int]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(3 if not number else 4, 4, 3, stride, 1) for number, stride in enumerate(strides)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in strides)
        self.head = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            images = norm(conv(images)).relu()
        logits: Tensor = self.head(images.mean((2, 3)))
        return logits


class TestEveryResolution:
    def test_has_the_last_norm_of_each(self) -> None:
        found = chosen(seeded(Stages([1, 2, 1, 2, 1, 1])), DefaultLayer.EVERY_RESOLUTION)
        assert [each.name for each in found.choices] == ["norms.0", "norms.2", "norms.5"]
        assert {each.reason for each in found.choices} == {
            "the last norm layer of its resolution that is spatial and live"
        }

    def test_has_the_last_ones_where_there_are_many(self) -> None:
        images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        found = chosen(seeded(Stages([1, 2, 2, 2, 2, 2])), DefaultLayer.EVERY_RESOLUTION, images)
        assert [each.name for each in found.choices] == [f"norms.{n}" for n in range(6)][-MOST_RESOLUTIONS:]

    def test_has_even_steps_where_there_is_one(self) -> None:
        found = chosen(seeded(Stages([2, *[1] * 7])), DefaultLayer.EVERY_RESOLUTION)
        assert [each.name for each in found.choices] == ["norms.1", "norms.3", "norms.5", "norms.7"]
        assert {each.reason for each in found.choices} == {
            "one of the norm layers, in even steps, that are spatial and live"
        }
        found = chosen(seeded(Stages([2, 1, 1])), DefaultLayer.EVERY_RESOLUTION)
        assert [each.name for each in found.choices] == ["norms.0", "norms.1", "norms.2"]

    def test_is_the_last_norm_where_there_is_one(self) -> None:
        found = chosen(seeded(Stages([2])), DefaultLayer.EVERY_RESOLUTION)
        assert [each.name for each in found.choices] == ["norms.0"]

    def test_is_any_live_layer_where_there_is_no_norm(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        found = chosen(seeded(model), DefaultLayer.EVERY_RESOLUTION)
        assert [each.name for each in found.choices] == ["1"]


class TestLast:
    def test_is_the_last_of_any_kind(self) -> None:
        (found,) = chosen(seeded(SmallCNN()), DefaultLayer.LAST).choices
        assert found == ("relu", "the last layer that is spatial and live")

    def test_none_says_what_to_do(self) -> None:
        with pytest.raises(LayerError, match="more than one place for a 16x16 input"):
            chosen(nn.Sequential(nn.Flatten(), nn.Linear(768, 4)), DefaultLayer.LAST)


class TestOtherSizes:
    """A choice holds for other image sizes, unless a later layer was passed over as its grid is too small or none."""

    @pytest.mark.parametrize("rule", list(DefaultLayer))
    @pytest.mark.parametrize("make", [SmallCNN, SmallViT])
    def test_of_images_lead_to_the_same_layers(self, make: Any, rule: DefaultLayer) -> None:
        assert chosen(seeded(make()), rule).at_any_size

    @pytest.mark.parametrize(("side", "name", "at_any_size"), [(4, "norms.0", False), (16, "norms.1", True)])
    def test_may_make_the_grid_of_a_later_layer_large_enough(self, side: int, name: str, at_any_size: bool) -> None:
        found = chosen(seeded(Stages([2, 2])), DefaultLayer.LAST_NORM, IMAGES[..., :side, :side])
        assert (found.choices[0].name, found.at_any_size) == (name, at_any_size)

    @pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d((1, 1)), nn.AdaptiveMaxPool2d(1)])
    @pytest.mark.parametrize("rule", list(DefaultLayer))
    def test_make_no_places_of_what_pools_everything(self, pool: nn.Module, rule: DefaultLayer) -> None:
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), pool, nn.Flatten(), nn.Linear(4, 2))
        found = chosen(seeded(model), rule)
        assert (found.choices[0].name, found.at_any_size) == ("1", True)

    def test_might_make_places_of_what_comes_behind(self) -> None:
        """That a norm behind the pooling has one place at any size can't be told from its shape."""
        pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4), nn.Flatten())
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), pooled)
        assert not chosen(seeded(model), DefaultLayer.LAST_NORM).at_any_size

    def test_may_make_a_grid_of_tokens_that_make_none(self) -> None:
        class Reduced(SmallViT):
            """Reads a sequence that was cut, behind which there is no grid."""

            def __init__(self) -> None:
                super().__init__(extra=0)
                self.late = nn.LayerNorm(8)

            def forward(self, images: Tensor) -> Tensor:
                features = self.patch(images).flatten(2).mT + self.position
                for layer in self.layers:
                    features = layer(features)
                logits: Tensor = self.head(self.late(self.norm(features)[:, :11]).mean(1))
                return logits

        found = chosen(seeded(Reduced()), DefaultLayer.LAST_NORM)
        assert (found.choices[0].name, found.at_any_size) == ("norm", False)
