"""What ``vis-cam`` and ``demo`` share: explain one image with several methods, name and draw what comes out."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from camkit.cam import CAM, Explanation
from camkit.forward import Setup
from camkit.layers import split_branch
from camkit.methods import find_method
from camkit.probe import Choice, default_layer
from camkit.render import Picture, grid, overlay
from camkit.save import Writer, write_together
from camkit.smoothing import AugSmooth, EigenSmooth

if TYPE_CHECKING:
    from camkit.adapters.classifier import Classifier
    from camkit.adapters.prepared import Prepared


@dataclass(frozen=True)
class Style:
    """How maps are drawn."""

    colormap: str = "jet"
    alpha: float = 0.5
    original_size: bool = False


def choose_layer(
    classifier: Classifier, prepared: Prepared, *, categories: Sequence[int] = (), setup: Setup | None = None
) -> Choice:
    """The default target layer for what will be explained."""
    return default_layer(classifier.model, prepared.inputs, targets(categories), setup)


def explain(
    classifier: Classifier,
    prepared: Prepared,
    methods: Sequence[str],
    *,
    target_layers: Sequence[str],
    categories: Sequence[int] = (),
    setup: Setup | None = None,
    eigen_smooth: bool = False,
    aug_smooth: bool = False,
) -> list[Explanation]:
    """One explanation per method, all of the same layers and categories; empty maps are warned of."""
    setup = setup or Setup()
    cam: CAM = CAM(
        classifier.model, target_layers=target_layers, num_extra_tokens=setup.num_extra_tokens, output=setup.output
    )
    cam = AugSmooth(EigenSmooth(cam, enabled=eigen_smooth), enabled=aug_smooth)
    wanted = [find_method(method) for method in methods]
    explanations = cam.compute_all(prepared.inputs, targets(categories), wanted)
    for explanation in explanations:
        for line in explanation.empty.values():
            warn(f"{explanation.method}: {line}")
    return explanations


def targets(categories: Sequence[int]) -> list[list[int]] | None:
    """The categories of the one image, as the library takes them; None for its own."""
    return [list(categories)] if categories else None


def categories_of(explanation: Explanation) -> list[int]:
    """The class indices explained for the one image there is."""
    return [int(cast("int", category)) for category in explanation.targets[0]]


def probability(classifier: Classifier, explanation: Explanation, category: int) -> float:
    """The score of ``category`` as the classifier's head turns logits into scores, in [0, 1]."""
    logits = explanation.logits[0].double()
    scores = logits.sigmoid() if classifier.activation == "sigmoid" else logits.softmax(0)
    return float(scores[category])


def label(classifier: Classifier, explanation: Explanation, category: int) -> str:
    """``281 tabby cat (0.71)``, or ``category 281 (0.71)`` where the names are unknown."""
    shown = f"{category} {classifier.name(category)}" if classifier.classes else classifier.name(category)
    return f"{shown} ({probability(classifier, explanation, category):.2f})"


def report(classifier: Classifier, explanation: Explanation, choice: Choice | None = None) -> None:
    """Print the target layers, the predicted class and, where others were asked for, those explained."""
    for layer, maps in explanation.raw.items():
        kind = type(classifier.model.get_submodule(split_branch(layer)[0])).__name__
        why = f"{choice.why}; " if choice else ""
        print(f"target layer: {layer} ({why}{kind}, grid {'x'.join(map(str, maps.shape[2:]))})")
    report_output(classifier, explanation.output, explanation.other_outputs)
    top = int(explanation.logits[0].argmax())
    print(f"predicted: {label(classifier, explanation, top)}")
    if categories_of(explanation) != [top]:
        print(f"explained: {', '.join(label(classifier, explanation, c) for c in categories_of(explanation))}")


def report_output(classifier: Classifier, name: str, others: Sequence[str]) -> None:
    """Print which of several tensors that the model returns is explained; nothing where there is one."""
    if name and name == getattr(classifier.output, "__name__", None):
        print(f"output: {name} (what the network predicts from; --output takes one of its parts)")
    elif others:
        print(f"output: {name} (the model returns several; --output takes another: {', '.join(others)})")


def draw(prepared: Prepared, explanation: Explanation, style: Style) -> list[Picture]:
    """One overlay per category."""
    pictures = []
    for heat in explanation.maps[0].cpu().numpy():
        image, seen = prepared.picture, None
        if style.original_size:
            image = prepared.original
            heat, seen = prepared.to_original(heat)
        # A data preprocessor may pad the picture to a multiple of a stride: that part of the map lies beside it.
        heat = heat[: image.shape[0], : image.shape[1]]
        pictures.append(overlay(image, heat, colormap=style.colormap, alpha=style.alpha, seen=seen))
    return pictures


def draw_grid(classifier: Classifier, prepared: Prepared, explanations: Sequence[Explanation], style: Style) -> Picture:
    """Methods by categories in one labelled picture."""
    first = explanations[0]
    columns = [label(classifier, first, category) for category in categories_of(first)]
    return grid([draw(prepared, each, style) for each in explanations], [e.method for e in explanations], columns)


def write(files: Mapping[Path, Writer]) -> None:
    """Write all files or none, and say where."""
    write_together(files)
    for path in files:
        print(f"wrote: {path}")


def warn(line: str) -> None:
    """A line on standard error that doesn't stop the command."""
    print(f"camkit: warning: {line}", file=sys.stderr)
