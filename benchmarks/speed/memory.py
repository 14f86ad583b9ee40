"""The most memory that a call takes above the loaded model, in a process of its own per contestant."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.cells import Cell
from benchmarks.speed.contestants import BY_CHANNEL, IDEAL, PASSES, PLAIN, field, select, subject
from benchmarks.speed.isolated import isolated
from benchmarks.speed.measure import label
from benchmarks.speed.networks import images
from benchmarks.speed.timing import once, quiet

CALLS = 2
"""What a call leaves behind counts in the next one's peak."""

FULL = (
    Cell("resnet50", "late", 16, "GradCAM"),
    Cell("resnet50", "late", 16, "all six", ()),
    Cell("resnet50", "early", 16, "GradCAM"),
    # All channels, however many: images are small, or it would take an hour.
    *(
        Cell("resnet50", depth, 1, task, ("grad-cam",), chunk=32, side=64)
        for task in BY_CHANNEL
        for depth in ("first", "second", "third", "fourth")
    ),
)
QUICK = (Cell("resnet50", "late", 4, "GradCAM", ("grad-cam",)),)
SMOKE = (
    Cell("tiny", "late", 256, "GradCAM", ()),
    Cell("tiny", "late", 1, "ScoreCAM", ("grad-cam",), chunk=8, side=128),
)


def rows_of(cells: Iterable[Cell], device: str, repeats: int = 1) -> list[dict[str, Any]]:
    """One row per contestant of every cell; where percents count, the median of ``repeats`` processes.

    A library's own buffers come and go.
    """
    return [row for cell in cells for row in _rows(cell, device, repeats)]


def _rows(cell: Cell, device: str, repeats: int) -> list[dict[str, Any]]:
    names, width = isolated(_names, cell, device)
    rows: list[dict[str, Any]] = []
    for who, what, why_not in names:
        row: dict[str, Any] = label(cell, width) | {"who": who, "what": what}
        if not why_not:
            try:
                times = repeats if who in (PLAIN, IDEAL, "camkit") and not cell.chunk else 1
                row["all_bytes"] = sorted(isolated(peak, cell, who, what, device) for _ in range(times))
                row["bytes"] = row["all_bytes"][times // 2]
                row["ratio"] = row["bytes"] / rows[0]["bytes"] if rows else 1.0
            except RuntimeError as error:
                why_not = f"fails: {error}"
        if why_not:
            row["why_not"] = why_not
        print(f"{cell.name}, {who} {what}: {why_not or _mebibytes(row['bytes'])}", flush=True)
        rows.append(row)
    return rows


def _names(cell: Cell, device: str) -> tuple[list[tuple[str, str, str]], int]:
    of = subject(cell, device)
    found = [(each.who, each.what, each.why_not) for each in field(cell, of) if each.who != PASSES]
    return found, of.width


def peak(cell: Cell, who: str, what: str, device: str = "cpu") -> int:
    """Bytes at the highest point of some calls, above what the process held before the first of them.

    Where changed images go through the network in chunks, the plain forward is that of a chunk.
    """
    of = subject(cell, device)
    if who == PLAIN and cell.chunk:
        of = replace(of, images=images(cell.network, cell.chunk, device, cell.side))
    # On a small image first: libraries and kernels that load at their first use are no call's own.
    small = replace(of, images=images(cell.network, 1, device, size=64), categories=of.categories[:1])
    with quiet():
        first = select(field(cell, small), who, what)
        once(first.warm or first, device)
        contestant = select(field(cell, of), who, what)
        before = _start(device)
        for _ in range(CALLS if contestant.warm is None else 1):  # a call of thousands of forwards is many calls
            once(contestant, device)
        return _peak(device) - before


def _start(device: str) -> int:
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    ctypes.CDLL(None).malloc_trim(0)  # free memory that the process still holds would be used first and not be seen
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    return resident("VmRSS")


def _peak(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device == "cuda" else resident("VmHWM")


def resident(field_: str = "VmRSS") -> int:
    """Bytes of this process in memory: now (VmRSS), or at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field_}:"))


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:.0f} MiB"
