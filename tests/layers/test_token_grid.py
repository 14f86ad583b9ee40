"""Tokens to a grid: what the network tells goes before what their number allows."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from camkit import CAM
from camkit.errors import TokenGridError
from camkit.layers.layout import plan
from camkit.layers.survey import Survey
from camkit.layers.token_grid import Hints, is_strided, misfit, token_grids
from tests.helpers.forwards import layout
from tests.helpers.networks import SmallViT, TakesSize, seeded


def images(*size: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("front", "back"), list(product((0, 1, 3, 12), (0, 1, 10))))
def test_tokens_that_dont_depend_on_the_image_have_no_place(front: int, back: int) -> None:
    """Class, distillation and register tokens, in front or at the back, however many."""
    model = seeded(SmallViT((16, 24), front, back=back))
    found = layout(model, "layers.1.ln1", images(16, 24))
    assert (found.grid, found.extra_tokens) == ((4, 6), (front, back))


@pytest.mark.parametrize(("front", "back"), [(1, 0), (0, 1), (2, 3)])
@pytest.mark.parametrize("size", [(16, 32), (32, 16)])
def test_the_map_moves_with_the_evidence(front: int, back: int, size: tuple[int, int]) -> None:
    model = seeded(SmallViT(size, front, back=back))
    model.position.data.zero_()
    cam = CAM(model, "EigenCAM", "layers.0.ln1")
    x = 0.05 * images(*size, batch=1)
    for top, left in ((0, 0), (size[0] - 4, 0), (0, size[1] - 4)):
        moved = x.clone()
        moved[:, :, top : top + 4, left : left + 4] += 5
        hottest = int(cam.explain(moved, 0).raw["layers.0.ln1"][0, 0].abs().argmax())
        assert divmod(hottest, size[1] // 4) == (top // 4, left // 4)


class Overlapping(nn.Module):
    """A stem whose sides round differently, as PVT's does: down by 4, then up by 2, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 4, 4), *[nn.Conv2d(8, 8, 3, 2, 1) for _ in range(2)])
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.norm(self.stem(x).flatten(2).mT).square().mean(1)
        return logits


@pytest.mark.parametrize("size", [(223, 239), (239, 223), (68, 64), (64, 68), (190, 225)])
def test_the_networks_own_grid_where_rounding_leaves_a_choice(size: tuple[int, int]) -> None:
    model = seeded(Overlapping())
    x = images(*size)
    assert layout(model, "norm", x).grid == tuple(model.stem(x).shape[2:])


class Video(nn.Module):
    """Frames in pairs, 4 x 4 patches; class token; then the sequence is pooled in space alone, as MViT's is."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv3d(3, 8, (2, 4, 4), (2, 4, 4))
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.early, self.late = nn.LayerNorm(8), nn.LayerNorm(8)
        self.block = TakesSize()

    def forward(self, x: Tensor) -> Tensor:
        features = self.patch(x)
        tokens = self.early(torch.cat([self.token.expand(len(x), -1, -1), features.flatten(2).mT], 1))
        places = tokens[:, 1:].mT.unflatten(2, features.shape[2:])
        pooled = nn.functional.avg_pool3d(places, (1, 2, 2))
        mixed = torch.cat([tokens.mean(1, keepdim=True), pooled.flatten(2).mT], 1)
        logits: Tensor = self.late(self.block(mixed, tuple(pooled.shape[2:]))).square().mean(1)
        return logits


@pytest.mark.parametrize("size", [(16, 32, 32), (16, 32, 48), (8, 56, 56)])
def test_frames_have_a_stride_of_their_own(size: tuple[int, int, int]) -> None:
    model, x = seeded(Video()), images(*size, batch=1)
    frames, height, width = size[0] // 2, size[1] // 4, size[2] // 4
    for layer, grid in (("early", (frames, height, width)), ("late", (frames, height // 2, width // 2))):
        found = layout(model, layer, x)
        assert (found.grid, found.extra_tokens) == (grid, (1, 0))


def test_channels_last_of_a_video() -> None:
    x = torch.zeros(1, 3, 8, 64, 96)
    for output, form in (
        (torch.zeros(1, 4, 2, 3, 768), "channels last"),
        (torch.zeros(1, 768, 4, 2, 3), "channels first"),
    ):
        assert plan("layer", nn.Identity(), output, x)["layer"].form == form


def test_what_was_seen_goes_before_the_smallest_number_that_fits() -> None:
    # 4 x 4 and three tokens, two in front: the network knows.
    seen = Survey(extra_tokens={19: (2, 1)})
    assert token_grids("layer", 19, (64, 64), Hints(survey=lambda: seen))[0] == ((2, 1), (4, 4), True)


def test_a_grid_that_could_be_another_is_refused_rather_than_guessed() -> None:
    # A stride of 6.5 gives 4 x 10, rounded down and up; one of 7 gives 5 x 8, rounded up and down.
    with pytest.raises(TokenGridError, match="make no grid"):
        token_grids("layer", 40, (32, 60), Hints(given=0))
    for grid in ((4, 10), (5, 8)):
        hints = Hints(given=0, survey=lambda grid=grid: Survey({grid: None}))
        assert token_grids("layer", 40, (32, 60), hints)[0] == ((0, 0), grid, True)


@pytest.mark.parametrize(
    ("grid", "size", "badness"),
    [
        ((7, 14), (224, 448), 0),
        ((14, 7), (224, 448), 2),
        ((8, 6), (225, 190), 1),
        ((5, 6), (224, 224), 2),
        ((13, 12), (121, 122), 2),
    ],
)
def test_misfit(grid: tuple[int, int], size: tuple[int, int], badness: int) -> None:
    assert misfit(grid, size) == badness


def test_maps_of_tokens_at_the_back_are_those_of_the_same_tokens_in_front() -> None:
    """Attention doesn't care where a token stands."""
    front, back = seeded(SmallViT((16, 16), 1, back=2)), seeded(SmallViT((16, 16), 3))
    back.load_state_dict({name: each for name, each in front.state_dict().items() if name not in MOVED}, strict=False)
    back.tokens.data = torch.cat([front.tokens, front.behind], 1)
    place = front.position.data
    back.position.data = torch.cat([place[:, :1], place[:, -2:], place[:, 1:-2]], 1)
    x = images(16, 16)
    for method in ("GradCAM", "EigenCAM"):
        assert_close(CAM(front, method)(x, 1), CAM(back, method)(x, 1))


MOVED = {"tokens", "behind", "position"}


@pytest.mark.parametrize(
    ("grid", "size", "expected"),
    [
        ((7, 14), (224, 448), True),
        ((14, 7), (224, 448), False),
        ((8, 6), (225, 190), True),  # 28.1 and 31.7: by 30, up and down
        ((5, 8), (32, 60), True),
        ((6, 9), (32, 60), False),
        ((2, 7, 14), (8, 224, 448), True),
        ((3, 14, 7), (8, 224, 448), False),
    ],
)
def test_a_whole_stride(grid: tuple[int, ...], size: tuple[int, ...], expected: bool) -> None:
    assert is_strided(grid, size) is expected
