"""What camkit promises, and whether a run kept it.

Every limit is in plain forwards of the same model and batch, or in the passes that a method consists of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.speed.cells import ALL, METHODS
from benchmarks.speed.contestants import IDEAL

Row = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """One promise.

    Attributes:
        case: what README calls it.
        cell: the cell's name; in memory's results where ``of_memory``.
        whats: the questions that it is about; the one that does worst counts.
        most: at most so many plain forwards, or times the method's passes.
        times: in place of that, ``most`` times this contestant; a package's answer to the same questions.
        plus: in place of that, ``most`` more than camkit's answer to this question.
        ahead_of: packages that must be slower.
        of_memory: it is about peak memory.
    """

    case: str
    cell: str
    whats: tuple[str, ...]
    most: float
    times: str = ""
    plus: str = ""
    ahead_of: tuple[str, ...] = ()
    of_memory: bool = False


OTHERS = METHODS[1:]
TARGETS = (
    *(
        target
        for batch in (1, 16)
        for target in (
            Target(
                f"ResNet-50 `layer4.2`, batch {batch}, GradCAM",
                f"resnet50-late-b{batch}-methods",
                ("GradCAM",),
                1.05,
                ahead_of=("Captum",),
            ),
            Target(f"… the slowest of the other five, batch {batch}", f"resnet50-late-b{batch}-methods", OTHERS, 1.08),
            Target(f"… all six at once, batch {batch}", f"resnet50-late-b{batch}-all-six", ("all six methods",), 1.15),
            Target(
                f"… GradCAM, eigen-smooth, batch {batch}",
                f"resnet50-late-b{batch}-eigen-smooth",
                ("GradCAM, eigen-smooth",),
                0.05,
                plus="GradCAM",
            ),
        )
    ),
    Target("… GradCAM, aug-smooth, batch 1", "resnet50-late-b1-aug-smooth", ("GradCAM, aug-smooth",), 6.3),
    Target("… 100 categories of one image", "resnet50-late-b1-100-categories", ("GradCAM, 100 categories",), 1.5),
    Target("ResNet-50 `layer1.2`, batch 16, GradCAM", "resnet50-early-b16-GradCAM", ("GradCAM",), 1.05, times=IDEAL),
    Target("EfficientNet-Lite0 `bn2`, batch 1, GradCAM", "lite0-late-b1-GradCAM", ("GradCAM",), 1.05),
    *(
        target
        for network, layer, cell in (("Swin-T", "norm3", "swin"), ("ViT-B/16", "layers.11.ln1", "vit"))
        for target in (
            Target(f"{network} `{layer}`, batch 4, GradCAM", f"{cell}-late-b4-methods", ("GradCAM",), 1.12),
            Target("… the slowest of the other five, batch 4", f"{cell}-late-b4-methods", OTHERS, 1.12),
        )
    ),
    *(
        target
        for network, layer, cell, channels in (
            ("ResNet-50", "layer4.2", "resnet50", 128),
            ("ViT-B/16", "layers.11.ln1", "vit", 32),
        )
        for target in (
            Target(
                f"{network} `{layer}`, ScoreCAM with {channels} channels, in its {channels + 1} forwards",
                f"{cell}-late-b1-ScoreCAM-{channels}-channels",
                ("ScoreCAM",),
                1.05,
                ahead_of=("grad-cam", "torchcam"),
            ),
            Target(
                "… SmoothGradCAM++, in its 5 forwards, 4 of them with the least backward",
                f"{cell}-late-b1-SmoothGradCAM++",
                ("SmoothGradCAM++",),
                1.05,
                ahead_of=("torchcam",),
            ),
        )
    ),
    Target(
        "ResNet-50 `layer4.2`, AblationCAM with all 2048 channels",
        "resnet50-late-b1-AblationCAM",
        ("AblationCAM",),
        0.02,
        times="grad-cam",
    ),
    Target(
        "ViT-B/16 `layers.11.ln1`, AblationCAM with 64 channels",
        "vit-late-b1-AblationCAM-64-channels",
        ("AblationCAM",),
        1.0,
        times="grad-cam",
    ),
    *(
        Target(f"{network}, {task}", cell, (task,), 1.0, times="grad-cam")
        for network, task, cell in (
            ("ResNet-50 `layer4.2`", "ShapleyCAM", "resnet50-late-b1-ShapleyCAM"),
            ("ResNet-50", "FullGrad", "resnet50-all-b1-FullGrad"),
            ("ViT-B/16", "FullGrad", "vit-all-b1-FullGrad"),
        )
    ),
    Target(
        "Peak memory above the model, ResNet-50 `layer4.2`, batch 16",
        "resnet50-late-b16-GradCAM",
        ("GradCAM",),
        1.15,
        of_memory=True,
    ),
    *(
        Target(
            f"… {task}, {channels} channels, 64 x 64, in the forward's of 32",
            f"resnet50-{depth}-b1-{task}-64px",
            (task,),
            1.5,
            of_memory=True,
        )
        for task in ("ScoreCAM", "AblationCAM")
        for depth, channels in (("first", 256), ("fourth", 2048))
    ),
)


def find(rows: Sequence[Row], cell: str, who: str, what: str = "") -> Row | None:
    """The row, if it was measured."""
    return next((row for row in rows if (row["cell"], row["who"], row["what"]) == (cell, who, what)), None)


def ratio(rows: Sequence[Row], cell: str, who: str, whats: Sequence[str]) -> float | None:
    """The worst ratio to the plain forward; None where one is missing."""
    found = [find(rows, cell, who, what) for what in whats]
    ratios = [row["ratio"] for row in found if row and "ratio" in row]
    return max(ratios) if len(ratios) == len(whats) else None


def limit(target: Target, rows: Sequence[Row]) -> float | None:
    """The most that camkit may take, in plain forwards; None where what it is held against wasn't measured."""
    if target.times:
        other = ratio(rows, target.cell, target.times, target.whats if target.times in ALL else ("",))
        return None if other is None else target.most * other
    if target.plus:
        other = ratio(rows, target.cell, "camkit", (target.plus,))
        return None if other is None else target.most + other
    return target.most


def met(target: Target, rows: Sequence[Row], whats: Sequence[str]) -> bool | None:
    """Whether camkit kept it; None where that wasn't measured."""
    mine, most = ratio(rows, target.cell, "camkit", whats), limit(target, rows)
    if mine is None or most is None:
        return None
    others = [ratio(rows, target.cell, who, whats) for who in target.ahead_of]
    return mine <= most and all(other is not None and mine < other for other in others)


def judged(rows: Sequence[Row], *, of_memory: bool = False) -> list[Row]:
    """The rows, those of camkit that something is promised of with the limit and whether it was kept."""
    judged_rows = []
    for row in rows:
        target = next(
            (
                target
                for target in TARGETS
                if target.of_memory == of_memory and target.cell == row["cell"] and row["what"] in target.whats
            ),
            None,
        )
        if target is not None and row["who"] == "camkit" and "ratio" in row:
            row = row | {
                "target": limit(target, rows),
                "ahead_of": list(target.ahead_of),
                "met": met(target, rows, (row["what"],)),
            }
        judged_rows.append(row)
    return judged_rows
