"""Charts as coordinates: the template draws them as SVG, in the page's own colours."""

from __future__ import annotations

from dataclasses import dataclass

from camkit.report.numbers import Calibration

SIDE = 200
"""Of the chart's square, in its own units."""
_COUNTS = 40
"""Height of the bars below."""


@dataclass(frozen=True)
class CalibrationChart:
    """The calibration curve, and bars of how many images there are at each confidence.

    Attributes:
        points: x, y and radius of each bin's point.
        line: The curve through them, as SVG's ``points``.
        bars: x, y, width and height of each bin's bar.
        text: What the chart shows, in words.
    """

    points: list[tuple[float, float, float]]
    line: str
    bars: list[tuple[float, float, float, float]]
    text: str


def calibration_chart(found: Calibration) -> CalibrationChart:
    """The chart of a calibration."""
    most = int(found.count.max())
    points, bars = [], []
    for confidence, accuracy, count in zip(found.confidence, found.accuracy, found.count, strict=True):
        x = round(SIDE * float(confidence), 1)
        points.append((x, round(SIDE * (1 - float(accuracy)), 1), 2.0 + 3.0 * (int(count) / most) ** 0.5))
        height = round(_COUNTS * int(count) / most, 1)
        bars.append((round(x - 4, 1), round(_COUNTS - height, 1), 8.0, height))
    said = "; ".join(
        f"at {confidence:.0%} confidence {accuracy:.0%} are right ({count} images)"
        for confidence, accuracy, count in zip(found.confidence, found.accuracy, found.count, strict=True)
    )
    return CalibrationChart(points, " ".join(f"{x},{y}" for x, y, _ in points), bars, f"Calibration: {said}")
