"""Draw a comparison: curves with their intervals, and means where there are none, methods against controls."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from camkit.metrics.comparison import Comparison
from camkit.metrics.registry import find_metric

if TYPE_CHECKING:
    from camkit.visualize.picture import Picture

DOTS = 100
COLUMNS = 3
PANEL = (4.6, 3.4)
"""Width and height in inches."""
_GREYS = ("0.25", "0.45", "0.6", "0.72")
_DASHES = ("--", ":", "-.", (0, (1, 3)))


def plot(comparison: Comparison) -> Picture:
    """Draw every curve of every metric in a panel, with bands of 95 % over images; means of metrics without one.

    Methods are coloured lines, controls grey and dashed ones.

    Args:
        comparison: what :func:`camkit.metrics.compare` returns.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [(metric, curve) for metric in comparison.metrics for curve in _curves(comparison, metric) or [""]]
    columns = min(COLUMNS, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * lines + 0.5), dpi=DOTS, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, (metric, curve) in zip(grid, panels, strict=False):
        # What is better is said of the metric; of a curve that it is computed from the opposite may hold.
        about = f": {curve}" if curve else f" ({find_metric(metric).better} is better)"
        axes.set_title(f"{metric}{about}", fontsize=9)
        axes.tick_params(labelsize=8)
        (_draw_curve if curve else _draw_means)(axes, comparison, metric, curve)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    handles = [_handle(comparison, name) for name in _names(comparison)]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6), fontsize=8, frameon=False)
    canvas.draw()
    drawn: Picture = np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[:, :, :3])
    return drawn


def _curves(comparison: Comparison, metric: str) -> list[str]:
    """The curves of a metric that run along an axis: parts of a formula and drawn samples don't, nor does one point."""
    values = next(iter(comparison.values[metric].values()))
    if values.steps is None or len(values.steps) < 2:
        return []
    return [name for name, curve in values.curves.items() if curve.shape[1] == len(values.steps)]


def _draw_curve(axes: Any, comparison: Comparison, metric: str, curve: str) -> None:
    for name in _names(comparison):
        band = comparison.band(metric, name, curve)
        style = _style(comparison, name)
        steps = band.steps.numpy()
        axes.plot(steps, band.mean.numpy(), linewidth=1.6, **style)
        axes.fill_between(steps, band.low.numpy(), band.high.numpy(), color=style["color"], alpha=0.15, linewidth=0)
    axes.set_xlim(float(steps[0]), float(steps[-1]))


def _draw_means(axes: Any, comparison: Comparison, metric: str, curve: str) -> None:
    names = _names(comparison)
    for place, name in enumerate(names):
        summary = comparison.summary(metric, name)
        colour = _style(comparison, name)["color"]
        if summary.low is not None:
            axes.plot([summary.low, summary.high], [place, place], color=colour, linewidth=2)
        axes.plot([summary.mean], [place], "o", color=colour, markersize=5)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.5, -0.5)


def _names(comparison: Comparison) -> list[str]:
    return [*comparison.methods, *comparison.controls]


def _style(comparison: Comparison, name: str) -> dict[str, Any]:
    if name in comparison.controls:
        number = list(comparison.controls).index(name) % len(_GREYS)
        return {"color": _GREYS[number], "linestyle": _DASHES[number]}
    return {"color": f"C{comparison.methods.index(name) % 10}", "linestyle": "-"}


def _handle(comparison: Comparison, name: str) -> Any:
    from matplotlib.lines import Line2D

    label = f"{name} (control)" if name in comparison.controls else name
    return Line2D([], [], linewidth=1.6, label=label, **_style(comparison, name))
