"""What the commands that explain an image share: they print how it goes, what was found and where files went."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camkit.cli.progress import Bar
from camkit.engine.hooks import parse_name
from camkit.explaining import explain
from camkit.methods import METHODS
from camkit.raw import categories_of
from camkit.visualize.grid import grid
from camkit.visualize.overlay import fit_maps
from camkit.visualize.save import Writer, write_together

if TYPE_CHECKING:
    from camkit.explanation import Explanation
    from camkit.methods import Method
    from camkit.models.classifier import Classifier
    from camkit.models.prepared import Prepared
    from camkit.visualize.overlay import Style
    from camkit.visualize.picture import Picture

MAX_NAMED = 5
"""More methods than these with the same target layers are counted, not named."""


def prepare(classifier: Classifier, path: str, bands: Sequence[int] = (), *, original_size: bool = False) -> Prepared:
    """Read and preprocess an image, and print how it is drawn where that isn't as it is.

    Args:
        classifier: Whose preprocessing it is.
        path: The image.
        bands: See :class:`camkit.models.prepared.Prepared`.
        original_size: Whether the whole image is drawn, not what the network saw.

    Raises:
        CamkitError: See :meth:`camkit.models.classifier.Classifier.prepare`.
        UsageError: The image doesn't have such bands.
    """
    prepared = replace(classifier.prepare(path), bands=tuple(bands))
    if shown := prepared.how_shown(original_size=original_size):
        print(f"picture: {shown}")
    return prepared


def explain_image(
    classifier: Classifier,
    prepared: Prepared,
    methods: Sequence[Method],
    categories: Sequence[int] = (),
    *,
    target_layers: Sequence[str] = (),
    **settings: Any,
) -> list[Explanation]:
    """Explain an image with several methods, show the progress, and print warnings of empty maps.

    Args:
        classifier: The model.
        prepared: The image.
        methods: With their options.
        categories: Class indices; none for the predicted one.
        target_layers: Names; none for the default ones.
        **settings: Of :func:`camkit.explain`, such as ``aug_smooth``.
    """
    targets = [list(categories)] if categories else None
    layers = list(target_layers) or None
    with Bar(", ".join(method.name for method in methods)) as bar:
        found = explain(classifier.model, prepared.inputs, methods, targets, layers, progress=bar, **settings)
    explanations = list(found.values())
    for explanation in explanations:
        for line in explanation.empty.values():
            print_warning(f"{explanation.method}: {line}")
    return explanations


def print_report(classifier: Classifier, explanations: Sequence[Explanation]) -> None:
    """Print the target layers, the predicted class, the classes explained where they are others, and the concepts."""
    print_layers(classifier, explanations)
    first = explanations[0]
    print_output(classifier, first.output, first.other_outputs)
    logits = first.logits[0]
    top = int(logits.argmax())
    print(f"predicted: {classifier.label(logits, top)}")
    categories = categories_of(explanations)
    if categories not in ([], [top]):
        print(f"explained: {', '.join(classifier.label(logits, category) for category in categories)}")
    for explanation in explanations:
        if explanation.finds_concepts:
            for number, line in enumerate(concept_labels(classifier, explanation), 1):
                print(f"concept {number}: {line}")


def print_layers(classifier: Classifier, explanations: Sequence[Explanation]) -> None:
    """Print the target layers, or attention blocks; where the methods' differ, which are whose."""
    groups: dict[tuple[bool, tuple[str, ...]], list[Explanation]] = {}
    for explanation in explanations:
        key = METHODS[explanation.method].of_layers, explanation.layers
        groups.setdefault(key, []).append(explanation)
    for (of_layers, layers), group in groups.items():
        whose = ", ".join(each.method for each in group) if len(group) <= MAX_NAMED else f"{len(group)} methods"
        whose = f" of {whose}" if len(groups) > 1 else ""
        if of_layers:
            for layer in layers:
                print(f"target layer{whose}: {layer} ({_about_layer(classifier, layer, group)})")
        elif layers:
            blocks = layers[0] if len(layers) == 1 else f"{layers[0]} to {layers[-1]} ({len(layers)})"
            print(f"attention blocks{whose}: {blocks}")


def print_output(classifier: Classifier, name: str, others: Sequence[str]) -> None:
    """Print which part of the model's output is explained; nothing where there is only one."""
    if name and name == getattr(classifier.output, "__name__", None):
        print(f"output: {name} (what the network predicts from; --output takes one of its parts)")
    elif others:
        print(f"output: {name} (the model returns several; --output takes another: {', '.join(others)})")


def concept_labels(classifier: Classifier, explanation: Explanation) -> list[str]:
    """The class that the network sees in each concept, with its score: ``282 tiger cat (score 9.31)``."""
    pairs = zip(explanation.targets[0], explanation.scores[0], strict=True)
    return [f"{classifier.named(int(category))} (score {float(score):.2f})" for category, score in pairs]


def legend(classifier: Classifier, explanation: Explanation) -> str:
    """The concepts as text beside their picture, see :meth:`camkit.visualize.page.Page.paragraph`."""
    lines = enumerate(concept_labels(classifier, explanation), 1)
    return "\n".join(f"[{number}] {number}: {line}" for number, line in lines)


def draw(
    prepared: Prepared, explanation: Explanation, style: Style | None = None, *, original_size: bool = False
) -> list[Picture]:
    """Draw the maps on the picture that the network saw, or on the whole image."""
    image, maps, seen = fit_maps(prepared, explanation.maps[0], original_size=original_size)
    return explanation.pictures(image, style=style, maps=maps, seen=seen)


def draw_grid(
    classifier: Classifier,
    prepared: Prepared,
    explanations: Sequence[Explanation],
    style: Style | None = None,
    *,
    original_size: bool = False,
) -> Picture:
    """Draw methods by categories in one labelled picture; concepts are one picture, with their labels beside it."""
    logits = explanations[0].logits[0]
    columns = [classifier.label(logits, category) for category in categories_of(explanations)] or ["concepts"]
    if len(columns) == 1 and any(each.finds_concepts for each in explanations):
        columns.append("")  # for the concepts' labels
    rows: list[list[Picture | str]] = []
    for explanation in explanations:
        row: list[Picture | str] = [*draw(prepared, explanation, style, original_size=original_size)]
        if explanation.finds_concepts:
            row.append(legend(classifier, explanation))
        rows.append([*row, *[""] * len(columns)][: len(columns)])
    return grid(rows, [each.method for each in explanations], columns)


def write_files(files: Mapping[Path, Writer]) -> None:
    """Write all files or none, and print their paths."""
    write_together(files)
    for path in files:
        print(f"wrote: {path}")


def print_warning(line: str) -> None:
    """Print a warning on standard error."""
    print(f"camkit: warning: {line}", file=sys.stderr)


def _about_layer(classifier: Classifier, layer: str, group: Sequence[Explanation]) -> str:
    """Why a default layer was chosen, its type and its grid."""
    about = [reasons[layer]] if layer in (reasons := group[0].layer_reasons) else []
    module = classifier.model.get_submodule(parse_name(layer).module)
    # Maps with an attribution of every pixel have the input's size at every layer.
    of_layer = next((each for each in group if each.pixels is None), None)
    grid_size = f", grid {'x'.join(map(str, of_layer.raw[layer].shape[2:]))}" if of_layer else ""
    return "; ".join([*about, f"{type(module).__name__}{grid_size}"])
