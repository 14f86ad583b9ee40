"""The probing forward and backward: what it remembers, what it makes of every kind of layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camkit import CAM
from camkit.errors import LayerError
from camkit.forward import Setup
from camkit.layers import is_norm
from camkit.probe import default_layer, probe
from tests.networks import SmallCNN, SmallViT, seeded

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def counted(model: nn.Module) -> list[int]:
    """Grows by one with every forward of the model's head."""
    runs: list[int] = []
    model.head.register_forward_hook(lambda *_: runs.append(1))
    return runs


class TwoHeads(SmallCNN):
    """One reads the first norm, one the second."""

    def forward(self, images: Tensor) -> Any:
        early = self.norm1(self.conv1(images))
        deep = self.norm2(self.conv2(early.relu()))
        return early.square().mean((2, 3)), deep.square().mean((2, 3))


class TestMemory:
    def test_the_choice_is_remembered_for_the_model(self) -> None:
        model = seeded(SmallCNN())
        runs = counted(model)
        CAM(model, "GradCAM")(IMAGES, 1)
        assert len(runs) == 2  # one probing forward, one for the map
        CAM(model, "LayerCAM")(IMAGES, 3)
        assert len(runs) == 3

    def test_not_for_another_size(self) -> None:
        model = seeded(SmallCNN())
        cam = CAM(model)
        cam(IMAGES)
        runs = counted(model)
        cam(torch.randn(1, 3, 24, 20))
        assert len(runs) == 2

    def test_not_where_the_layer_is_gone(self) -> None:
        model = seeded(SmallCNN())
        assert default_layer(model, IMAGES).name == "norm2"
        model.norm2 = nn.Identity()
        assert default_layer(model, IMAGES).name == "norm1"

    def test_not_for_functions_which_may_look_elsewhere(self) -> None:
        class Joined(TwoHeads):
            def forward(self, images: Tensor) -> Tensor:
                return torch.cat(super().forward(images), 1)

        model = seeded(Joined())
        assert default_layer(model, IMAGES, lambda row: row[0]).name == "norm1"
        assert default_layer(model, IMAGES, lambda row: row[7]).name == "norm2"

    def test_a_choice_that_is_dead_for_other_targets_is_made_anew(self) -> None:
        class Joined(TwoHeads):
            def forward(self, images: Tensor) -> Tensor:
                return torch.cat(super().forward(images), 1)

        model = seeded(Joined())
        assert CAM(model).explain(IMAGES, 7).layers == ("norm2",)
        shallow = CAM(model).explain(IMAGES, 0)
        assert shallow.layers == ("norm1",)
        assert shallow.maps.amax((2, 3)).min() > 0.9

    def test_the_same_cam_looks_again_for_another_function(self) -> None:
        class Joined(TwoHeads):
            def forward(self, images: Tensor) -> Tensor:
                return torch.cat(super().forward(images), 1)

        cam = CAM(seeded(Joined()))
        assert cam.explain(IMAGES, lambda row: row[0]).layers == ("norm1",)
        assert cam.explain(IMAGES, lambda row: row[7]).layers == ("norm2",)

    def test_equal_models_are_told_apart(self) -> None:
        class Equal(SmallCNN):
            def __eq__(self, other: object) -> bool:
                return isinstance(other, Equal)

            def __hash__(self) -> int:
                return 1

        one, other = seeded(Equal()), seeded(Equal())
        other.norm2 = nn.Identity()
        assert [default_layer(model, IMAGES).name for model in (one, other)] == ["norm2", "norm1"]

    def test_models_are_not_kept_alive(self) -> None:
        import gc
        import weakref

        model = seeded(SmallViT())
        CAM(model)(IMAGES)
        alive = weakref.ref(model)
        del model
        gc.collect()
        assert alive() is None


class LinearBatchNorm(nn.Module):
    """As LeViT's: its batch norm sees tokens of all images in one list."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.bn = nn.BatchNorm1d(8)

    def forward(self, tokens: Tensor) -> Tensor:
        normed: Tensor = self.bn(self.linear(tokens).flatten(0, 1)).view_as(tokens)
        return normed


class PreNorm(nn.Module):
    """A block that is named after its norm, and ends in something else."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.mlp = nn.Linear(8, 8)

    def forward(self, tokens: Tensor) -> Tensor:
        mixed: Tensor = self.mlp(self.norm(tokens))
        return mixed


class GRN(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / x.norm(dim=(1, 2), keepdim=True)


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class LinearWithBN(LinearBatchNorm):
    """Named as transformers names it."""


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (LinearBatchNorm(), True),
        (LinearWithBN(), True),
        (PreNorm(), False),
        (GRN(), True),
        (LayerNorm2d(8), True),
        (nn.GroupNorm(2, 8), True),
        (nn.Linear(8, 8), False),
        (nn.Identity(), False),
    ],
)
def test_what_counts_as_a_norm(module: nn.Module, expected: bool) -> None:
    assert is_norm(module) == expected


def test_a_wrapped_norm_is_chosen_where_its_own_batch_is_gone() -> None:
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


def test_a_norm_over_channels_first_is_laid_out_so_even_where_the_sizes_are_equal() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 2, 2)
            self.norm = LayerNorm2d(8)

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.norm(self.stem(images)).square().mean((2, 3))
            return logits

    (found,) = probe(seeded(net := Net()), {"norm": net.norm}, IMAGES)
    assert found.layout is not None
    assert found.layout.form == "channels first"


def test_every_kind_of_layer_has_its_answer() -> None:
    model = seeded(SmallViT(extra=1))
    model.idle = nn.Linear(3, 3)
    layers = {name: module for name, module in model.named_modules() if name}
    found = {each.name: each for each in probe(model, layers, IMAGES)}
    assert "idle" not in found
    assert found["patch"].layout is not None
    assert (found["patch"].shape, found["patch"].layout.grid, found["patch"].live_places) == ((1, 8, 4, 4), (4, 4), 16)
    assert found["layers.0"].is_live
    assert found["layers.0.attention"].shape == (1, 17, 8)
    assert found["layers.1.attention"].live_places == 0
    assert isinstance(found["head"].problem, LayerError)
    assert not found["head"].is_live


def test_a_reshape_transform_is_for_the_layers_given_with_it() -> None:
    model = seeded(SmallViT(extra=1))
    setup = Setup(reshape_transform=lambda output: output[:, 3:])
    assert default_layer(model, IMAGES, setup=setup).name == "layers.1.ln1"


def test_the_default_layer_follows_the_output_that_is_explained() -> None:
    model = seeded(TwoHeads())
    assert default_layer(model, IMAGES, setup=Setup(output=0)).name == "norm1"
    assert default_layer(model, IMAGES, setup=Setup(output=1)).name == "norm2"


class Normalize(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return (images - 0.5) / 0.2


def test_a_wrapper_that_normalises_the_images_is_no_layer() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    assert default_layer(seeded(nn.Sequential(Normalize(), *plain)), IMAGES).name == "2"
    with pytest.raises(LayerError, match="more than one place"):
        default_layer(seeded(nn.Sequential(Normalize(), nn.Identity(), nn.Flatten(), nn.Linear(768, 4))), IMAGES)
