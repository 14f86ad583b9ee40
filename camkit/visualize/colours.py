"""Colours: OpenCV's colour maps by name, and a palette for concepts and families of methods."""

from __future__ import annotations

from camkit.errors import UsageError, closest
from camkit.visualize.opencv import cv2

COLORMAPS: dict[str, int] = {
    name.removeprefix("COLORMAP_").lower(): getattr(cv2, name) for name in dir(cv2) if name.startswith("COLORMAP_")
}
"""OpenCV's colour maps by lower-case name."""
PALETTE = (
    (213, 94, 0),
    (86, 180, 233),
    (240, 228, 66),
    (0, 158, 115),
    (204, 121, 167),
    (0, 114, 178),
    (230, 159, 0),
)
"""Okabe and Ito's palette, RGB, safe for the colour-blind; ordered so that neighbours differ most."""
_SHADE = 0.55  # each round through the palette is darker by this factor


def find_colormap(name: str) -> int:
    """OpenCV's constant for the colour map ``name``, in any case.

    Raises:
        UsageError: There is no colour map of that name.
    """
    if not isinstance(name, str):
        raise UsageError(f"colormap is a name such as 'jet', got {name!r}")
    if name.lower() not in COLORMAPS:
        raise UsageError(f"no colour map {name!r}{closest(name, COLORMAPS)}; there are: {', '.join(COLORMAPS)}")
    return COLORMAPS[name.lower()]


def concept_colour(number: int) -> tuple[int, int, int]:
    """The RGB colour of concept ``number``, counted from 1: the palette, then the palette in darker shades."""
    lap, place = divmod(number - 1, len(PALETTE))
    red, green, blue = (round(each * _SHADE**lap) for each in PALETTE[place])
    return red, green, blue
