"""Colour maps by name, and the palette."""

from __future__ import annotations

import cv2
import pytest

from camkit.errors import UsageError
from camkit.visualize.colours import COLORMAPS, PALETTE, concept_colour, find_colormap


def test_colour_maps_are_opencvs_in_any_case() -> None:
    assert find_colormap("jet") == find_colormap("JET") == cv2.COLORMAP_JET
    assert find_colormap("viridis") == cv2.COLORMAP_VIRIDIS
    assert len(COLORMAPS) > 20


def test_unknown_colour_maps_are_refused() -> None:
    with pytest.raises(UsageError, match=r"no colour map 'jett'; closest: jet.*; there are: autumn, "):
        find_colormap("jett")
    with pytest.raises(UsageError, match="colormap is a name such as 'jet', got 2"):
        find_colormap(2)


def test_concepts_have_colours_of_their_own() -> None:
    colours = [concept_colour(number) for number in range(1, 15)]
    assert tuple(colours[:7]) == PALETTE
    assert len(set(colours)) == 14
    assert all(sum(dark) < sum(light) for light, dark in zip(colours[:7], colours[7:], strict=True))
