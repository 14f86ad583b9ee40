"""Ranks and ties."""

from __future__ import annotations

import torch
from torch.testing import assert_close

from camkit.metrics.ranks import ascending, descending, even_notes, share_of_ties
from tests.metrics.subjects import heats
from tests.oracles import removed

HEAT = torch.tensor([[0.0, 2.0, -0.0], [2.0, 1.0, 0.0]], dtype=torch.float64)


def test_equal_values_go_row_by_row() -> None:
    assert descending(HEAT).tolist() == [1, 3, 4, 0, 2, 5]
    assert ascending(HEAT).tolist() == [0, 2, 5, 4, 1, 3]


def test_ranks_of_a_rectified_map() -> None:
    for heat in heats(9, 7):
        expected = [y * 7 + x for y, x in removed.ordered(heat.numpy())]
        assert descending(heat).tolist() == expected


def test_ties_are_pixels_that_have_their_equal() -> None:
    maps = torch.stack([HEAT, torch.arange(6.0).reshape(2, 3).double(), torch.ones_like(HEAT)])
    assert_close(share_of_ties(maps), torch.tensor([5 / 6, 0, 1], dtype=torch.float64))
    assert even_notes(maps) == {2: "the map is 1 everywhere: its pixels go row by row"}
