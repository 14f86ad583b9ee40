"""Draw a signal as a curve whose colour is the heat."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from camkit.errors import UsageError
from camkit.visualize.picture import Picture

if TYPE_CHECKING:
    from torch import Tensor

DOTS = 100
"""Per inch."""


def curve(
    signal: NDArray[np.floating] | Tensor,
    heat: NDArray[np.floating] | Tensor,
    *,
    colormap: str = "jet",
    size: tuple[int, int] = (1200, 300),
    sampling_rate: float | None = None,
) -> Picture:
    """Draw a signal as lines, one below the other for several channels, in the colours of the map.

    Args:
        signal: (L,) or (C, L), in any unit.
        heat: (L,), in [0, 1]: one of the maps of a CAM.
        colormap: one of matplotlib's, by name.
        size: width and height in pixels.
        sampling_rate: samples per second, for an axis in seconds; None counts samples.

    Returns:
        (height, width, 3) uint8, RGB; :func:`camkit.save_picture` writes it.

    Raises:
        UsageError: another shape, a map of another length, or no such colour map.

    Example:
        >>> heat = camkit.GradCAM(network)(signals)[0]
        >>> camkit.curve(signals[0], heat).shape
        (300, 1200, 3)
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

    lines, values = (np.asarray(each.cpu() if hasattr(each, "cpu") else each, dtype=float) for each in (signal, heat))
    lines = np.atleast_2d(lines)
    if lines.ndim != 2 or values.shape != lines.shape[1:] or lines.shape[1] < 2:
        raise UsageError(f"curve draws a signal (L,) or (C, L) and its map (L,), got {lines.shape} and {values.shape}")
    if colormap not in matplotlib.colormaps:
        raise UsageError(f"no colour map {colormap!r}: matplotlib's are meant, such as 'jet' or 'viridis'")
    times = np.arange(lines.shape[1]) / (sampling_rate or 1)
    figure = Figure(figsize=(size[0] / DOTS, size[1] / DOTS), dpi=DOTS, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(len(lines), 1, sharex=True, squeeze=False)[:, 0]
    for each, line in zip(axes, lines, strict=True):
        points = np.stack([times, line], 1)
        between = (values[1:] + values[:-1]) / 2
        pieces = LineCollection(list(np.stack([points[:-1], points[1:]], 1)), cmap=colormap, linewidths=1.5)
        pieces.set_array(between)
        pieces.set_clim(0, 1)
        each.add_collection(pieces)
        each.set_xlim(times[0], times[-1])
        each.set_ylim(*_padded(line))
        each.tick_params(labelsize=8)
    axes[-1].set_xlabel("seconds" if sampling_rate else "samples", fontsize=8)
    canvas.draw()
    drawn: Picture = np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[:, :, :3])
    return drawn


def _padded(line: NDArray[np.floating]) -> tuple[float, float]:
    """The range of a line, with room above and below."""
    low, high = float(line.min()), float(line.max())
    room = 0.05 * (high - low) or 1.0
    return low - room, high + room
