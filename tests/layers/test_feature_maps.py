"""Feature maps of a forward: activations and every target's gradients are laid out alike."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from tests.helpers.forwards import feature_maps
from tests.helpers.networks import Returns, SmallCNN, SmallViT, seeded

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
TARGETS = [[0, 3, 1, 4], [2, 2, 4, 0]]


def gradients_of(model: nn.Module, layer: str, targets: Any = TARGETS, **how: Any) -> dict[str, Tensor]:
    """All targets' gradients."""
    with feature_maps(model, layer, IMAGES, targets, **how) as found:
        parts = list(found.gradients())
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def one_by_one(model: nn.Module, layer: str) -> dict[str, Tensor]:
    alone = [gradients_of(model, layer, [row[i] for row in TARGETS]) for i in range(4)]
    return {name: torch.cat([each[name] for each in alone]) for name in alone[0]}


class Last(nn.Module):
    """Channels last and a norm that says so; only its output is a layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(5)

    def forward(self, features: Tensor) -> Tensor:
        return self.norm(features.movedim(1, -1)).movedim(-1, 1)


class Both(nn.Module):
    """A map and, of another size, a second one that nothing depends on."""

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return features * 1, nn.functional.avg_pool2d(features, 2)


@pytest.mark.parametrize(
    ("make", "layer", "shapes"),
    [
        (SmallViT, "layers.1.ln1", {"layers.1.ln1": (4, 2, 8, 4, 4)}),
        (lambda: Returns(Last()), "layer.make.norm", {"layer.make.norm": (4, 2, 5, 8, 8)}),
        (
            lambda: Returns(Both()),
            "layer.make",
            {"layer.make[0]": (4, 2, 5, 8, 8), "layer.make[1]": (4, 2, 5, 4, 4)},
        ),
    ],
    ids=["tokens", "channels last", "two branches"],
)
def test_gradients_are_laid_out_for_every_target(make: Any, layer: str, shapes: dict[str, tuple[int, ...]]) -> None:
    model = seeded(make())
    found = gradients_of(model, layer)
    assert {name: tuple(gradient.shape) for name, gradient in found.items()} == shapes
    assert_close(found, one_by_one(model, layer))


def test_a_users_layout_is_asked_for_one_target_after_the_other() -> None:
    shapes = []

    def layout(output: Tensor) -> Tensor:
        shapes.append(tuple(output.shape))
        assert bool(output.isfinite().all())  # which a batched backward's tensors couldn't be asked
        return output

    model = seeded(SmallCNN())
    found = gradients_of(model, "conv2", reshape_transform=layout)
    assert set(shapes) == {(2, 6, 8, 8)}
    assert_close(found, gradients_of(model, "conv2"))


def test_a_branch_that_the_score_does_not_depend_on_has_no_gradient() -> None:
    found = gradients_of(seeded(Returns(Both())), "layer.make")
    assert found["layer.make[0]"].any()
    assert not found["layer.make[1]"].any()


def test_second_derivatives_are_laid_out_too() -> None:
    class Squares(SmallCNN):
        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.conv2(self.conv1(images)).square().mean((2, 3)))

    model = seeded(Squares())
    with feature_maps(model, "conv2", IMAGES, TARGETS) as found:
        made = list(found.curvatures())
        features = found.activations["conv2"]
    assert len(made) == 4
    for target, each in enumerate(made):
        gradients, products = each["conv2"]
        # The score is a sum of weights times squares: a second derivative times the activations is the gradient.
        weights = model.head.weight.detach()[[row[target] for row in TARGETS]]
        assert_close(gradients[0], weights[:, :, None, None] * 2 * features / 64)
        assert_close(products, gradients)


def test_another_forward_is_laid_out_alike() -> None:
    model = seeded(SmallViT())
    with (
        feature_maps(model, "layers.1.ln1", IMAGES, 1) as found,
        feature_maps(model, "layers.1.ln1", IMAGES.flip(3), 1) as other,
    ):
        again = found.of(other.forward)
        assert_close(again.activations, other.activations)
        assert again.layouts == other.layouts


def test_branches_belong_to_the_layer_that_was_asked_for() -> None:
    with feature_maps(seeded(Returns(Both())), ["conv", "layer.make"], IMAGES, 1) as found:
        assert list(found.layers) == ["conv", "layer.make"]
        assert [found.layer_of(branch) for branch in found.activations] == ["conv", "layer.make", "layer.make"]
