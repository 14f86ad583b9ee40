"""Results as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.speed.contestants import PLAIN
from benchmarks.speed.table import PACKAGES
from benchmarks.speed.targets import ratio

Row = dict[str, Any]

COLOURS = {
    PLAIN: "#9a9a9a",
    "camkit": "#c1440e",
    "grad-cam": "#3b6ea5",
    "torchcam": "#7aa95c",
    "Captum": "#8c6bb1",
}

BARS = (
    ("ResNet-50, batch 1\nGradCAM", "resnet50-late-b1-methods", "GradCAM"),
    ("ResNet-50, batch 16\nGradCAM", "resnet50-late-b16-methods", "GradCAM"),
    ("ResNet-50, batch 16\nLayerCAM", "resnet50-late-b16-methods", "LayerCAM"),
    ("ResNet-50, batch 16\nEigenCAM", "resnet50-late-b16-methods", "EigenCAM"),
    ("early layer, batch 16\nGradCAM", "resnet50-early-b16-GradCAM", "GradCAM"),
    ("4 layers, batch 1\nGradCAM", "resnet50-four-b1-layers", "GradCAM, 4 layers"),
    ("10 categories\nGradCAM", "resnet50-late-b1-10-categories", "GradCAM, 10 categories"),
    ("all six methods\nbatch 1", "resnet50-late-b1-all-six", "all six methods"),
    ("aug-smooth\nbatch 1", "resnet50-late-b1-aug-smooth", "GradCAM, aug-smooth"),
    ("Swin-T, batch 4\nGradCAM", "swin-late-b4-methods", "GradCAM"),
    ("ViT-B/16, batch 4\nGradCAM", "vit-late-b4-methods", "GradCAM"),
    ("ResNet-50, batch 1\nShapleyCAM", "resnet50-late-b1-ShapleyCAM", "ShapleyCAM"),
    ("ResNet-50, batch 1\nFullGrad", "resnet50-all-b1-FullGrad", "FullGrad"),
    ("SmoothGradCAM++, batch 1\nin its 5 forwards", "resnet50-late-b1-SmoothGradCAM++", "SmoothGradCAM++"),
    ("ScoreCAM, 128 channels\nin its 129 forwards", "resnet50-late-b1-ScoreCAM-128-channels", "ScoreCAM"),
    ("AblationCAM, batch 1\nall 2048 channels", "resnet50-late-b1-AblationCAM", "AblationCAM"),
    ("MobileNetV3-L, batch 16\nGradCAM", "mobilenet-late-b16-GradCAM", "GradCAM"),
    ("ConvNeXt-T, batch 16\nGradCAM", "convnext-late-b16-GradCAM", "GradCAM"),
)


def bars(rows: Sequence[Row], path: Path) -> None:
    """Plain forwards per call, a group of bars per question; those that weren't measured are left out."""
    shown = [(label, cell, what) for label, cell, what in BARS if ratio(rows, cell, "camkit", (what,)) is not None]
    if not shown:  # a run of other cells, such as a smoke test's
        cells = dict.fromkeys((row["cell"], row["what"]) for row in rows if row["what"])
        shown = [(f"{cell}\n{what}", cell, what) for cell, what in cells]
    figure, axes = _figure(1, 1, (9, 0.6 + 0.56 * len(shown)))
    (plot,) = axes
    height = 0.8 / len(PACKAGES)
    for place, (_, cell, what) in enumerate(shown):
        for turn, who in enumerate(PACKAGES):
            value = ratio(rows, cell, who, (what,))
            if value is None:
                continue
            y = place + (turn - (len(PACKAGES) - 1) / 2) * height
            plot.barh(y, value, height * 0.92, color=COLOURS[who])
            white = {"facecolor": "white", "edgecolor": "none", "pad": 0.4}
            plot.text(value * 1.02, y, f"{value:.2f}", va="center", fontsize=6.5, bbox=white, zorder=4)
    plot.axvline(1, color="black", linewidth=0.8, linestyle="--", zorder=3)
    plot.set_xscale("log", base=2)
    plot.set_xlim(left=0.5)
    plot.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    plot.set_yticks(range(len(shown)), [label for label, _, _ in shown], fontsize=8)
    plot.invert_yaxis()
    plot.set_xlabel(
        "time of a call, in plain inference forwards of the same model and batch (less is better)", fontsize=8
    )
    plot.tick_params(axis="x", labelsize=8)
    plot.spines[["top", "right"]].set_visible(False)
    # By hand: a package whose every bar is missing still belongs in the legend.
    handles = [_patch(COLOURS[who], who) for who in PACKAGES]
    plot.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(handles), frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)


def lines(rows: Sequence[Row], path: Path) -> None:
    """Medians and the straight lines through them, a panel per axis."""
    names = list(dict.fromkeys(row["axis"] for row in rows))
    figure, axes = _figure(1, len(names), (3.4 * len(names), 3.2))
    for plot, name in zip(axes, names, strict=True):
        found = [row for row in rows if row["axis"] == name]
        for row in found:
            ends = [min(row["x"]), max(row["x"])]
            colour, slope = COLOURS[row["who"]], 1000 * row["slope"]
            plot.plot(row["x"], [1000 * y for y in row["seconds"]], "o", color=colour, markersize=4)
            plot.plot(
                ends,
                [1000 * row["intercept"] + slope * x for x in ends],
                color=colour,
                label=f"{row['who']}: {slope:.3g} ms each, R² {row['r2']:.3f}",
            )
        plot.set_title(f"time against {name}", fontsize=9)
        plot.set_xlabel(found[0]["unit"], fontsize=8)
        plot.set_ylabel("ms", fontsize=8)
        plot.set_ylim(bottom=0)
        plot.tick_params(labelsize=7)
        plot.legend(frameon=False, fontsize=6.5)
        plot.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, list[Any]]:
    """A figure without pyplot, which would keep it and may want a display."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.flat)


def _patch(colour: str, label: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=colour, label=label)
