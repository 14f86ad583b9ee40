"""How time grows with batch, categories, layers and image size; straight lines through the medians."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.speed.contestants import Question, Subject, contestant, plain
from benchmarks.speed.isolated import isolated
from benchmarks.speed.networks import NETWORKS, build, images
from benchmarks.speed.timing import interleaved


@dataclass(frozen=True)
class Axis:
    """What is varied.

    Attributes:
        name: of the axis.
        unit: one step of it.
        values: where it is measured.
    """

    name: str
    unit: str
    values: tuple[int, ...]


FULL = (
    Axis("batch", "image", (1, 2, 4, 8, 16)),
    Axis("categories", "category", (1, 10, 25, 50, 75, 100)),
    Axis("layers", "layer", (1, 3, 5, 7, 9)),
    Axis("image size", "megapixel", (112, 160, 224, 288, 352)),
)
QUICK = (Axis("batch", "image", (1, 2, 4)), Axis("categories", "category", (1, 10, 50)))
SMOKE = (Axis("batch", "image", (1, 2, 4)),)

GRADCAM = Question("GradCAM")
BLOCKS = tuple(f"layer3.{block}" for block in range(6)) + tuple(f"layer4.{block}" for block in range(3))
"""The first is always a target: the backward is as long with one layer as with nine."""


def scaling(axes: Sequence[Axis], network: str, rounds: int, device: str) -> list[dict[str, Any]]:
    """One row per axis and contestant."""
    rows = []
    for axis in axes:
        print(f"time against {axis.name}", flush=True)
        rows += isolated(along, axis, network, rounds, device)
    return rows


def along(axis: Axis, network: str, rounds: int, device: str = "cpu") -> list[dict[str, Any]]:
    """Time a plain forward and GradCAM at every value of an axis, and fit."""
    xs = [value**2 / 1e6 if axis.name == "image size" else float(value) for value in axis.values]
    contestants = [
        each for of in _subjects(axis, network, device) for each in (plain(of), contestant("camkit", GRADCAM, of))
    ]
    # All values take turns: a machine that gets slower meanwhile would tilt the line.
    times = interleaved(contestants, (rounds, rounds), seconds=0, device=device)
    points: dict[str, list[float]] = {}
    for each, taken in zip(contestants, times, strict=True):
        points.setdefault(each.who, []).append(statistics.median(taken.seconds))
    return [
        {"axis": axis.name, "unit": axis.unit, "network": NETWORKS[network].title, "who": who, "x": xs, "seconds": ys}
        | fit(xs, ys)
        for who, ys in points.items()
    ]


def _subjects(axis: Axis, network: str, device: str) -> Iterator[Subject]:
    model, source = build(network, device), NETWORKS[network].source
    for value in axis.values:
        batch = images(
            network,
            value if axis.name == "batch" else 1,
            device,
            size=value if axis.name == "image size" else None,
        )
        layers: tuple[str, ...] = (source.late,)
        if axis.name == "layers":
            layers = tuple(f"{source.late.removesuffix(BLOCKS[-1])}{block}" for block in BLOCKS[:value])
        with torch.inference_mode():
            count = value if axis.name == "categories" else 1
            likeliest = model(batch).topk(count).indices.tolist()
        yield Subject(model, batch, layers, likeliest, None)


def fit(xs: Sequence[float], ys: Sequence[float]) -> dict[str, float]:
    """The least-squares line, and how much of the variance it explains."""
    slope, intercept = np.polyfit(xs, ys, 1)
    rest = np.var(np.asarray(ys) - (slope * np.asarray(xs) + intercept))
    return {"slope": float(slope), "intercept": float(intercept), "r2": float(1 - rest / np.var(ys))}
