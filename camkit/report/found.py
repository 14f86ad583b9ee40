"""All that a report says of a run, before it is laid out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from camkit.report.clusters import Cluster
from camkit.report.findings import Finding
from camkit.report.maps import MapNumbers
from camkit.report.numbers import Calibration, ClassNumbers, Confusion
from camkit.report.pictures import Budget, Drawn
from camkit.report.rows import Rows


@dataclass(frozen=True)
class Found:
    """All that a report says, before it is laid out.

    Attributes:
        rows: The images.
        method: Whose maps are shown.
        maps: Numbers of theirs.
        classes: All classes that have images.
        confusions: All of them.
        calibration: None without labels.
        clusters: Of the maps of some classes, by class, the ones that matter most first.
        findings: What stands out.
        aspect: Width over height of the network's input.
    """

    rows: Rows
    method: str
    maps: MapNumbers
    classes: Sequence[ClassNumbers]
    confusions: Sequence[Confusion]
    calibration: Calibration | None
    clusters: Mapping[int, Sequence[Cluster]]
    findings: Sequence[Finding]
    aspect: float


def aspect_of(rows: Rows) -> float:
    """Width over height of the inputs, the middle one where they differ."""
    table = rows.run.table
    height, width = (np.asarray(table[name].to_numpy(), dtype=float) for name in ("input_height", "input_width"))
    found: NDArray[np.float64] = width / height
    return float(np.median(found))


def own_map(rows: Rows, row: int, drawn: Drawn) -> list[bytes]:
    """The picture of the map that a row is judged by."""
    if not drawn.maps:
        return []
    return [drawn.maps[min(int(rows.target[row]), len(drawn.maps) - 1)]]


def captioned(budget: Budget, pictures: Sequence[bytes], captions: Sequence[str]) -> list[dict[str, str]]:
    """Pictures with their captions; none where there is no room for all of them."""
    sources = budget.take(pictures)
    if sources is None:
        return []
    return [{"src": src, "caption": caption} for src, caption in zip(sources, captions, strict=True)]
