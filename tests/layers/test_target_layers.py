"""Target layers: what is remembered of default ones, for which images, and when they are chosen anew."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from camkit import CAM, Logit
from camkit.engine.network import Network
from camkit.errors import LayerError, UsageError
from camkit.layers.target_layers import TargetLayers
from camkit.methods.needs import DefaultLayer
from tests.helpers.forwards import count_forwards
from tests.helpers.networks import SmallCNN, SmallViT, TwoHeads, seeded
from tests.helpers.refusals import refusal

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
RULE = DefaultLayer.LAST_NORM


class Joined(TwoHeads):
    """Classes 0 to 5 read the first norm, 6 to 11 the second."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat(super().forward(images), 1)


def names(model: nn.Module, images: Tensor = IMAGES, targets: Any = None, **how: Any) -> list[str]:
    return [layer.name for layer in TargetLayers(Network(model, **how)).resolve(RULE, images, targets)]


class TestMemory:
    def test_the_choice_is_remembered_for_the_model(self) -> None:
        model = seeded(SmallCNN())
        runs = count_forwards(model)
        CAM(model, "GradCAM")(IMAGES, 1)
        assert runs == [1, 1, 2]  # two probing forwards, one for the map
        CAM(model, "LayerCAM")(IMAGES, 3)
        assert runs == [1, 1, 2, 2]

    def test_for_other_sizes_too(self) -> None:
        model = seeded(SmallCNN())
        cam = CAM(model)
        cam(IMAGES)
        runs = count_forwards(model)
        cam(torch.randn(1, 3, 24, 20))
        assert runs == [1]

    def test_not_for_other_sizes_where_the_grid_of_a_later_layer_was_too_small(self) -> None:
        class Deep(SmallCNN):
            def __init__(self) -> None:
                super().__init__()
                self.late = nn.Sequential(nn.Conv2d(6, 6, 3, 8, 1), nn.BatchNorm2d(6))

            def forward(self, images: Tensor) -> Tensor:
                early = self.norm1(self.conv1(images)).relu()
                logits: Tensor = self.head(self.late(early).mean((2, 3)))
                return logits

        model = seeded(Deep())
        small, large = IMAGES, torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        assert [names(model, images) for images in (small, large, small)] == [["norm1"], ["late.1"], ["norm1"]]
        runs = count_forwards(model)
        assert [names(model, images) for images in (small, large)] == [["norm1"], ["late.1"]]
        assert runs == []
        # What was chosen for large images holds for others, down to those for which it has no places.
        medium = torch.randn(1, 3, 32, 48)
        assert CAM(model).explain(medium, 1).layers == ("late.1",)
        assert runs == [1]
        fresh = seeded(Deep())
        assert names(fresh, large) == ["late.1"]
        assert CAM(fresh).explain(small, 1).layers == ("norm1",)

    def test_not_where_the_layer_is_gone(self) -> None:
        model = seeded(SmallCNN())
        assert names(model) == ["norm2"]
        model.norm2 = nn.Identity()
        assert names(model) == ["norm1"]

    def test_not_for_another_rule_output_or_arguments(self) -> None:
        class Switched(TwoHeads):
            def forward(self, images: Tensor, head: int | None = None) -> Any:
                return super().forward(images) if head is None else super().forward(images)[head]

        model = seeded(Switched())
        assert [names(model, output=output) for output in (0, 1)] == [["norm1"], ["norm2"]]
        assert [names(model, forward_kwargs={"head": head}) for head in (0, 1)] == [["norm1"], ["norm2"]]
        layers = TargetLayers(Network(seeded(SmallCNN())))
        found = [layers.resolve(rule, IMAGES, None) for rule in (RULE, DefaultLayer.LAST)]
        assert [layer.name for (layer,) in found] == ["norm2", "relu"]

    def test_not_for_functions_that_pick_the_output(self) -> None:
        model = seeded(TwoHeads())
        assert names(model, output=lambda made: made[0]) == ["norm1"]
        assert names(model, output=lambda made: made[1]) == ["norm2"]

    def test_not_for_functions_which_may_look_elsewhere(self) -> None:
        model = seeded(Joined())
        assert names(model, targets=lambda row: row[0]) == ["norm1"]
        assert names(model, targets=lambda row: row[7]) == ["norm2"]

    def test_for_the_same_function_within_a_cam(self) -> None:
        def deep(row: Tensor) -> Tensor:
            return row[7]

        model = seeded(Joined())
        layers = TargetLayers(Network(model))
        layers.resolve(RULE, IMAGES, deep)
        runs = count_forwards(model)
        assert [layer.name for layer in layers.resolve(RULE, IMAGES, deep)] == ["norm2"]
        assert runs == []

    def test_not_for_the_same_function_where_a_module_was_replaced(self) -> None:
        model = seeded(SmallCNN())
        cam, first = CAM(model), Logit(1)
        assert list(cam.target_layers(IMAGES, first)) == ["norm2"]
        model.norm2 = nn.Identity()
        assert list(cam.target_layers(IMAGES, first)) == ["norm1"]

    def test_the_same_cam_looks_again_for_another_function(self) -> None:
        cam = CAM(seeded(Joined()))
        assert cam.explain(IMAGES, lambda row: row[0]).layers == ("norm1",)
        assert cam.explain(IMAGES, lambda row: row[7]).layers == ("norm2",)


class TestReplaced:
    @pytest.mark.parametrize("by", ["name", "module"])
    def test_a_named_layer_is_the_module_of_that_name_at_the_time_of_the_call(self, by: str) -> None:
        model = seeded(SmallCNN())
        cam = CAM(model, target_layers="conv2" if by == "name" else model.conv2)
        cam(IMAGES)
        model.conv2 = seeded(nn.Conv2d(6, 6, 3, padding=1), seed=1)
        assert_close(cam(IMAGES), CAM(model, target_layers="conv2")(IMAGES), rtol=0, atol=0)

    def test_one_that_is_gone_is_refused_with_those_that_are_there(self) -> None:
        model = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), flat=nn.Flatten()))
        cam = CAM(seeded(model), target_layers="norm")
        cam(IMAGES)
        del model.norm
        assert "no layer 'norm'" in refusal(cam, UsageError, IMAGES)


class TestChosenAnew:
    def test_for_targets_for_which_it_is_dead(self) -> None:
        model = seeded(Joined())
        assert CAM(model).explain(IMAGES, 7).layers == ("norm2",)
        shallow = CAM(model).explain(IMAGES, 0)
        assert shallow.layers == ("norm1",)
        assert shallow.maps.amax((2, 3)).min() > 0.9

    def test_is_another_or_none(self) -> None:
        layers = TargetLayers(Network(seeded(Joined())))
        chosen = layers.resolve(RULE, IMAGES, 7)
        assert layers.resolve_again(chosen, RULE, IMAGES, 7) is None
        again = layers.resolve_again(chosen, RULE, IMAGES, 0)
        assert again is not None
        assert [layer.name for layer in again] == ["norm1"]

    def test_is_none_that_the_user_named_or_that_are_frozen(self) -> None:
        model = seeded(Joined())
        for layers in (
            TargetLayers(Network(model), "norm2"),
            TargetLayers(Network(model)).freeze({RULE: ["norm2"]}),
        ):
            chosen = layers.resolve(RULE, IMAGES, 0)
            assert [layer.name for layer in chosen] == ["norm2"]
            assert layers.resolve_again(chosen, RULE, IMAGES, 0) is None


class TestFrozen:
    def test_layers_are_those_of_all_images(self) -> None:
        model = seeded(SmallCNN())
        layers = TargetLayers(Network(model))
        frozen = layers.freeze({RULE: ["norm1"]})
        assert [layer.name for layer in frozen.resolve(RULE, IMAGES, None)] == ["norm1"]
        assert [layer.name for layer in layers.resolve(RULE, IMAGES, None)] == ["norm2"]

    def test_layers_are_those_of_one_rule(self) -> None:
        frozen = TargetLayers(Network(seeded(SmallCNN()))).freeze({RULE: ["norm1"]})
        assert [layer.name for layer in frozen.resolve(DefaultLayer.LAST, IMAGES, None)] == ["relu"]

    def test_layers_that_the_user_named_stay(self) -> None:
        frozen = TargetLayers(Network(seeded(SmallCNN())), "conv1").freeze({RULE: ["norm1"]})
        assert [layer.name for layer in frozen.resolve(RULE, IMAGES, None)] == ["conv1"]


def test_layers_that_were_named_have_no_reason() -> None:
    network = Network(seeded(SmallCNN()))
    named, by_default = TargetLayers(network, ["conv1", "relu"]), TargetLayers(network)
    assert (named.names, by_default.names) == (["conv1", "relu"], None)
    assert [layer.reason for layer in named.resolve(RULE, IMAGES, None)] == ["", ""]
    assert [layer.reason for layer in by_default.resolve(RULE, IMAGES, None)] == [
        "the last norm layer that is spatial and live"
    ]


@pytest.mark.parametrize("number", [-1, 1.5, "1"])
def test_extra_tokens_are_counted(number: Any) -> None:
    message = refusal(TargetLayers, UsageError, Network(SmallCNN()), num_extra_tokens=number)
    assert message == f"num_extra_tokens is a number of tokens, got {number!r}"


def test_unusable_layers_are_refused_with_those_that_can_be_used() -> None:
    with pytest.raises(LayerError, match=r"'head' gives \(2, 5\), which .*; live norm layers: 'norm1', 'norm2';"):
        CAM(seeded(SmallCNN()), target_layers="head")(IMAGES)


def test_a_reshape_transform_is_for_the_layers_given_with_it() -> None:
    layers = TargetLayers(Network(seeded(SmallViT(extra=1))), reshape_transform=lambda output: output[:, 3:])
    assert [layer.name for layer in layers.resolve(RULE, IMAGES, None)] == ["layers.1.ln1"]
