"""Any layer output becomes (batch, channels, *spatial), or is refused with a reason."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from camkit import CAM
from camkit.errors import LayerError, TokenGridError
from camkit.layers.layout import Layout
from camkit.layers.layout import plan as plan_all
from camkit.layers.token_grid import Hints
from tests.helpers.networks import Returns, SmallViT, seeded

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def plan(*arguments: Any, **hints: Any) -> Layout:
    """The layout of a layer with one feature tensor."""
    layouts = plan_all(*arguments, Hints(**hints))
    assert list(layouts) == [arguments[0]]
    return layouts[arguments[0]]


def tokens(grid: tuple[int, ...], extra: int = 0) -> tuple[Tensor, Tensor]:
    """A sequence (2, extra + prod(grid), 3) and the (2, 3, *grid) that it stands for."""
    spatial = torch.randn(2, 3, *grid)
    sequence = spatial.flatten(2).mT
    return torch.cat([torch.full((2, extra, 3), 9.0), sequence], 1), spatial


def images(*size: int) -> Tensor:
    return torch.zeros(2, 3, *size)


@pytest.mark.parametrize(
    ("size", "grid", "extra"),
    [
        ((224, 224), (14, 14), 0),
        ((224, 224), (14, 14), 1),
        ((224, 224), (14, 14), 2),
        ((224, 224), (16, 16), 5),
        ((384, 384), (24, 24), 1),
        ((224, 224), (7, 7), 0),
        ((224, 448), (14, 28), 1),
        ((448, 224), (28, 14), 0),
        ((192, 320), (12, 20), 2),
        ((230, 230), (15, 15), 1),
        ((225, 224), (29, 28), 0),
        ((56, 84), (4, 6), 4),
        ((16, 32, 32), (4, 8, 8), 1),
    ],
)
def test_tokens_find_their_grid(size: tuple[int, ...], grid: tuple[int, ...], extra: int) -> None:
    sequence, spatial = tokens(grid, extra)
    layout = plan("layer", nn.Identity(), sequence, images(*size))
    assert (layout.form, layout.grid, layout.extra_tokens) == ("tokens", grid, (extra, 0))
    assert_close(layout(sequence), spatial)


def test_the_networks_own_count_goes_before_a_guess() -> None:
    # 4 x 4 + 9 tokens, or a grid of 5 x 5: only the network knows.
    sequence, _ = tokens((5, 5))
    assert plan("layer", nn.Identity(), sequence, images(40, 40)).grid == (5, 5)
    assert plan("layer", nn.Identity(), tokens((4, 4), 1)[0], images(64, 64), declared=1).grid == (4, 4)
    # A layer in front of the one that adds the class token has none yet.
    assert plan("layer", nn.Identity(), sequence, images(40, 40), declared=1).extra_tokens == (0, 0)


def test_zero_extra_tokens_is_a_number_too() -> None:
    # 17 * 17 - 1 isn't a square: with 0 taken for "not given", this would fail.
    sequence, spatial = tokens((4, 4))
    layout = plan("layer", nn.Identity(), sequence, images(64, 64), given=0, declared=7)
    assert_close(layout(sequence), spatial)


@pytest.mark.parametrize("given", [2, 0])
def test_tokens_that_make_no_grid_say_what_would_fit(given: int) -> None:
    sequence, _ = tokens((14, 14), 1)
    with pytest.raises(TokenGridError) as error:
        plan("backbone.ln1", nn.Identity(), sequence, images(224, 224), given=given)
    message = str(error.value)
    assert "'backbone.ln1' gives L=197 tokens" in message
    assert (f"without {given} extra tokens" in message) == bool(given)
    assert "would fit: --num-extra-tokens 1 (14x14)" in message


def test_tokens_that_never_fit_say_so() -> None:
    with pytest.raises(
        TokenGridError, match="L=63 tokens.*no number of extra tokens would fit: pass reshape_transform"
    ):
        plan("layer", nn.Identity(), torch.zeros(2, 63, 3), images(21, 21))


@pytest.mark.parametrize("size", [(32, 32), (32, 48)])
def test_channels_last_is_told_by_the_grid(size: tuple[int, int]) -> None:
    grid = (size[0] // 4, size[1] // 4)
    last = torch.randn(2, *grid, 17)
    layout = plan("layer", nn.Identity(), last, images(*size))
    assert (layout.form, layout.grid) == ("channels last", grid)
    assert_close(layout(last), last.permute(0, 3, 1, 2))
    first = torch.randn(2, 17, *grid)
    assert plan("layer", nn.Identity(), first, images(*size)).form == "channels first"


class RmsNorm(nn.Module):
    """A norm that is no subclass of torch's."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class TestNormsTellWhereTheirChannelsAre:
    @pytest.mark.parametrize(
        ("module", "shape", "form"),
        [
            # 8 channels on 8 x 8 places: the shape alone can't tell.
            (nn.LayerNorm(8), (2, 8, 8, 8), "channels last"),
            (nn.BatchNorm2d(8), (2, 8, 8, 8), "channels first"),
            # 16 channels, 8 x 16 places of a 32 x 64 input, and the same exchanged: either would fit.
            (RmsNorm(16), (2, 8, 16, 16), "channels last"),
            (RmsNorm(5), (2, 16, 16, 5), "channels last"),
            (nn.GroupNorm(1, 5), (2, 5, 16, 16), "channels first"),
        ],
    )
    def test_in_four_dimensions(self, module: nn.Module, shape: tuple[int, ...], form: str) -> None:
        size = (32, 64) if shape[1] == 8 and shape[2] == 16 else (32, 32)
        assert plan("layer", module, torch.zeros(shape), images(*size)).form == form

    def test_in_three(self) -> None:
        """(batch, channels, tokens), as one-dimensional batch norms have it."""
        sequence, spatial = tokens((4, 4), 1)
        layout = plan("layer", nn.BatchNorm1d(3), sequence.mT, images(64, 64))
        assert (layout.form, layout.grid, layout.extra_tokens) == ("tokens", (4, 4), (1, 0))
        assert_close(layout(sequence.mT), spatial)

    @pytest.mark.parametrize("norm", [nn.LayerNorm(64), RmsNorm(64)])
    @pytest.mark.parametrize("shape", [(2, 12, 197, 64), (2, 197, 12, 64)])
    def test_norms_of_queries_and_keys_have_no_places(self, norm: nn.Module, shape: tuple[int, ...]) -> None:
        with pytest.raises(LayerError, match=r"'k_norm' gives \(2, .*, 64\), no map of a 224x224 input"):
            plan("k_norm", norm, torch.zeros(shape), images(224, 224))


@pytest.mark.parametrize("extra", [0, 1, 3])
@pytest.mark.parametrize("size", [(16, 16), (16, 32), (32, 16)])
def test_the_map_of_a_token_network_moves_with_the_evidence(extra: int, size: tuple[int, int]) -> None:
    model = seeded(SmallViT(size, extra))
    model.position.data.zero_()
    cam = CAM(model, "EigenCAM", "patch")
    by_tokens = CAM(model, "EigenCAM", "layers.0.ln1")
    x = 0.05 * torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(2))
    for top, left in ((0, 0), (size[0] - 4, 0), (0, size[1] - 4)):
        moved = x.clone()
        moved[:, :, top : top + 4, left : left + 4] += 5
        for each in (cam, by_tokens):
            hottest = int(each.explain(moved, 0).raw[next(iter(each.target_layers(x)))][0, 0].abs().argmax())
            assert divmod(hottest, size[1] // 4) == (top // 4, left // 4)


class TestOneTensorInSomething:
    @pytest.mark.parametrize(
        "make",
        [lambda t: (t,), lambda t: [t], lambda t: {"features": t}, lambda t: (t, 3, None), lambda t: (t.argmax(1), t)],
        ids=["tuple", "list", "dict", "with a number", "behind an index"],
    )
    def test_is_found(self, make: Any) -> None:
        model = seeded(Returns(make))
        expected = CAM(seeded(Returns(lambda t: t)), "GradCAM", "layer")(IMAGES, 1)
        assert_close(CAM(model, "GradCAM", "layer")(IMAGES, 1), expected)

    def test_beside_what_is_no_feature_map(self) -> None:
        pair = seeded(Returns(lambda t: (t, t.mean((2, 3)), t.flatten(2) @ t.flatten(2).mT)))
        made = CAM(pair, "GradCAM", "layer").explain(IMAGES, 1)
        assert made.layers == ("layer",)
        assert_close(made.maps, CAM(pair, "GradCAM", "conv").explain(IMAGES, 1).maps)


class TestSeveralFeatureTensors:
    """A block with a convolutional and a transformer branch returns both."""

    def net(self) -> nn.Module:
        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.both = Returns(lambda t: (t, torch.cat([t.flatten(2).mT[:, :1] * 0, 3 * t.flatten(2).mT], 1)))
                self.head = nn.Linear(5, 4)

            def forward(self, images: Tensor) -> Tensor:
                grid, sequence = self.both.layer(self.both.conv(images))
                logits: Tensor = self.head(grid.square().mean((2, 3)) + sequence.mean(1).tanh())
                return logits

        return seeded(Net())

    def test_have_a_map_each_and_are_fused(self) -> None:
        result = CAM(self.net(), "LayerCAM", "both.layer").explain(IMAGES, 1)
        assert result.layers == ("both.layer[0]", "both.layer[1]")
        assert [tuple(maps.shape) for maps in result.raw.values()] == [(2, 1, 16, 16)] * 2
        alone = [CAM(self.net(), "LayerCAM", name).explain(IMAGES, 1) for name in result.layers]
        for each in alone:
            (name,) = each.layers
            assert_close(each.raw[name], result.raw[name])
        fused = CAM(self.net(), "LayerCAM", list(result.layers)).explain(IMAGES, 1)
        assert_close(fused.maps, result.maps)

    def test_a_number_there_isnt(self) -> None:
        with pytest.raises(LayerError, match=r"layer 'both.layer\[2\]' gives 2 tensors: \[0\] is the first"):
            CAM(self.net(), "GradCAM", "both.layer[2]")(IMAGES, 1)

    def test_none_of_them_a_map(self) -> None:
        model = seeded(Returns(lambda t: (t, t)))
        model.pair = Returns(lambda t: (t.mean((2, 3)), t.amax((2, 3)))).layer
        model.layer.make = lambda t: (t, model.pair(t))
        with pytest.raises(LayerError, match=r"'pair' gives 2 tensors \(\(2, 5\), \(2, 5\)\), none of them a map"):
            CAM(model, "GradCAM", "pair")(IMAGES, 1)


class TestReshapeTransform:
    def test_gets_activations_and_gradients_alike(self) -> None:
        model = seeded(SmallViT((16, 16), 1))
        own = CAM(model, "GradCAM", "layers.1.ln1", reshape_transform=lambda t: t[:, 1:].mT.unflatten(2, (4, 4)))
        x = IMAGES[:, :, :16, :16]
        assert_close(own(x, 1), CAM(model, "GradCAM", "layers.1.ln1")(x, 1))

    def test_may_write_to_what_it_gets(self) -> None:
        model = seeded(Returns(lambda t: t))
        doubled = CAM(model, "EigenCAM", "layer", reshape_transform=lambda output: output.mul_(2))(IMAGES, 1)
        assert_close(doubled, CAM(model, "EigenCAM", "layer")(IMAGES, 1))

    @pytest.mark.parametrize("wrong", [lambda t: t[0], lambda t: 3, lambda t: t.flatten(1), lambda t: t.flatten(2)])
    def test_must_return_batch_channels_and_places(self, wrong: Any) -> None:
        model = seeded(Returns(lambda t: t))
        with pytest.raises(LayerError, match=r"reshape_transform made .* of layer 'layer': it must return .*spatial"):
            CAM(model, "GradCAM", "layer", reshape_transform=wrong)(IMAGES, 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t: t.mean((2, 3)), r"gives \(2, 5\), which has no spatial positions"),
        (lambda t: t.mean((2, 3), keepdim=True), r"has a single position \(grid 1x1\)"),
        (
            lambda t: t.reshape(4, 5, -1, 16),
            r"gives \(4, 5, 8, 16\) for a batch of 2: its first dimension isn't the batch",
        ),
        (lambda t: t[:, :, None], r"gives \(2, 5, 1, 16, 16\) for images \(2, 3, 32, 32\): pass reshape_transform"),
    ],
)
def test_what_cant_be_laid_out_is_refused(make: Any, message: str) -> None:
    with pytest.raises(LayerError, match=f"layer 'layer' {message}"):
        plan("layer", nn.Identity(), make(torch.zeros(2, 5, 16, 16)), IMAGES)


def test_a_layer_without_a_tensor_is_refused() -> None:
    class Counts(nn.Module):
        def forward(self, features: Tensor) -> int:
            return features.shape[1]

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 3)
            self.count = Counts()

        def forward(self, x: Tensor) -> Tensor:
            features = self.conv(x)
            pooled: Tensor = features.mean((2, 3)) * self.count(features)
            return pooled

    with pytest.raises(LayerError, match="'count' gives int, not a floating-point tensor"):
        CAM(Net(), "GradCAM", "count")(IMAGES)


def test_a_layer_that_never_runs_is_refused() -> None:
    model = seeded(Returns(lambda t: t))
    model.spare = nn.Conv2d(3, 3, 1)
    with pytest.raises(LayerError, match="'spare' doesn't run in this forward"):
        CAM(model, "GradCAM", "spare")(IMAGES)


@pytest.mark.parametrize("others", [[], ["conv"]], ids=["alone", "beside one that does"])
def test_a_layer_the_score_doesnt_depend_on_is_refused(others: list[str]) -> None:
    class Aside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 3)
            self.after = nn.Conv2d(5, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            features = self.conv(x)
            logits = features.mean((2, 3))
            self.last = self.after(features)
            return logits

    with pytest.raises(LayerError, match="'after'"):
        CAM(seeded(Aside()), "GradCAM", ["after", *others])(IMAGES)
