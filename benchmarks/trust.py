"""Which metric tells the truth? Rankings of methods by each metric, beside the ranking by the place of the evidence.

Two small networks tell which digits stand on a noisy canvas (benchmarks/digits), so that the place of each class's
evidence is known. Every method explains both digits of every canvas. A method's truth is how well its maps tell the
pixels of the digit asked for from all others (area under the ROC curve, mean over maps). Every metric ranks the
methods by its mean; its rank correlation with the truth (Spearman) says what it is worth, with a bootstrap interval
over canvases.

``python -m benchmarks.trust`` writes benchmarks/results/trust.json and .md, and docs/trust.png.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor, nn

import camkit
from benchmarks.digits import measure, recipe
from benchmarks.digits.canvases import SIDE, Canvases
from benchmarks.provenance import RESULTS, machine
from camkit.errors import CamkitError
from camkit.metrics import METRICS
from camkit.metrics.controls import Control, make_controls
from camkit.metrics.measuring import measure_methods
from camkit.metrics.trial import Explainer

SIZE = (48, 48)
COUNT = 12
FEW = 4
"""Canvases for metrics that explain again."""
SLOW = ("SS-CAM", "IS-CAM")
"""Methods that are left out: each of their maps takes hundreds or thousands of forwards."""
DRAWS = 1000
NETWORKS: dict[str, Callable[[], nn.Module]] = {"transformer": recipe.load, "CNN": recipe.load_cnn}
CHART = Path(__file__).resolve().parent.parent / "docs" / "trust.png"
Numbers = NDArray[np.float64]


def main() -> None:
    """Measure both networks, print, and write results and chart."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trust", description=__doc__)
    parser.add_argument("--canvases", type=int, default=COUNT)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--metrics", nargs="+", default=list(METRICS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    found: dict[str, Any] = {"machine": machine("scipy"), "canvases": options.canvases, "networks": {}}
    for name in options.networks:
        found["networks"][name] = study(NETWORKS[name](), options.canvases, options.metrics)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "trust.json").write_text(json.dumps(found, indent=1) + "\n")
    (options.out / "trust.md").write_text(page(found))
    chart(found, CHART if options.out == RESULTS else options.out / "trust.png")
    print(page(found))


def study(model: nn.Module, count: int, metrics: list[str]) -> dict[str, Any]:
    """Truth and metrics of every method, and how metrics' rankings agree with the truth's."""
    canvases = readable(model, count)
    maps, explainers, refused = explained(model, canvases)
    inside = boxes(canvases)
    truth = {name: auc(heat, inside) for name, heat in maps.items()}
    hits = {name: hottest(heat, inside) for name, heat in maps.items()}
    images = canvases.images
    rows: dict[str, dict[str, Numbers]] = {metric: {} for metric in metrics}
    ties: dict[str, list[float]] = {metric: [] for metric in metrics}
    for again in (False, True):  # together, so that what several metrics ask for runs once
        asked = [metric for metric in metrics if ("explainer" in METRICS[metric].needs) is again]
        part = slice(FEW if again else None)
        names = list(maps)
        started = time.perf_counter()
        found = measure_methods(
            asked,
            {name: maps[name][part] for name in names},
            images[part],
            model,
            canvases.classes[part],
            regions=inside[part],
            explain={name: explainers[name] for name in names},
            probability="sigmoid",
        )
        for name, metric in ((name, metric) for name in names for metric in asked):
            values = found[name][metric]
            rows[metric][name] = values.values.numpy()
            if values.ties is not None:
                ties[metric].append(values.ties.mean().item())
        print(f"{len(asked)} metrics of {len(names)} methods: {time.perf_counter() - started:.0f} s", flush=True)
    return {
        "canvases": len(images),
        "refused": refused,
        "methods": {
            name: {
                "truth": float(truth[name].mean()),
                "hits": float(hits[name].mean()),
                **{metric: float(np.nanmean(row[name])) for metric, row in rows.items() if name in row},
            }
            for name in maps
        },
        "metrics": {
            metric: {
                "family": METRICS[metric].family,
                "better": METRICS[metric].better,
                "sees_region": "region" in METRICS[metric].needs,
                "ties": float(np.mean(ties[metric])) if ties[metric] else None,
                **agreement(row, truth, METRICS[metric].better == "lower"),
            }
            for metric, row in rows.items()
        },
    }


def readable(model: nn.Module, count: int) -> Canvases:
    """Held-out canvases whose two digits the network recognises."""
    drawn = measure.sample("held-out", SIZE)
    kept = measure.recognised(model, drawn).all(1).nonzero()[:count, 0]
    return Canvases(*(getattr(drawn, name)[kept] for name in ("images", "classes", "corners", "digits", "filled")))


def explained(model: nn.Module, canvases: Canvases) -> tuple[dict[str, Tensor], dict[str, Explainer], dict[str, str]]:
    """Maps (N, 2, H, W) of every method and control, how to explain again, and who can't explain this network."""
    maps: dict[str, Tensor] = {}
    again: dict[str, Explainer] = {}
    grid: tuple[int, ...] = ()
    refused = {}
    for name, method in camkit.METHODS.items():
        if method.need.finds_targets or name in SLOW:
            refused[name] = "explains concepts, no classes" if method.need.finds_targets else "takes too long"
            continue
        cam: camkit.CAM = camkit.CAM(model, name)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", camkit.CamkitWarning)
                made = cam.explain(canvases.images, canvases.classes)
        except CamkitError as error:
            refused[name] = str(error)
            continue
        maps[name] = made.maps
        if name == "GradCAM":
            grid = next(iter(made.raw.values())).shape[2:]
        again[name] = explainer_of(cam)
    for name, control in make_controls(grid).items():

        def draw(images: Tensor, targets: Tensor, control: Control = control) -> Tensor:
            del targets
            return control(images)

        again[name] = draw
        maps[name] = draw(canvases.images, canvases.classes)[:, None].expand(-1, 2, -1, -1)
    return maps, again, refused


def explainer_of(cam: camkit.CAM) -> Explainer:
    """Explain other images by the same CAM, without its warnings."""

    def explain(images: Tensor, targets: Tensor) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", camkit.CamkitWarning)
            return cam(images, targets)

    return explain


def boxes(canvases: Canvases) -> Tensor:
    """(N, 2, H, W), where each of the two digits is."""
    within = []
    for axis, side in enumerate(SIZE):
        start = canvases.corners[..., axis, None]
        within.append((torch.arange(side) >= start) & (torch.arange(side) < start + SIDE))
    return within[0][..., :, None] & within[1][..., None, :]


def auc(maps: Tensor, inside: Tensor) -> Numbers:
    """(2 N,), the probability that a pixel of the digit asked for is hotter than one elsewhere; ties count half."""
    found = []
    for heat, own in zip(maps.flatten(0, 1).flatten(1).numpy(), inside.flatten(0, 1).flatten(1).numpy(), strict=True):
        ranks, count = rankdata(heat), own.sum()
        found.append((ranks[own].sum() - count * (count + 1) / 2) / (count * (~own).sum()))
    return np.array(found)


def hottest(maps: Tensor, inside: Tensor) -> Numbers:
    """(2 N,), whether all hottest pixels are on the digit asked for."""
    top = maps == maps.amax((2, 3), keepdim=True)
    return (inside | ~top).flatten(2).all(2).flatten().double().numpy()


def agreement(row: Mapping[str, Numbers], truth: Mapping[str, Numbers], lower: bool) -> dict[str, Any]:  # noqa: FBT001
    """Spearman's correlation of the methods' means with the truth's, and its interval over canvases."""
    sign = -1 if lower else 1
    values = sign * np.stack([row[name] for name in row])
    true = np.stack([truth[name][: values.shape[1]] for name in row])
    undefined = np.isnan(values).mean()
    random = np.random.default_rng(0)
    canvases = values.shape[1] // 2
    drawn = []
    for _ in range(DRAWS):
        chosen = random.integers(0, canvases, canvases)
        pairs = np.concatenate([2 * chosen, 2 * chosen + 1])
        drawn.append(spearman(means(values[:, pairs]), means(true[:, pairs])))
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return {
        "correlation": spearman(means(values), means(true)),
        "interval": [float(low), float(high)],
        "undefined": float(undefined),
        "canvases": canvases,
        "methods": len(row),
    }


def means(values: Numbers) -> Numbers:
    """Per method, without undefined values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found: Numbers = np.nanmean(values, axis=1)
    return found


def spearman(one: Numbers, other: Numbers) -> float:
    """Rank correlation, ties averaged."""
    known = ~(np.isnan(one) | np.isnan(other))
    ranks = rankdata(one[known]), rankdata(other[known])
    if any(np.ptp(each) == 0 for each in ranks):  # it tells no method from another
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


def page(found: dict[str, Any]) -> str:
    """The results as Markdown: metrics by what they are worth, then the methods' truths."""
    parts = ["# Which metric tells the truth?", ""]
    for name, each in found["networks"].items():
        parts += [
            f"## {name}",
            "",
            f"{each['canvases']} canvases, two digits each, {len(each['methods'])} methods.",
            "",
        ]
        parts += [metric_table(each), "", truth_table(each), ""]
        parts += [f"- {who}: not run: {why}" for who, why in each["refused"].items()] + [""] * bool(each["refused"])
    return "\n".join(parts)


def metric_table(each: dict[str, Any]) -> str:
    """Metrics, the best first."""
    lines = ["| metric | family | canvases, methods | rank correlation with the truth | 95 % interval |"]
    lines += ["| --- | --- | --- | --- | --- |"]
    for metric, row in sorted(each["metrics"].items(), key=lambda item: -worth(item[1])):
        low, high = row["interval"]
        name = metric + " (is told where the digit is)" * row["sees_region"]
        agrees = f"{row['correlation']:.2f} | {low:.2f} to {high:.2f}"
        lines.append(f"| {name} | {row['family']} | {row['canvases']}, {row['methods']} | {agrees} |")
    return "\n".join(lines)


def worth(row: Mapping[str, Any]) -> float:
    """What metrics are ordered by; those without a correlation come last."""
    return float(np.nan_to_num(row["correlation"], nan=-2))


def truth_table(each: dict[str, Any]) -> str:
    """Methods, the best first."""
    lines = ["| method | truth (area under the ROC curve) | hottest on the digit |", "| --- | --- | --- |"]
    for method, row in sorted(each["methods"].items(), key=lambda item: -item[1]["truth"]):
        lines.append(f"| {method} | {row['truth']:.3f} | {row['hits']:.0%} |")
    return "\n".join(lines)


def chart(found: dict[str, Any], path: Path) -> None:
    """Correlations with their intervals, both networks side by side."""
    from matplotlib.figure import Figure

    networks = found["networks"]
    first = next(iter(networks.values()))["metrics"]
    order = sorted(first, key=lambda metric: worth(first[metric]))
    figure = Figure(figsize=(8, 0.32 * len(order) + 1.2), layout="constrained")
    axes = figure.subplots()
    for shift, (name, each) in enumerate(networks.items()):
        rows = [each["metrics"].get(metric) for metric in order]
        places = [place + 0.2 - 0.4 * shift for place, row in enumerate(rows) if row]
        known = [row for row in rows if row]
        middle = np.array([row["correlation"] for row in known])
        ends = np.abs(np.array([row["interval"] for row in known]).T - middle)
        axes.errorbar(middle, places, xerr=ends, fmt="os"[shift], capsize=3, label=name)
    axes.set_yticks(range(len(order)), order)
    axes.axvline(0, color="grey", linewidth=1)
    axes.set_xlim(-1.02, 1.02)
    axes.set_xlabel("rank correlation of the methods' ranking with the truth's")
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=110)
    print(f"wrote: {path}")


if __name__ == "__main__":
    main()
