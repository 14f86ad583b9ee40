"""Cells to rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from benchmarks.speed.cells import Cell
from benchmarks.speed.contestants import field, subject
from benchmarks.speed.isolated import isolated
from benchmarks.speed.networks import NETWORKS
from benchmarks.speed.timing import interleaved, summary

Row = dict[str, Any]


def rows_of(cells: Iterable[Cell], device: str) -> list[Row]:
    """The rows of all cells, a process per cell."""
    rows: list[Row] = []
    for cell in cells:
        print(f"{cell.name}: ", end="", flush=True)
        try:
            found = isolated(measure, cell, device)
            print(f"{found[0]['rounds']} rounds, {1000 * found[0]['seconds']:.0f} ms a forward", flush=True)
        except RuntimeError as error:  # whoever took the process along, the other cells are still of use
            found = [
                _label(cell) | {"who": "everybody", "what": cell.task, "why_not": f"fails in {cell.name}: {error}"}
            ]
            print(error, flush=True)
        rows += found
    return rows


def measure(cell: Cell, device: str = "cpu") -> list[Row]:
    """One row per contestant, in this process; the plain forward's comes first."""
    of = subject(cell, device)
    contestants = field(cell, of)
    times = interleaved(contestants, cell.rounds, cell.seconds, device)
    return [
        _label(cell)
        | {"who": each.who, "what": each.what}
        | ({"why_not": taken.why_not} if taken.why_not else summary(taken, times[0]))
        for each, taken in zip(contestants, times, strict=True)
    ]


def _label(cell: Cell) -> Row:
    source = NETWORKS[cell.network].source
    return {
        "cell": cell.name,
        "network": NETWORKS[cell.network].title,
        "source": source.name,
        "layers": list(cell.layers),
        "batch": cell.batch,
    }
