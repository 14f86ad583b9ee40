"""Maps that are the same everywhere, of which metrics define what they can't measure."""

from __future__ import annotations

from torch import Tensor


def even_maps(maps: Tensor) -> dict[int, str]:
    """The numbers of the maps (N, H, W) that are the same everywhere, and a line that says so."""
    flat = maps.flatten(1)
    is_even = flat.amin(1) == flat.amax(1)
    return {number: f"the map is {float(flat[number, 0]):g} everywhere" for number in is_even.nonzero()[:, 0].tolist()}
