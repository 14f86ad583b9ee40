"""What ``vis-cam``, ``gallery`` and ``demo`` share: explain one image, name and draw what comes out."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from camkit.cam import CAM, Explanation
from camkit.commands.progress import Bar
from camkit.forward import Setup
from camkit.layers import split_branch
from camkit.methods import Method, find_method
from camkit.methods.requests import Concepts
from camkit.probe import Choice, default_layers
from camkit.render import Picture, concepts, grid, overlay, saliency
from camkit.save import Writer, write_together
from camkit.smoothing import AugSmooth, EigenSmooth

if TYPE_CHECKING:
    from camkit.adapters.classifier import Classifier
    from camkit.adapters.prepared import Prepared


SEVERAL = 6
"""So many methods are counted and not named where they share their layers and others don't."""
Defaults = Mapping[str, Sequence[Choice]]
"""Default target layers by kind, see :func:`camkit.probe.default_layers`."""


@dataclass(frozen=True)
class Style:
    """How maps are drawn."""

    colormap: str = "jet"
    alpha: float = 0.5
    original_size: bool = False


def choose_layers(
    classifier: Classifier,
    prepared: Prepared,
    methods: Sequence[Method],
    *,
    categories: Sequence[int] = (),
    setup: Setup | None = None,
) -> Defaults:
    """The default target layers for what will be explained; none are looked for where no method takes any."""
    kinds = dict.fromkeys(method.default_layers for method in methods if method.request.of_layers)
    asked = (classifier.model, prepared.inputs, targets(categories), setup)
    return {kind: default_layers(*asked, kind) for kind in kinds}


def explain(
    classifier: Classifier,
    prepared: Prepared,
    methods: Sequence[Method],
    *,
    target_layers: Sequence[str] = (),
    defaults: Defaults | None = None,
    categories: Sequence[int] = (),
    setup: Setup | None = None,
    batch_size: int | None = None,
    eigen_smooth: bool = False,
    aug_smooth: bool = False,
) -> list[Explanation]:
    """One explanation per method, all of the same categories; empty maps are warned of.

    Args:
        classifier: whose image it is.
        prepared: the image.
        methods: as they are set.
        target_layers: names; none for the ``defaults``.
        defaults: what :func:`choose_layers` chose.
        categories: class indices; none for the predicted one.
        setup: how the model is read.
        batch_size: see :class:`camkit.CAM`.
        eigen_smooth: wrap in :class:`camkit.EigenSmooth`.
        aug_smooth: wrap in :class:`camkit.AugSmooth`.
    """
    setup = setup or Setup()
    with Bar(", ".join(method.name for method in methods)) as bar:
        cam: CAM = CAM(
            classifier.model,
            target_layers=list(target_layers) or None,
            num_extra_tokens=setup.num_extra_tokens,
            output=setup.output,
            batch_size=batch_size,
            progress=bar,
        )
        cam = cam.pinned({kind: [each.name for each in chosen] for kind, chosen in (defaults or {}).items()})
        cam = AugSmooth(EigenSmooth(cam, enabled=eigen_smooth), enabled=aug_smooth)
        explanations = cam.compute_all(prepared.inputs, targets(categories), methods)
    for explanation in explanations:
        for line in explanation.empty.values():
            warn(f"{explanation.method}: {line}")
    return explanations


def targets(categories: Sequence[int]) -> list[list[int]] | None:
    """The categories of the one image, as the library takes them; None for its own."""
    return [list(categories)] if categories else None


def has_concepts(explanation: Explanation) -> bool:
    """Whether its maps are of concepts that the method found, and not of the categories asked for."""
    return isinstance(find_method(explanation.method).request, Concepts)


def categories_of(explanations: Sequence[Explanation]) -> list[int]:
    """The class indices explained for the one image there is; none where all found concepts of their own."""
    asked = [each for each in explanations if not has_concepts(each)]
    return [int(cast("int", category)) for category in asked[0].targets[0]] if asked else []


def concepts_of(classifier: Classifier, explanation: Explanation) -> list[str]:
    """A line for every concept, ``282 tiger cat (score 9.31)``: the class that the network sees in it."""
    pairs = zip(explanation.targets[0], explanation.scores[0], strict=True)
    return [f"{named(classifier, int(category))} (score {float(score):.2f})" for category, score in pairs]


def probability(classifier: Classifier, explanation: Explanation, category: int) -> float:
    """The score of ``category`` as the classifier's head turns logits into scores, in [0, 1]."""
    logits = explanation.logits[0].double()
    scores = logits.sigmoid() if classifier.activation == "sigmoid" else logits.softmax(0)
    return float(scores[category])


def label(classifier: Classifier, explanation: Explanation, category: int) -> str:
    """``281 tabby cat (0.71)``, or ``category 281 (0.71)`` where the names are unknown."""
    return f"{named(classifier, category)} ({probability(classifier, explanation, category):.2f})"


def named(classifier: Classifier, category: int) -> str:
    """``281 tabby cat``, or ``category 281`` where the names are unknown."""
    return f"{category} {classifier.name(category)}" if classifier.classes else classifier.name(category)


def report(classifier: Classifier, explanations: Sequence[Explanation], defaults: Defaults | None = None) -> None:
    """Print the target layers, the predicted class and, where others were asked for, those explained; concepts too."""
    report_layers(classifier, explanations, defaults or {})
    first = explanations[0]
    report_output(classifier, first.output, first.other_outputs)
    top = int(first.logits[0].argmax())
    print(f"predicted: {label(classifier, first, top)}")
    categories = categories_of(explanations)
    if categories not in ([], [top]):
        print(f"explained: {', '.join(label(classifier, first, category) for category in categories)}")
    for explanation in filter(has_concepts, explanations):
        for number, line in enumerate(concepts_of(classifier, explanation), 1):
            print(f"concept {number}: {line}")


def report_layers(classifier: Classifier, explanations: Sequence[Explanation], defaults: Defaults) -> None:
    """Print what the maps were made of; where methods differ in it, which is whose."""
    groups: dict[tuple[bool, tuple[str, ...]], list[Explanation]] = {}
    for explanation in explanations:
        is_of_layers = explanation.raw.keys() == set(explanation.layers)
        groups.setdefault((is_of_layers, explanation.layers), []).append(explanation)
    for (is_of_layers, layers), group in groups.items():
        whose = ", ".join(each.method for each in group) if len(group) < SEVERAL else f"{len(group)} methods"
        whose = f" of {whose}" if len(groups) > 1 else ""
        chosen = defaults.get(find_method(group[0].method).default_layers, ())
        whys = {choice.name: choice.why for choice in chosen}
        if not is_of_layers:
            if layers:
                blocks = layers[0] if len(layers) == 1 else f"{layers[0]} to {layers[-1]} ({len(layers)})"
                print(f"attention blocks{whose}: {blocks}")
            continue
        # Guided methods have the input's resolution at every layer.
        of_layers = next((each for each in group if each.pixels is None), None)
        for layer in layers:
            about = [whys[layer]] if layer in whys else []
            shape = f", grid {'x'.join(map(str, of_layers.raw[layer].shape[2:]))}" if of_layers else ""
            about.append(f"{type(classifier.model.get_submodule(split_branch(layer)[0])).__name__}{shape}")
            print(f"target layer{whose}: {layer} ({'; '.join(about)})")


def report_output(classifier: Classifier, name: str, others: Sequence[str]) -> None:
    """Print which of several tensors that the model returns is explained; nothing where there is one."""
    if name and name == getattr(classifier.output, "__name__", None):
        print(f"output: {name} (what the network predicts from; --output takes one of its parts)")
    elif others:
        print(f"output: {name} (the model returns several; --output takes another: {', '.join(others)})")


def draw(prepared: Prepared, explanation: Explanation, style: Style) -> list[Picture]:
    """One overlay per category; of concepts one picture of them all, and of guided methods no overlays."""
    image, heats, seen = _laid_over(prepared, explanation, style)
    if has_concepts(explanation):
        numbers = [str(number + 1) for number in range(len(heats))]
        return [concepts(image, np.stack(heats), labels=numbers, alpha=style.alpha, seen=seen)]
    if explanation.pixels is not None:
        return [saliency(heat) for heat in heats]
    return [overlay(image, heat, colormap=style.colormap, alpha=style.alpha, seen=seen) for heat in heats]


def _laid_over(
    prepared: Prepared, explanation: Explanation, style: Style
) -> tuple[Picture, list[NDArray[np.float32]], NDArray[np.bool_] | None]:
    """The image, the maps in its size, and where the network saw it; None for everywhere."""
    image, seen = prepared.original if style.original_size else prepared.picture, None
    heats = []
    for heat in explanation.maps[0].cpu().numpy():
        if style.original_size:
            heat, seen = prepared.to_original(heat)
        # A data preprocessor may pad the picture to a multiple of a stride: that part of the map lies beside it.
        heats.append(heat[: image.shape[0], : image.shape[1]])
    return image, heats, seen


def draw_grid(classifier: Classifier, prepared: Prepared, explanations: Sequence[Explanation], style: Style) -> Picture:
    """Methods by categories in one labelled picture; concepts have one picture, and beside it what they are."""
    first = explanations[0]
    columns = [label(classifier, first, category) for category in categories_of(explanations)] or ["concepts"]
    if len(columns) == 1 and any(map(has_concepts, explanations)):
        columns.append("")  # for what the concepts are
    rows: list[list[Picture | str]] = []
    for explanation in explanations:
        row: list[Picture | str] = [*draw(prepared, explanation, style)]
        texts = [legend(classifier, explanation)] if has_concepts(explanation) else []
        rows.append([*row, *texts, *[""] * len(columns)][: len(columns)])
    return grid(rows, [each.method for each in explanations], columns)


def legend(classifier: Classifier, explanation: Explanation) -> str:
    """What concepts are, as :func:`camkit.render.write` takes it."""
    return "\n".join(f"[{n}] {n}: {line}" for n, line in enumerate(concepts_of(classifier, explanation), 1))


def write(files: Mapping[Path, Writer]) -> None:
    """Write all files or none, and say where."""
    write_together(files)
    for path in files:
        print(f"wrote: {path}")


def warn(line: str) -> None:
    """A line on standard error that doesn't stop the command."""
    print(f"camkit: warning: {line}", file=sys.stderr)
