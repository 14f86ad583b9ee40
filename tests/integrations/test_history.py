"""Drift between signed maps, and strips that stay short."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from camkit.integrations.history import Strip, drift

MAP = torch.randn(7, 7, generator=torch.Generator().manual_seed(0))


class TestDrift:
    @pytest.mark.parametrize(("now", "expected"), [(MAP, 0), (3 * MAP + 5, 0), (-MAP, 2), (1e-8 * MAP, 0)])
    def test_is_none_for_factors_and_two_where_signs_turn(self, now: Tensor, expected: float) -> None:
        assert drift({"layer": MAP}, {"layer": now}) == pytest.approx(expected, abs=1e-6)

    def test_is_one_less_pearson_s_correlation(self) -> None:
        other = MAP + torch.randn(7, 7, generator=torch.Generator().manual_seed(1))
        expected = 1 - np.corrcoef(MAP.double().flatten(), other.double().flatten())[0, 1]
        assert drift({"layer": MAP}, {"layer": other}) == pytest.approx(expected, rel=1e-6)

    def test_of_unrelated_maps_is_about_one(self) -> None:
        generator = torch.Generator().manual_seed(2)
        found = drift(*({"layer": torch.randn(90, 90, generator=generator)} for _ in range(2)))
        assert found == pytest.approx(1, abs=0.05)

    def test_of_several_layers_is_the_mean(self) -> None:
        found = drift({"one": MAP, "other": MAP}, {"one": MAP, "other": -MAP})
        assert found == pytest.approx(1, abs=1e-6)

    @pytest.mark.parametrize(
        "now",
        [{"layer": torch.full((7, 7), 0.3)}, {"layer": torch.zeros(7, 7)}, {"layer": MAP[:3]}, {"other": MAP}, {}],
    )
    def test_is_unknown_for_maps_without_contrast_or_of_other_layers(self, now: dict[str, Tensor]) -> None:
        assert drift({"layer": MAP}, now) is None


def colour(step: int) -> np.ndarray:
    return np.full((20, 160, 3), step % 251, np.uint8)


def shown(strip: Strip) -> list[int]:
    """The steps whose maps a strip of :func:`colour` shows, from left to right."""
    middle = strip.drawn()[-20, 100::170]
    return [int(each[0]) for each in middle]


class TestStrip:
    @pytest.mark.parametrize("most", [2, 3, 5, 12])
    def test_keeps_the_first_and_the_last_evenly_spread(self, most: int) -> None:
        strip = Strip("cat", "epoch", most)
        for step in range(100):
            strip.add(step, "", colour(step))
            if step in (0, 1, 5, 28, 99):
                steps = shown(strip)
                assert steps[0] == 0
                assert steps[-1] == step
                assert most / 2 - 1 <= len(steps) <= most or len(steps) == step + 1
                gaps = set(np.diff(steps[:-1]).tolist())
                assert len(gaps) <= 1, steps

    def test_shows_all_of_a_few(self) -> None:
        strip = Strip("cat", "epoch", 12)
        for step in (3, 6, 9):
            strip.add(step, "3 three (0.90)", colour(step))
        assert (len(strip), shown(strip)) == (3, [3, 6, 9])

    def test_makes_large_pictures_smaller(self) -> None:
        strip = Strip("cat", "epoch", 12)
        strip.add(1, "", np.zeros((600, 1200, 3), np.uint8))
        assert strip.drawn().shape[1] < 260
