"""What ``camkit evaluate`` left beside a run: metrics with their intervals."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from camkit.datasets.reading import Run

NAME = "metrics.json"
FORMAT, VERSION = "camkit metrics", 1


@dataclass(frozen=True)
class Metrics:
    """The table of metrics.

    Attributes:
        text: What it shows.
        columns: Titles.
        rows: Of each cell what is shown, and the value to sort by.
    """

    text: str
    columns: tuple[str, ...]
    rows: list[list[tuple[str, Any]]]


def read_metrics(run: Run) -> tuple[Metrics | None, str]:
    """A run's metrics, None where there are none; and why they can't be shown, empty where they can."""
    content = run.read(NAME)
    if content is None:
        return None, ""
    try:
        told = json.loads(content, parse_constant=_refuse)
        if told["format"] != FORMAT:
            raise ValueError(told["format"])
        if int(told["version"]) > VERSION:
            return None, f"{NAME} was written by a newer camkit and isn't shown: pip install -U camkit"
        return _table(told), ""
    except (ValueError, KeyError, TypeError, AttributeError):
        return None, f"{NAME} is damaged and isn't shown: camkit evaluate --run makes it again"


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _table(told: Mapping[str, Any]) -> Metrics:
    controls = set(told["controls"])
    rows = [
        _row(metric, about["better"], method, values, is_control=method in controls)
        for metric, about in told["metrics"].items()
        for method, values in about["methods"].items()
    ]
    text = (
        "Made by camkit evaluate: mean over images with its 95% bootstrap interval. Controls are maps that know "
        "nothing of the network: a metric that can't tell a method from them says nothing about it."
    )
    return Metrics(text, ("Metric", "Method", "Mean", "95% interval", "Better", "Images", "Beside the controls"), rows)


def _row(
    metric: str, better: str, method: str, values: Mapping[str, Any], *, is_control: bool
) -> list[tuple[str, Any]]:
    mean, low, high, count = float(values["mean"]), values["low"], values["high"], int(values["count"])
    interval = "one image" if low is None else f"{float(low):.3f} to {float(high):.3f}"
    said = "control" if is_control else str(values.get("verdict") or "")
    return [
        (metric, metric),
        (method, method),
        (f"{mean:.3f}", mean),
        (interval, mean if low is None else low),
        (better, better),
        (f"{count:,}", count),
        (said, said),
    ]
