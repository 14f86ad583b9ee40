"""A layout found at one image size is a rule for the next: arithmetic alone, and the same layout as found anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close

from camkit import CAM
from camkit.engine.cache import cache_of
from camkit.errors import LayerError
from camkit.layers.layout import map_layout, token_layout
from camkit.layers.layout_finder import Rule
from tests.helpers.forwards import count_forwards, layout
from tests.helpers.networks import AnySizeViT, Returns, SmallCNN, SmallViT, seeded


def images(*size: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0))


def random_images(count: int, low: int = 16, high: int = 80, seed: int = 0) -> Iterator[Tensor]:
    """Single images of random sizes."""
    drawn = Random(seed)
    for _ in range(count):
        yield images(drawn.randint(low, high), drawn.randint(low, high), batch=1)


class TestCost:
    def test_the_network_is_surveyed_and_tried_once(self) -> None:
        model = seeded(SmallViT((16, 24), 2))
        runs = count_forwards(model)
        layout(model, "layers.1.ln1", images(16, 24))
        assert len(runs) == 1 + 2 + 3
        layout(model, "layers.1.ln1", images(16, 24))
        assert len(runs) == 7
        assert layout(model, "layers.1.ln1", images(16, 24, batch=3)).grid == (4, 6)
        assert len(runs) == 8

    def test_a_survey_is_shared_by_layers(self) -> None:
        model = seeded(AnySizeViT())
        layout(model, "layers.1.ln1", images(16, 24))
        runs = count_forwards(model)
        layout(model, "layers.0.ln1", images(16, 24))
        assert len(runs) == 1 + 3

    def test_what_the_type_tells_needs_no_trial(self) -> None:
        model = seeded(SmallCNN())
        runs = count_forwards(model)
        layout(model, "norm2", images(16, 24))
        assert runs == [2, 1]  # one look whether it works on a turned image
        layout(model, "norm2", images(24, 16))
        assert runs == [2, 1, 2]


@pytest.mark.parametrize("make", [SmallCNN, AnySizeViT, lambda: AnySizeViT(extra=0)], ids=["cnn", "vit", "mean"])
class TestManySizes:
    def test_cost_no_more_forwards_than_one(self, make: Callable[[], nn.Module]) -> None:
        model = seeded(make())
        cam = CAM(model, "EigenCAM")  # none of whose maps is empty, so that no other layer is looked for
        first, *others = random_images(200)
        cam(first, 1)
        known = len(cache_of(model))
        runs = count_forwards(model)
        for each in others:
            assert cam(each, 1).shape == (1, *each.shape[2:])
        assert runs == [1] * len(others)
        assert len(cache_of(model)) == known

    def test_have_the_maps_of_a_model_that_knows_none(self, make: Callable[[], nn.Module]) -> None:
        model = seeded(make()).double()
        for each in random_images(15):
            found = CAM(model, "LayerCAM").explain(each, 1)
            alone = CAM(seeded(make()).double(), "LayerCAM").explain(each, 1)
            assert found.layers == alone.layers
            assert_close((found.maps, found.raw), (alone.maps, alone.raw))


class Stem(nn.Module):
    """Convolutions that may round the image's sides in their own way, then tokens, some in front without a place."""

    def __init__(self, *stem: nn.Module, extra: int = 0, pad: int = 1) -> None:
        super().__init__()
        self.stem, self.pad = nn.Sequential(*stem), pad
        self.tokens = nn.Parameter(torch.zeros(1, extra, 8))
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def grid(self, x: Tensor) -> tuple[int, ...]:
        return tuple(self.features(x).shape[2:])

    def features(self, x: Tensor) -> Tensor:
        made: Tensor = self.stem(functional.pad(x, (0, -x.shape[3] % self.pad, 0, -x.shape[2] % self.pad)))
        return made

    def forward(self, x: Tensor) -> Tensor:
        sequence = torch.cat([self.tokens.expand(len(x), -1, -1), self.features(x).flatten(2).mT], 1)
        logits: Tensor = self.head(self.norm(sequence).square().mean(1))
        return logits


def conv(kernel: int, stride: int, padding: int = 0, *, first: bool = False) -> nn.Module:
    return nn.Conv2d(3 if first else 8, 8, kernel, stride, padding)


STEMS: dict[str, Callable[[], Stem]] = {
    "patches, rounded down": lambda: Stem(conv(4, 4, first=True), extra=1),
    "patches, rounded up": lambda: Stem(conv(4, 4, first=True), extra=1, pad=4),
    "overlapping patches": lambda: Stem(conv(7, 4, 3, first=True), conv(3, 2, 1), extra=2),
    "down, then up": lambda: Stem(conv(4, 4, first=True), conv(3, 2, 1)),
    "unpadded": lambda: Stem(conv(3, 2, first=True), conv(3, 2), extra=1),
    "unpadded, odd stride": lambda: Stem(conv(5, 3, first=True), extra=3),
    "up, then pooled up": lambda: Stem(conv(4, 4, first=True), nn.MaxPool2d(2, 2, ceil_mode=True), pad=4),
}


@pytest.mark.parametrize("stem", STEMS)
class TestStems:
    def test_grids_are_the_networks_own(self, stem: str) -> None:
        model = seeded(STEMS[stem]())
        for each in random_images(40, 24):
            found = layout(model, "norm", each)
            assert (found.grid, found.extra_tokens) == (model.grid(each), (model.tokens.shape[1], 0))

    def test_cost_a_survey_once(self, stem: str) -> None:
        model = seeded(STEMS[stem]())
        layout(model, "norm", images(64, 72))
        runs = count_forwards(model)
        for each in random_images(25, 24):
            layout(model, "norm", each)
        assert runs == [1] * 25


class TestRule:
    """By hand, of a layout at one size."""

    def tokens(self, places: int, extra: int = 0) -> Tensor:
        return torch.zeros(2, places + extra, 8)

    def rule(self, size: tuple[int, ...], grid: tuple[int, ...], extra: int = 0) -> Rule:
        shape = tuple(self.tokens(torch.Size(grid).numel(), extra).shape)
        return Rule.of(token_layout(shape, grid, (extra, 0), index=0, along=1, is_sure=True), size)

    def test_is_itself_at_its_own_size(self) -> None:
        rule = self.rule((224, 224), (14, 14), 1)
        assert rule.at(self.tokens(196, 1), (224, 224)) is rule
        assert rule.at(torch.zeros(5, 197, 8), (224, 224)) is rule  # of another batch

    @pytest.mark.parametrize(
        ("size", "grid"), [((224, 448), (14, 28)), ((448, 224), (28, 14)), ((256, 256), (16, 16)), ((96, 160), (6, 10))]
    )
    def test_leads_to_the_grid_of_another_size(self, size: tuple[int, int], grid: tuple[int, int]) -> None:
        found = self.rule((224, 224), (14, 14), 1).at(self.tokens(grid[0] * grid[1], 1), size)
        assert found is not None
        assert (found.layout.grid, found.layout.extra_tokens, found.layout.form) == (grid, (1, 0), "tokens")
        values = torch.randn(2, 1 + grid[0] * grid[1], 8)
        assert_close(found.layout(values), values[:, 1:].mT.unflatten(2, grid))

    def test_is_narrowed_by_every_size(self) -> None:
        rule = self.rule((224, 224), (14, 14))
        assert {stride: 0 in offsets for stride, offsets in rule.strides.items()} == {15: True, 16: True, 17: False}
        found = rule.at(self.tokens(28 * 14), (448, 224))
        assert found is not None
        assert {stride: 0 in offsets for stride, offsets in found.strides.items()} == {15: False, 16: True}

    @pytest.mark.parametrize("places", [195, 48, 1])
    def test_does_not_apply_to_tokens_that_its_stride_does_not_give(self, places: int) -> None:
        assert self.rule((224, 224), (14, 14)).at(self.tokens(places), (224, 224)) is None

    def test_does_not_choose_between_grids(self) -> None:
        """Strides from 10 to 15 give 2 x 2 of 30 x 30; of 32 x 60 the one gives 3 x 6, others 2 x 6 and 3 x 4."""
        rule = self.rule((30, 30), (2, 2))
        assert rule.at(self.tokens(12), (32, 60)) is None
        found = rule.at(self.tokens(8), (32, 60))
        assert found is not None
        assert found.layout.grid == (2, 4)

    def test_makes_no_grid_of_images_that_are_smaller_than_its_stride(self) -> None:
        rule = self.rule((224, 224), (2, 2))
        for places in (1, 2, 3, 4):
            assert rule.at(self.tokens(places), (20, 70)) is None

    def test_found_anew_goes_on_from_the_earlier_one(self) -> None:
        before = self.rule((30, 30), (2, 2))
        layout = token_layout((2, 12, 8), (3, 4), (0, 0), index=0, along=1, is_sure=True)
        found = Rule.of(layout, (32, 60), before)
        assert set(found.strides) < set(before.strides)
        # Where no stride explains both, what was seen last counts.
        apart = Rule.of(token_layout((2, 196, 8), (14, 14), (0, 0), index=0, along=1, is_sure=True), (32, 32), before)
        assert apart.strides == self.rule((32, 32), (14, 14)).strides

    def test_of_a_map_keeps_its_channels_where_they_are(self) -> None:
        for axis, shape in ((1, (2, 7, 8, 12)), (3, (2, 8, 12, 7))):
            rule = Rule.of(map_layout(shape, index=0, axis=axis), (64, 96))
            grown = torch.zeros(tuple(2 * side if side > 7 else side for side in shape))
            found = rule.at(grown, (128, 192))
            assert found is not None
            assert (found.layout.grid, found.layout.axis) == ((16, 24), axis)

    def test_of_a_map_does_not_apply_where_nothing_is_left(self) -> None:
        rule = Rule.of(map_layout((2, 7, 2, 3), index=0, axis=1), (64, 96))
        assert rule.at(torch.zeros(2, 7, 1, 1), (32, 32)) is None

    def test_of_a_map_does_not_apply_to_one_out_of_proportion(self) -> None:
        rule = Rule.of(map_layout((2, 7, 8, 12), index=0, axis=1), (64, 96))
        assert rule.at(torch.zeros(2, 7, 4, 48), (128, 192)) is None


def test_a_layout_that_is_not_sure_is_found_anew_at_every_size() -> None:
    class Even(SmallViT):
        """Attends to all places alike, so that trials tell nothing."""

        def forward(self, x: Tensor) -> Tensor:
            patches = self.patch(x).flatten(2).mT
            logits: Tensor = self.head(self.norm(patches.mean(1, keepdim=True).expand_as(patches) * 1).mean(1))
            return logits

    model = seeded(Even(extra=0))
    for size in ((16, 24), (24, 16), (34, 46)):
        assert layout(model, "norm", images(*size)).grid == (size[0] // 4, size[1] // 4)


def test_branches_have_rules_of_their_own() -> None:
    model = seeded(Returns(lambda t: (t, torch.cat([t[:, :, :1, :1].flatten(2).mT * 0, t.flatten(2).mT], 1))))
    cam = CAM(model, "LayerCAM", "layer")
    cam(images(16, 24), 1)
    runs = count_forwards(model)
    for size in ((24, 16), (33, 47)):
        found = cam.explain(images(*size), 1)
        grid = ((size[0] + 1) // 2, (size[1] + 1) // 2)
        assert {name: tuple(raw.shape[2:]) for name, raw in found.raw.items()} == dict.fromkeys(found.layers, grid)
        assert len(found.layers) == 2
    assert runs == [2, 2]


def test_a_number_of_tokens_given_has_a_rule_of_its_own() -> None:
    model = seeded(AnySizeViT(extra=1))
    assert layout(model, "layers.1.ln1", images(16, 16)).extra_tokens == (1, 0)
    with pytest.raises(LayerError, match="without 2 extra tokens"):
        layout(model, "layers.1.ln1", images(16, 16), num_extra_tokens=2)
    assert layout(model, "layers.1.ln1", images(16, 24), num_extra_tokens=1).grid == (4, 6)


def test_a_users_layout_is_asked_every_time() -> None:
    asked: list[tuple[int, ...]] = []

    def mine(output: Any) -> Tensor:
        asked.append(tuple(output.shape))
        made: Tensor = output[:, 1:].mT.unflatten(2, (4, -1))
        return made

    model = seeded(AnySizeViT())
    for size in ((16, 16), (16, 24)):
        assert layout(model, "layers.1.ln1", images(*size), reshape_transform=mine).grid == (4, size[1] // 4)
    assert {shape[1] for shape in asked} == {17, 25}
