"""What stands out in a run: said first, with its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from camkit.report.clusters import Cluster
from camkit.report.maps import UNIFORM, MapNumbers
from camkit.report.numbers import Calibration, ClassNumbers, Confusion

MOST = 4
"""Findings that are named."""
CLEAR = 0.08
"""A share at the border that is higher than others' by less isn't worth naming, however sure it is."""
APART = 0.2
"""The same of a cluster and its class: clusters are made of maps that lie alike, so some always lie further out."""
FEWEST = 8
"""Fewer maps of a class or cluster say nothing."""
MISCALIBRATED = 0.05
CONFUSED = 0.2
"""Share of a class taken for one other class that is worth naming."""
_Z = 1.959964


@dataclass(frozen=True)
class Finding:
    """Something that stands out.

    Attributes:
        kind: ``border``, ``cluster``, ``confusion`` or ``confidence``.
        category: The class, None where it isn't about one.
        rows: The images that it is about.
        weight: How much it matters among its kind, the largest first.
        values: Figures for the sentence, by name.
    """

    kind: str
    category: int | None
    rows: NDArray[np.int64]
    weight: float
    values: Mapping[str, float]


def find(
    maps: MapNumbers,
    classes: Sequence[ClassNumbers],
    clusters: Mapping[int, Sequence[Cluster]],
    confusions: Sequence[Confusion],
    calibration: Calibration | None,
) -> list[Finding]:
    """What stands out, maps first: they are what only a report can show.

    Args:
        maps: Of all rows.
        classes: All of them.
        clusters: Of some classes' maps, by class.
        confusions: All of them, the most frequent first.
        calibration: None without labels.
    """
    border = sorted(at_border(maps, classes), key=lambda each: -each.weight)
    named = {each.category for each in border}
    parts = [
        max(at_the_border, key=lambda each: each.weight)
        for category, members in clusters.items()
        if category not in named and (at_the_border := _clusters_at_border(maps, category, members))
    ]
    found = [*border[:3], *sorted(parts, key=lambda each: -each.weight)[:2]]
    found += [
        Finding("confusion", each.label, np.array([], dtype=int), each.share, {"predicted": each.predicted})
        for each in confusions[:1]
        if each.share >= CONFUSED and each.count >= FEWEST
    ]
    if calibration is not None and abs(calibration.excess) >= MISCALIBRATED:
        found.append(Finding("confidence", None, np.array([], dtype=int), 0, {"excess": calibration.excess}))
    return found[:MOST]


def at_border(maps: MapNumbers, classes: Sequence[ClassNumbers]) -> list[Finding]:
    """Classes whose maps have clearly more of their sum at the border than all other images' maps."""
    known = [each.rows[maps.there[each.rows]] for each in classes]
    everything = np.concatenate(known) if known else np.array([], dtype=int)
    if len(classes) < 2:
        return []
    return [
        found
        for each, rows in zip(classes, known, strict=True)
        if (found := _stands_out("border", each.category, rows, maps, np.setdiff1d(everything, rows))) is not None
    ]


def _clusters_at_border(maps: MapNumbers, category: int, clusters: Sequence[Cluster]) -> list[Finding]:
    """Clusters that look at the border: more than a uniform map would, and than the rest of their class."""
    everything = np.concatenate([each.rows for each in clusters])
    return [
        found
        for each in clusters
        if (found := _stands_out("cluster", category, each.rows, maps, np.setdiff1d(everything, each.rows))) is not None
        and found.weight >= APART
        and found.values["own"] > UNIFORM
    ]


def _stands_out(
    kind: str, category: int, rows: NDArray[np.int64], maps: MapNumbers, others: NDArray[np.int64]
) -> Finding | None:
    """Whether some rows' share at the border is higher than others': by Welch's 95 % interval of the difference."""
    if len(rows) < FEWEST or len(others) < FEWEST:
        return None
    own, rest = maps.border[rows], maps.border[others]
    difference = own.mean() - rest.mean()
    low = difference - _Z * np.sqrt(own.var(ddof=1) / len(own) + rest.var(ddof=1) / len(rest))
    if low < CLEAR:
        return None
    return Finding(kind, category, rows, float(low), {"own": float(own.mean()), "others": float(rest.mean())})
