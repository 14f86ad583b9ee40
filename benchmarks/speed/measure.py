"""Cells to rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from benchmarks.speed.cells import Cell
from benchmarks.speed.contestants import PASSES, field, subject
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
            found = [label(cell) | {"who": "everybody", "what": cell.task, "why_not": f"fails in {cell.name}: {error}"}]
            print(error, flush=True)
        rows += found
    return rows


def measure(cell: Cell, device: str = "cpu") -> list[Row]:
    """One row per contestant, in this process; the plain forward's comes first.

    Ratios are to that, or to the passes that a method consists of where these take part.
    """
    of = subject(cell, device)
    contestants = field(cell, of)
    times = interleaved(contestants, cell.rounds, cell.seconds, device)
    (against,) = [taken for each, taken in zip(contestants, times, strict=True) if each.who == PASSES] or times[:1]
    if against.why_not:
        raise RuntimeError(against.why_not)
    return [
        label(cell, of.width)
        | {"who": each.who, "what": each.what}
        | ({"why_not": taken.why_not} if taken.why_not else summary(taken, against))
        for each, taken in zip(contestants, times, strict=True)
    ]


def label(cell: Cell, width: int = 0) -> Row:
    """What is the same in all rows of a cell; ``width`` is how many channels the layer has."""
    network = NETWORKS[cell.network]
    side = f", {cell.side} x {cell.side}" if cell.side else ""
    found: Row = {
        "cell": cell.name,
        "network": f"{network.title}{side}",
        "source": network.source.name,
        "layers": list(cell.layers),
        "batch": cell.batch,
    }
    if cell.chunk:
        found |= {"channels": [cell.channels or width, width], "chunk": cell.chunk}
    return found
