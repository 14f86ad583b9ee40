"""``camkit runs``: print what a run holds."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from camkit.cli.table import show
from camkit.datasets.reading import Run, load
from camkit.datasets.sources import some

if TYPE_CHECKING:
    from camkit.cli.parser import Parser

LISTED = 10
"""Errors that are listed."""


def add_arguments(parser: Parser) -> None:
    """Add the command's flags."""
    parser.add_argument("run", help="the folder that camkit run --out made, or its address")
    parser.add_argument("--errors", action="store_true", help="list all images that failed")
    parser.add_argument("--json", action="store_true", help="for programs")


def main(options: argparse.Namespace) -> None:
    """Print it."""
    run = load(options.run)
    if options.json:
        print(json.dumps(told(run)))
        return
    for name, text in lines(run):
        print(f"{name:<12}{text}")
    failed = run.filter(errors=True).table.select(["id", "error"]).to_pylist()
    shown = failed if options.errors else failed[:LISTED]
    if shown:
        print()
        show(("failed", "why"), [(each["id"], each["error"]) for each in shown])
        if len(failed) > len(shown):
            print(f"... and {len(failed) - len(shown)} more; --errors lists them all")


def told(run: Run) -> dict[str, Any]:
    """What a run holds, as JSON holds it."""
    table = run.table
    return {
        "path": run.path,
        "images": len(run),
        "asked": run.asked,
        "failed": len(table) - table["error"].null_count,
        "accuracy": accuracy(run),
        "fingerprint": run.manifest.fingerprint,
        "layers": run.manifest.layers,
        "maps": [column.told() for column in run.manifest.columns],
        "columns": run.columns,
        "bytes": run.nbytes,
        "about": run.manifest.about,
    }


def lines(run: Run) -> list[tuple[str, str]]:
    """What a run holds, for people."""
    found, made = run.manifest.fingerprint, run.manifest.about
    counts = Counter(each for each in run.table["error"].to_pylist() if each is not None)
    failed = sum(counts.values())
    origin = made.get("checkpoint")
    named = [("data", found["data"]), ("model", found["config"])]
    if origin:
        named.append(("checkpoint", origin["source"]))
    for method, layers in run.manifest.layers.items():
        grids = {"x".join(map(str, each.shape[1:])) for each in run.manifest.columns if each.method == method}
        grid = (
            "of each image's size" if any(each.is_ragged for each in run.manifest.columns) else ", ".join(sorted(grids))
        )
        options = ", ".join(f"{name}={value}" for name, value in found["methods"][method].items())
        where = f" at {some(layers)}" if layers else ""
        named.append(("method", f"{method}{f' ({options})' if options else ''}{where}, {grid}"))
    named.append(("target", found["target"]))
    images = f"{len(run)} of {run.asked}: unfinished" if len(run) < (run.asked or 0) else str(len(run))
    named.append(("images", f"{images}, {failed} of them failed" if failed else images))
    right = accuracy(run)
    if right is not None:
        named.append(("accuracy", f"{right:.1%} of those with a label"))
    if len(run):
        named.append(("bytes", f"{run.nbytes}, {run.nbytes / len(run):.0f} per image"))
    named.append(("started", f"{made.get('started', '')} with camkit {found['camkit']}"))
    return named


def accuracy(run: Run) -> float | None:
    """Share of images with a label whose label is predicted; None where there are none."""
    table = run.filter("label != None and predicted != None").table
    if not len(table):
        return None
    pairs = zip(table["label"].to_pylist(), table["predicted"].to_pylist(), strict=True)
    right: int = sum(label == top for label, top in pairs)
    return right / len(table)
