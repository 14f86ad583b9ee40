"""Layouts that the shape alone can't tell are tried out: the image changes in one place, and so must the map."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camkit import CAM
from camkit.errors import LayerError
from camkit.layers.locality import Trial, trials
from tests.helpers.forwards import layout
from tests.helpers.networks import Make, seeded


def images(*size: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0))


def moved(maps: Tensor) -> Tensor:
    return maps.flip(3)


class TestVerdict:
    """Of a trial with one bright place in the changed quarter each."""

    def trial(self, *, right: tuple[int, int] = (1, 6), left: tuple[int, int] = (1, 1), value: float = 1.0) -> Trial:
        outputs = [torch.zeros(1, 3, 8, 8) for _ in range(3)]
        for output, (row, column) in zip(outputs[1:], (right, left), strict=True):
            output[0, :, row, column] = value
        return Trial(*outputs)

    def test_what_changes_where_the_image_does_is_right(self) -> None:
        assert self.trial().verdict(lambda maps: maps) is True

    def test_what_changes_elsewhere_is_wrong(self) -> None:
        assert self.trial().verdict(moved) is False
        assert self.trial(right=(4, 4), left=(4, 3)).verdict(lambda maps: maps) is False

    def test_both_quarters_count(self) -> None:
        assert self.trial(left=(1, 6)).verdict(lambda maps: maps) is False

    def test_a_layer_that_does_not_depend_on_the_image_is_wrong(self) -> None:
        assert self.trial(value=0.0).verdict(lambda maps: maps) is False

    def test_what_changes_all_over_tells_nothing(self) -> None:
        plain = torch.zeros(1, 3, 8, 8)
        assert Trial(plain, plain + 1, plain + 1).verdict(lambda maps: maps) is None

    def test_what_is_not_finite_tells_nothing(self) -> None:
        assert self.trial(value=torch.inf).verdict(lambda maps: maps) is None

    def test_another_shape_is_wrong(self) -> None:
        assert self.trial().verdict(lambda maps: maps.unflatten(0, (2, -1))) is False

    def test_cells_that_a_quarter_cuts_count_in_part(self) -> None:
        plain = torch.zeros(1, 3, 3, 3)
        right, left = plain.clone(), plain.clone()
        right[..., :2, 1:] = torch.tensor([[0.5, 1.0], [0.25, 0.5]]).sqrt()
        left[..., :2, :2] = torch.tensor([[1.0, 0.5], [0.5, 0.25]]).sqrt()
        assert Trial(plain, right, left).verdict(lambda maps: maps) is True


def test_all_layers_are_tried_at_once_and_those_that_dont_run_are_left_out() -> None:
    model = seeded(Between(lambda t: t.flatten(2).mT))
    model.spare = nn.Conv2d(3, 3, 1)
    runs: list[Tensor] = []

    def forward(shown: Tensor) -> Tensor:
        runs.append(shown)
        return model(shown)

    found = trials(dict(model.named_children()), images(16, 16), forward, {})
    assert list(found) == ["patch", "layer"]
    assert len(runs) == 3
    right, left = ((run != runs[0]).any(1)[0] for run in runs[1:])
    quarter = torch.zeros(16, 16, dtype=torch.bool)
    quarter[:8, 8:] = True
    assert torch.equal(right, quarter)
    assert torch.equal(left, quarter.flip(1))
    assert found["patch"].verdict(lambda maps: maps) is True
    assert found["patch"].verdict(moved) is False


class Between(nn.Module):
    """A layer that returns what ``make`` makes of a convolution's output, and a score that depends on it all."""

    def __init__(self, make: Any, patch: tuple[int, int] = (4, 4), channels: int = 16) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, channels, patch, patch)
        self.layer = Make(make)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.layer(self.patch(x))
        return made.flatten(1).unflatten(1, (4, -1)).square().mean(2)


def hottest(model: nn.Module, x: Tensor, layer: str = "layer") -> tuple[float, float]:
    """Centre of the hottest cell, as shares of height and width, for evidence in the lower left corner."""
    bright = x.clone()
    height, width = x.shape[2:]
    bright[:, :, -height // 8 :, : width // 8] += 20
    raw = CAM(model, "EigenCAM", layer).explain(bright, 0).raw[layer][0, 0].abs()
    row, column = divmod(int(raw.argmax()), raw.shape[1])
    return (row + 0.5) / raw.shape[0], (column + 0.5) / raw.shape[1]


@pytest.mark.parametrize(
    ("patch", "size", "grid"),
    [
        ((16, 4), (64, 64), (4, 16)),
        ((32, 8), (128, 128), (4, 16)),
        ((16, 8), (64, 64), (4, 8)),
        ((4, 16), (64, 128), (16, 8)),
        ((8, 32), (64, 256), (8, 8)),
    ],
)
def test_patches_that_are_no_squares(patch: tuple[int, int], size: tuple[int, int], grid: tuple[int, int]) -> None:
    """The grid that the network works on goes before any arithmetic with strides."""
    model = seeded(Between(lambda t: t.flatten(2).mT, patch))
    assert layout(model, "layer", images(*size)).grid == grid
    row, column = hottest(model, images(*size))
    assert row > 0.7
    assert column < 0.3


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("channels", [16, 17])
def test_as_many_channels_as_rows_and_columns(last: bool, channels: int) -> None:
    model = seeded(Between(lambda t: t.movedim(1, -1) if last else t * 1, channels=channels))
    x = images(64, 64)
    assert layout(model, "layer", x).form == ("channels last" if last else "channels first")
    row, column = hottest(model, x)
    assert row > 0.8
    assert column < 0.2


def test_a_convolution_is_channels_first_whatever_its_proportions() -> None:
    class Valid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).square().mean((2, 3))

    # 16 x 30 would be 34 x 64 divided by two.
    found = layout(seeded(Valid()), "conv", images(34, 64))
    assert (found.form, found.grid) == ("channels first", (30, 60))


def scrambled(t: Tensor) -> Tensor:
    """Tokens of a place's four quarters far apart, as hierarchical networks unroll them."""
    return t.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).permute(0, 3, 5, 2, 4, 1).flatten(1, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (scrambled, "tokens don't follow the places of the image"),
        (lambda t: t.flatten(2).mT.roll(128, 1), "tokens don't follow the places of the image"),
        (lambda t: torch.ones_like(t.flatten(2).mT) + 0 * t.mean(), "tokens don't follow the places of the image"),
        (lambda t: (t.flatten(2).mT @ t.flatten(2))[:, None], "no map of a 64x64 input .attention heads or matrices"),
        (lambda t: t.flatten(2).unflatten(1, (4, 4)).transpose(2, 3), "no map of a 64x64 input"),
    ],
    ids=["unrolled", "shifted by half", "not of the image", "attention matrix", "heads by tokens"],
)
def test_what_doesnt_follow_the_image_is_refused(make: Any, message: str) -> None:
    with pytest.raises(LayerError, match=message):
        CAM(seeded(Between(make)), "GradCAM", "layer")(images(64, 64))


def test_maps_unfolded_to_another_shape_are_refused_though_a_norm_says_where_its_channels_are() -> None:
    class Unfolded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 4, 4)
            self.norm = nn.GroupNorm(1, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.conv(x).flatten(2).unflatten(2, (4, -1))).square().mean((2, 3))

    with pytest.raises(LayerError, match="gives .1, 8, 4, 64., no map of a 64x64 input .*tokens rearranged"):
        CAM(seeded(Unfolded()), "GradCAM", "norm")(images(64, 64))


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_a_sequence_in_front_of_the_batch_is_refused_for_every_batch(batch: int) -> None:
    """Also for one that is as large as the sequence is long."""

    class SequenceFirst(Between):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.layer(self.patch(x)).square().mean(0)
            return logits

    model = seeded(SequenceFirst(lambda t: t.flatten(2).permute(2, 0, 1)))
    with pytest.raises(LayerError, match="its first dimension isn't the batch|tokens don't follow the places"):
        CAM(model, "GradCAM", "layer")(images(16, 16, batch=batch), 0)


def test_tokens_without_a_place_in_the_middle_are_refused() -> None:
    class Middle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(3, 8, 4, 4)
            self.token = nn.Parameter(torch.zeros(1, 1, 8))
            self.norm = nn.LayerNorm(8)

        def forward(self, x: Tensor) -> Tensor:
            before, after = self.patch(x).flatten(2).mT.chunk(2, 1)
            logits: Tensor = (
                self.norm(torch.cat([before, self.token.expand(len(x), -1, -1), after], 1)).square().mean(1)
            )
            return logits

    with pytest.raises(LayerError, match="L=17 tokens, and those that don't depend on the image stand between"):
        CAM(seeded(Middle()), "GradCAM", "norm")(images(16, 16))


def test_a_network_that_takes_no_noise_is_still_explained() -> None:
    class Particular(Between):
        def forward(self, x: Tensor) -> Tensor:
            if x.std() < 0.9:  # uniform noise has less
                raise ValueError("that is no photograph")
            return super().forward(x)

    model = seeded(Particular(lambda t: t.flatten(2).mT))
    assert layout(model, "layer", images(64, 64)).grid == (16, 16)
