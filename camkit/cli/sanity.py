"""``camkit sanity``: maps of one image while the network is randomised from the output on."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from camkit.cli import flags, printing
from camkit.cli.progress import Bar
from camkit.cli.table import show
from camkit.errors import UsageError
from camkit.explaining import explain
from camkit.layers.names import find_layers
from camkit.methods import configured, find_method
from camkit.metrics.randomisation import correlations, entropy_rise, explain_in_cascade
from camkit.raw import categories_of
from camkit.visualize.grid import grid
from camkit.visualize.save import PICTURE_SUFFIXES, check_suffix, check_writable, picture_writer
from camkit.visualize.window import require_display
from camkit.visualize.window import show as show_window

if TYPE_CHECKING:
    from camkit.cli.parser import Parser
    from camkit.explanation import Explanation
    from camkit.methods import Method
    from camkit.models.classifier import Classifier
    from camkit.models.prepared import Prepared
    from camkit.visualize.picture import Picture

TRAINED = "trained"
READING = (
    "MPRT: rank correlation with the trained network's map; near 1 where nothing trained is left means that the map "
    "shows the image, not what the network learned"
)


@dataclass(frozen=True)
class Row:
    """One method's maps for one class, while the network forgets.

    Attributes:
        label: The method, and the class index where there are several.
        method: The method's name.
        category: The class index.
        pictures: Of the trained network, and after each step.
        correlations: Of MPRT, after each step.
        mprt: Their mean.
        efficient_mprt: Of the trained network and the wholly random one.
        notes: Lines about maps that are the same everywhere.
    """

    label: str
    method: str
    category: int
    pictures: list[Picture]
    correlations: list[float]
    mprt: float
    efficient_mprt: float
    notes: list[str]


def add_arguments(parser: Parser) -> None:
    """Add the command's flags, shared with ``camkit vis-cam``."""
    parser.add_argument("img", help="image file")
    flags.add_model(
        parser,
        checkpoint="checkpoint file or URL, .pth or .safetensors; default: the framework's own weights (MMPretrain has "
        "none)",
    )
    flags.add_reading(parser)
    flags.add_target_layers(parser)
    flags.add_methods(parser, default="GradCAM")
    flags.add_smoothing(parser)
    parser.add_argument(
        "--groups",
        type=flags.positive_count,
        default=16,
        metavar="N",
        help="in how many steps at most the layers are randomised; default: 16",
    )
    parser.add_argument(
        "--save-path",
        type=flags.path,
        help=f"where to write the picture ({', '.join(PICTURE_SUFFIXES)}); default: show it in a window",
    )
    parser.add_argument("--json", action="store_true", help="print the figures for programs (and open no window)")
    flags.add_style(parser)
    flags.add_bands(parser)


def main(options: argparse.Namespace) -> None:
    """Randomise the network step by step, and explain it after each."""
    methods = [find_method(name) for name in options.method or ["GradCAM"]]
    flags.check_once("--method", [method.name for method in methods])
    methods = configured(methods, flags.method_options(options.method_options))
    _check(methods, options)
    with redirect_stdout(sys.stderr) if options.json else nullcontext():
        classifier = flags.load_classifier(options)
        categories = flags.categories(options, classifier)
        if options.target_layers:
            find_layers(classifier.model, options.target_layers)
        prepared = printing.prepare(classifier, options.img, options.bands, original_size=options.original_size)
        settings = {
            "num_extra_tokens": options.num_extra_tokens,
            "output": flags.output(options, classifier),
            "batch_size": options.batch_size,
            "eigen_smooth": options.eigen_smooth,
            "aug_smooth": options.aug_smooth,
        }
        trained = printing.explain_image(
            classifier, prepared, methods, categories, target_layers=options.target_layers, **settings
        )
        printing.print_report(classifier, trained)
        with Bar("random networks") as bar:
            random = explain_in_cascade(
                classifier.model,
                prepared.inputs,
                lambda: again(classifier, prepared, methods, trained, settings),
                groups=options.groups,
                seed=options.seed,
                progress=bar,
            )
        rows = [
            row
            for number, explanation in enumerate(trained)
            for row in rows_of(
                prepared, [explanation, *(each[number] for each in random.values())], list(random), options
            )
        ]
        for row in rows:
            for line in row.notes:
                printing.print_warning(f"{row.label}: {line}")
        if not options.json or options.save_path:
            picture = draw(rows, list(random))
        if options.save_path:
            printing.write_files({options.save_path: picture_writer(options.save_path, picture)})
    if options.json:
        print(json.dumps(told(classifier, trained, rows, list(random), options)))
        return
    print_figures(rows, list(random))
    if not options.save_path:
        show_window({"camkit sanity": picture})


def again(
    classifier: Classifier,
    prepared: Prepared,
    methods: Sequence[Method],
    trained: Sequence[Explanation],
    settings: Mapping[str, Any],
) -> list[Explanation]:
    """Explain the network as it is now, by all methods, for the classes and at the layers of the trained one."""
    targets = [categories_of(trained)]
    found: list[Explanation] = []
    for method, before in zip(methods, trained, strict=True):
        layers = list(before.layers) if method.takes_layers else None
        found += explain(classifier.model, prepared.inputs, method, targets, layers, **settings).values()
    return found


def rows_of(
    prepared: Prepared, explanations: Sequence[Explanation], steps: Sequence[str], options: argparse.Namespace
) -> list[Row]:
    """One method's rows: a row per class, a single one of a method that asks for none.

    Args:
        prepared: The image.
        explanations: Of the trained network, and after each step.
        steps: Names of the steps.
        options: The command's.
    """
    first = explanations[0]
    categories = categories_of([first])
    categories = categories if first.depends_on_targets else categories[:1]
    style, whole = flags.style(options), options.original_size
    drawn = [printing.draw(prepared, each, style, original_size=whole) for each in explanations]
    maps = [each.maps[0, : len(categories)].double().cpu() for each in explanations]
    similar, rise = correlations(maps[0], dict(zip(steps, maps[1:], strict=True))), entropy_rise(maps[0], maps[-1])
    return [
        Row(
            label=f"{first.method} {category}" if len(categories) > 1 else first.method,
            method=first.method,
            category=category,
            pictures=[pictures[number] for pictures in drawn],
            correlations=similar.curves["correlation"][number].tolist(),
            mprt=float(similar.values[number]),
            efficient_mprt=float(rise.values[number]),
            notes=[each.notes[number] for each in (similar, rise) if number in each.notes],
        )
        for number, category in enumerate(categories)
    ]


def draw(rows: Sequence[Row], steps: Sequence[str]) -> Picture:
    """Draw methods by steps, each map with its correlation below it."""
    notes = [
        [
            f"MPRT {row.mprt:.2f}, efficient {row.efficient_mprt:+.2f}",
            *(f"{each:.2f}" for each in row.correlations),
        ]
        for row in rows
    ]
    columns = [TRAINED, *(f"{number}: {step}" for number, step in enumerate(steps, 1))]
    return grid([row.pictures for row in rows], [row.label for row in rows], columns, notes=notes)


def print_figures(rows: Sequence[Row], steps: Sequence[str]) -> None:
    """Print MPRT's figures, steps by methods."""
    print(f"\n{READING}\n")
    lines = [
        (str(number + 1), step, *(f"{row.correlations[number]:.2f}" for row in rows))
        for number, step in enumerate(steps)
    ]
    lines.append(("", "MPRT, mean", *(f"{row.mprt:.2f}" for row in rows)))
    lines.append(("", "efficient MPRT", *(f"{row.efficient_mprt:+.2f}" for row in rows)))
    show(("step", "random from the output to", *(row.label for row in rows)), lines)


def told(
    classifier: Classifier,
    trained: Sequence[Explanation],
    rows: Sequence[Row],
    steps: Sequence[str],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """The figures, as JSON holds them."""
    logits = trained[0].logits[0]
    return {
        "image": options.img,
        "config": classifier.source,
        "seed": options.seed,
        "picture": options.save_path and str(options.save_path),
        "layers": {each.method: list(each.layers) for each in trained},
        "steps": list(steps),
        "rows": [
            {
                "method": row.method,
                "category": row.category,
                "name": classifier.name(row.category),
                "probability": classifier.probability(logits, row.category),
                "correlations": row.correlations,
                "mprt": row.mprt,
                "efficient_mprt": row.efficient_mprt,
                "notes": row.notes,
            }
            for row in rows
        ],
    }


def _check(methods: Sequence[Method], options: argparse.Namespace) -> None:
    """Refuse what can be refused before the model loads."""
    flags.style(options)
    flags.check_once("--target-category", options.target_category)
    for method in methods:
        if method.need.finds_targets:
            raise UsageError(f"{method.name} finds other concepts in each network: there is nothing to compare")
    if options.save_path:
        check_writable(check_suffix(options.save_path, PICTURE_SUFFIXES))
    elif not options.json:
        require_display()
