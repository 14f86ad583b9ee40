"""A transformer's blocks: which modules they are, and for which images they are remembered."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camkit import CAM
from camkit.engine.network import Network
from camkit.errors import LayerError
from camkit.layers.attention_blocks import attention_blocks, blocks_within
from tests.helpers.forwards import count_forwards
from tests.helpers.networks import AnySizeViT, SmallCNN, SmallViT, TorchEncoder, seeded, timm_swin
from tests.helpers.refusals import refusal

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LARGE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
METHODS = ("LeGrad", "AttentionRollout", "GradientRollout")


def found(model: nn.Module, images: Tensor = IMAGES, **how: Any) -> list[str]:
    return list(attention_blocks(Network(model, **how), images))


class TestFound:
    @pytest.mark.parametrize(
        ("make", "names"),
        [(SmallViT, ["layers.0", "layers.1"]), (TorchEncoder, ["encoder.layers.0", "encoder.layers.1"])],
    )
    def test_are_elements_of_lists_with_one_attention_each(self, make: Any, names: list[str]) -> None:
        assert found(seeded(make())) == names

    def test_come_in_the_order_of_execution(self) -> None:
        class Backwards(SmallViT):
            def forward(self, images: Tensor) -> Tensor:
                features = self.patch(images).flatten(2).mT
                for layer in reversed(self.layers):
                    features = layer(features)
                logits: Tensor = self.head(features.mean(1))
                return logits

        assert found(seeded(Backwards())) == ["layers.1", "layers.0"]

    def test_outside_of_lists_are_the_outermost_modules_with_one_attention(self) -> None:
        class Plain(SmallViT):
            def __init__(self) -> None:
                super().__init__()
                self.early, self.late = self.layers
                del self.layers

            def forward(self, images: Tensor) -> Tensor:
                logits: Tensor = self.head(self.late(self.early(self.patch(images).flatten(2).mT)).mean(1))
                return logits

        assert found(seeded(Plain())) == ["early", "late"]

    def test_at_several_resolutions_are_those_of_the_last(self) -> None:
        class Pyramid(SmallViT):
            def forward(self, images: Tensor) -> Tensor:
                features = self.layers[0](self.patch(images).flatten(2).mT)
                logits: Tensor = self.head(self.layers[1](features[:, ::2]).mean(1))
                return logits

        assert found(seeded(Pyramid())) == ["layers.1"]

    def test_none_in_a_network_without_attention(self) -> None:
        message = refusal(attention_blocks, LayerError, Network(seeded(SmallCNN())), IMAGES)
        assert "this network has no attention at all: use LayerCAM or GradCAM" in message

    def test_none_where_all_share_a_module(self) -> None:
        class Shared(SmallViT):
            def __init__(self) -> None:
                super().__init__()
                self.layers = nn.ModuleList([self.layers[0]])

            def forward(self, images: Tensor) -> Tensor:
                features = self.patch(images).flatten(2).mT
                for _ in range(2):
                    features = self.layers[0](features)
                logits: Tensor = self.head(features.mean(1))
                return logits

        message = refusal(CAM(seeded(Shared()), "LeGrad"), LayerError, IMAGES)
        assert message.startswith("several attentions share the module")

    @pytest.mark.frameworks
    def test_none_that_attend_within_windows(self) -> None:
        images = nn.functional.interpolate(LARGE, scale_factor=2)
        for method in METHODS:
            message = refusal(CAM(seeded(timm_swin(64)), method), LayerError, images)
            assert "this network attends only within windows or to other tokens (4 times): use LayerCAM" in message

    @pytest.mark.frameworks
    def test_with_a_window_that_is_all_there_is(self) -> None:
        made = CAM(seeded(timm_swin()), "LeGrad").explain(LARGE, 1)
        assert made.layers == ("layers.1.blocks.0", "layers.1.blocks.1")
        assert made.raw["attention"].shape == (2, 1, 4, 4)


class TestMemory:
    def test_one_image_runs_once(self) -> None:
        model = seeded(SmallViT())
        runs = count_forwards(model)
        found(model)
        found(model, torch.zeros(1, 3, 16, 16))
        assert runs == [1, 1]  # the image, and noise

    def test_a_call_of_a_cam_runs_once(self) -> None:
        model = seeded(SmallViT())
        CAM(model, "GradientRollout")(IMAGES, 1)
        runs = count_forwards(model)
        CAM(model, "GradientRollout")(IMAGES, 1)
        assert runs == [2]

    def test_holds_for_images_of_any_size(self) -> None:
        model = seeded(AnySizeViT())
        found(model)
        runs = count_forwards(model)
        for size in ((16, 24), (32, 20), (48, 48)):
            assert found(model, torch.randn(1, 3, *size)) == ["layers.0", "layers.1"]
        assert runs == []

    def test_does_not_hold_for_other_sizes_where_attention_has_several_resolutions(self) -> None:
        class Pooled(AnySizeViT):
            """Pools the tokens of large images between the blocks."""

            def forward(self, images: Tensor) -> Tensor:
                features = self.layers[0](self.patch(images).flatten(2).mT)
                if features.shape[1] > 16:
                    features = features[:, ::4]
                logits: Tensor = self.head(self.layers[1](features).mean(1))
                return logits

        model = seeded(Pooled())
        assert found(model, LARGE) == ["layers.1"]
        runs = count_forwards(model)
        assert found(model, IMAGES) == ["layers.0", "layers.1"]
        assert runs == [1, 1]

    def test_all_images_run_where_arguments_belong_to_them(self) -> None:
        class Weighted(SmallViT):
            def forward(self, images: Tensor, weights: Any = ()) -> Tensor:
                assert len(weights) == len(images)
                return super().forward(images)

        assert found(seeded(Weighted()), forward_kwargs={"weights": [1, 2]}) == ["layers.0", "layers.1"]

    def test_ends_when_the_network_changes(self) -> None:
        model = seeded(SmallViT())
        assert CAM(model, "LeGrad").explain(IMAGES, 1).layers == ("layers.0", "layers.1")
        model.layers = model.layers[:1]
        assert CAM(model, "GradientRollout").explain(IMAGES, 1).layers == ("layers.0",)


class TestWithin:
    NAMES = ("early", "layers.0", "layers.1", "layers.10")

    @pytest.mark.parametrize(
        ("layers", "expected"),
        [
            (["layers"], ["layers.0", "layers.1", "layers.10"]),
            (["layers.1"], ["layers.1"]),
            (["layers.10", "early"], ["early", "layers.10"]),
        ],
    )
    def test_layers_that_hold_some(self, layers: list[str], expected: list[str]) -> None:
        assert blocks_within(self.NAMES, layers, or_all=False) == expected

    def test_layers_that_hold_none(self) -> None:
        message = refusal(blocks_within, LayerError, self.NAMES, ["norm"], or_all=False)
        assert message.startswith("no attention block in 'norm': leave target layers out for all blocks, or name some:")
        assert "'layers.0', 'layers.1'" in message
        assert blocks_within(self.NAMES, ["norm"], or_all=True) == list(self.NAMES)

    def test_layers_of_a_cam(self) -> None:
        model = seeded(SmallViT())
        made = CAM(model, "LeGrad", "layers.1").explain(IMAGES, 1)
        assert made.layers == ("layers.1",)
        assert CAM(model, "LeGrad", "layers").explain(IMAGES, 1).layers == ("layers.0", "layers.1")
        assert not torch.allclose(made.maps, CAM(model, "LeGrad")(IMAGES, 1)[:, None], atol=1e-3)
        assert "no attention block in 'norm'" in refusal(CAM(model, "LeGrad", "norm"), LayerError, IMAGES)
