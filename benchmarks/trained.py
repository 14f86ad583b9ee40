"""The six methods and controls on photographs, by a trained network: which differences are more than chance.

EfficientNet-Lite0 explains eight packaged photographs, and mosaics of them. ``python -m benchmarks.trained`` writes
benchmarks/results/trained.json and .md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.datasets import SIX, network
from benchmarks.provenance import RESULTS, machine
from camkit.metrics.comparison import Comparison
from camkit.metrics.evaluating import evaluate

NAMES = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "hubble_deep_field.jpg")
MORE = ("china.jpg", "flower.jpg")
METRICS = ("ROADCombined", "Average drop", "Average gain", "MuFidelity", "Sparseness", "Complexity")
OF_MOSAICS = ("GridPG", "Pointing game")
CONFIDENCE = 0.05
"""A photograph takes part in a mosaic when its class has at least this probability: Lite0's are low."""


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trained", description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    classifier = network("lite0")
    with tempfile.TemporaryDirectory() as folder:
        photographs = copied(Path(folder))
        single = evaluate(photographs, classifier, SIX, METRICS, workers=0).comparison
        mosaics = evaluate(
            photographs, classifier, SIX, OF_MOSAICS, mosaic=2, min_confidence=CONFIDENCE, workers=0
        ).comparison
    found = {"machine": machine(), "photographs": rows_of(single), "mosaics": rows_of(mosaics)}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "trained.json").write_text(json.dumps(found, indent=1) + "\n")
    (options.out / "trained.md").write_text(page(found))
    print(page(found))


def copied(folder: Path) -> Path:
    """The photographs, in one folder."""
    import skimage.data
    import sklearn.datasets

    for names, module, below in ((NAMES, skimage.data, "."), (MORE, sklearn.datasets, "images")):
        for name in names:
            shutil.copy(Path(str(module.__file__)).parent / below / name, folder / name)
    return folder


def rows_of(found: Comparison) -> dict[str, Any]:
    """Means with intervals of methods and controls, and what metrics say of the methods."""
    methods = [*found.methods, *found.controls]
    means: dict[str, dict[str, dict[str, Any]]] = {}
    for metric in found.metrics:
        means[metric] = {}
        for method in methods:
            means[metric][method] = asdict(found.summary(metric, method))
    return {"means": means, "controls": list(found.controls), "verdicts": found.verdicts(), "notes": list(found.notes)}


def page(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    parts = ["# The six methods on photographs", ""]
    for name in ("photographs", "mosaics"):
        parts += [
            f"## {name.capitalize()}",
            "",
            table(found[name]),
            "",
            *(f"- {line}" for line in found[name]["verdicts"]),
        ]
        parts += [""]
    return "\n".join(parts)


def table(rows: dict[str, Any]) -> str:
    """A row per method, a column per metric."""
    means, controls = rows["means"], rows["controls"]
    lines = [f"| method | {' | '.join(means)} |", "| --- |" + " --- |" * len(means)]
    for method in next(iter(means.values())):
        cells = []
        for each in means.values():
            row = each[method]
            ends = "" if row["low"] is None else f" ({row['low']:.2f} to {row['high']:.2f})"
            cells.append(f"{row['mean']:.2f}{ends}")
        lines.append(f"| {method}{' (control)' * (method in controls)} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
