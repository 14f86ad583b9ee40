"""What a network tells of its token sequences, in two forwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from camkit.errors import ForwardError
from camkit.layers.survey import noise_like, survey
from tests.helpers.forwards import layout
from tests.helpers.networks import SmallCNN, SmallViT, TakesSize, seeded


def images(*size: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0))


def test_grids_are_those_of_convolutions_and_maybe_of_other_maps() -> None:
    model = seeded(SmallCNN())
    seen = survey(model, images(16, 12), model)
    assert list(seen.grids) == [(8, 6)]
    assert set(seen.other_grids) == {(8, 6), (6, 8)}  # of the ReLU, whose channels may be last
    assert seen.extra_tokens == {}


@pytest.mark.parametrize(("front", "back"), [(0, 0), (1, 0), (0, 1), (2, 3)])
def test_tokens_that_dont_depend_on_the_image_are_counted(front: int, back: int) -> None:
    model = seeded(SmallViT((16, 12), front, back=back))
    seen = survey(model, images(16, 12), model)
    assert list(seen.grids) == [(4, 3)]
    assert seen.extra_tokens == {12 + front + back: (front, back)}


def test_tokens_that_stand_between_others_have_no_count() -> None:
    class Middle(SmallViT):
        def forward(self, x: Tensor) -> Tensor:
            patches = self.patch(x).flatten(2).mT
            tokens = torch.cat([patches[:, :2], self.tokens.expand(len(x), -1, -1), patches[:, 2:]], 1)
            logits: Tensor = self.head(self.norm(tokens).mean(1))
            return logits

    model = seeded(Middle())
    assert survey(model, images(16, 16), model).extra_tokens == {17: None}


def test_a_network_that_takes_no_noise_tells_what_it_told_before() -> None:
    model = seeded(SmallViT())
    calls: list[Any] = []

    def forward(shown: Tensor) -> Tensor:
        calls.append(shown)
        if len(calls) > 1:
            raise ForwardError("that is no photograph")
        made: Tensor = model(shown)
        return made

    seen = survey(model, images(16, 16), forward)
    assert (list(seen.grids), seen.extra_tokens, len(calls)) == ([(4, 4)], {}, 2)


def test_noise_is_in_the_range_of_the_images_and_always_the_same() -> None:
    given = images(8, 8) * 3 - 1
    noise = noise_like(given)
    assert_close(noise, noise_like(given.clone()))
    assert noise.shape == given.shape
    assert given.min() <= noise.min() < noise.max() <= given.max()
    assert noise_like(torch.zeros(1, 3, 8, 8)).std() > 0.1  # also of images that are the same everywhere


class Told(nn.Module):
    """A network that never shows its grid but as an argument."""

    def __init__(self, as_pair: bool) -> None:
        super().__init__()
        self.as_pair = as_pair
        self.block = TakesSize()
        self.norm = nn.LayerNorm(12)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2] // 2, x.shape[3] // 2
        patches = x[:, :, : 2 * height, : 2 * width].unflatten(3, (width, 2)).unflatten(2, (height, 2))
        tokens = patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        tokens = self.block(tokens, (height, width)) if self.as_pair else self.block(tokens, height, width)
        logits: Tensor = self.norm(tokens).square().mean(1)
        return logits


@pytest.mark.parametrize("as_pair", [True, False], ids=["hw_shape", "H, W"])
def test_sizes_that_modules_are_called_with_are_seen(as_pair: bool) -> None:
    model, x = Told(as_pair), images(13, 15, batch=1)
    seen = survey(model, x, model)
    assert (6, 7) in seen.grids
    assert layout(model, "norm", x).grid == (6, 7)


def test_a_table_of_positions_is_no_extra_token() -> None:
    """A module that returns the position embeddings: as long as the sequence, and it doesn't depend on the image."""

    class WithTable(SmallViT):
        def __init__(self) -> None:
            super().__init__((16, 16), 1)
            self.table = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            self.table(self.position)
            return super().forward(x)

    assert layout(seeded(WithTable()), "layers.1.ln1", images(16, 16)).extra_tokens == (1, 0)
