"""``camkit gallery``: every method's view of one image, on one page."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camkit.adapters import mmpretrain
from camkit.cam import Explanation
from camkit.commands import arguments, demo, job
from camkit.commands.arguments import unfold as unfold
from camkit.errors import CamkitError
from camkit.forward import Setup
from camkit.layers import resolve
from camkit.methods import FAMILIES, METHODS, Method, configured, find_method
from camkit.probe import Choice
from camkit.render import Picture
from camkit.save import PICTURE_SUFFIXES, check_suffix, check_writable, picture_writer, save_picture
from camkit.sheet import Cell, sheet

if TYPE_CHECKING:
    from camkit.adapters.classifier import Classifier
    from camkit.adapters.prepared import Prepared

FEWER: Mapping[str, Mapping[str, Any]] = {
    "ScoreCAM": {"top_k": 256},
    "SS-CAM": {"top_k": 64, "num_samples": 8},
    "IS-CAM": {"top_k": 64, "num_samples": 8},
}
"""Options that keep the methods that need many forwards within a minute or two; ``--full`` leaves them alone."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("img", nargs="?", help="image file; default: the demo's cat and espresso")
    arguments.add_model(
        parser,
        config="the demo's network",
        checkpoint="checkpoint file or URL, .pth or .safetensors; default: the framework's own weights",
    )
    arguments.add_reading(parser)
    arguments.add_target_layers(parser)
    arguments.add_methods(parser, default="all of them")
    parser.add_argument("--full", action="store_true", help=f"no fewer forwards than by default ({_fewer()})")
    parser.add_argument(
        "--columns", type=arguments.count, default=6, metavar="N", help="methods side by side; default: 6"
    )
    parser.add_argument(
        "--save-path",
        type=Path,
        default=Path("gallery.png"),
        help=f"where to write the page ({', '.join(PICTURE_SUFFIXES)}); default: gallery.png",
    )


def main(options: argparse.Namespace) -> None:
    """Draw the gallery."""
    methods, reduced = chosen(options.method, arguments.method_options(options.method_options), full=options.full)
    arguments.check_once("--target-category", options.target_category)
    check_writable(check_suffix(options.save_path, PICTURE_SUFFIXES))
    with _subject(options) as (classifier, prepared, own):
        if options.target_layers:
            resolve(classifier.model, options.target_layers)
        found, missing = explain(
            classifier,
            prepared,
            methods,
            target_layers=options.target_layers,
            categories=options.target_category or own,
            setup=arguments.setup(options, classifier),
            batch_size=options.batch_size,
        )
        page = draw(classifier, prepared, methods, found, missing, columns=options.columns)
    for line in reduced:
        print(f"fewer forwards than by default: {line}; --full leaves it alone")
    for name, error in missing.items():
        print(f"not applied: {name}: {error}")
    job.write({options.save_path: picture_writer(options.save_path, page)})


def chosen(names: Sequence[str] | None, given: Mapping[str, Any], *, full: bool) -> tuple[list[Method], list[str]]:
    """The methods by family, as they are set, and lines that say where fewer forwards are made than by default.

    Raises:
        UsageError: a method that doesn't exist or is named twice, or an option that none of them has.
    """
    methods = [find_method(name) for name in names or METHODS]
    arguments.check_once("--method", [method.name for method in methods])
    methods = configured(sorted(methods, key=lambda method: FAMILIES.index(method.family)), given)
    made, lines = [], []
    for method in methods:
        fewer = {} if full else {k: v for k, v in FEWER.get(method.name, {}).items() if k not in given}
        made.append(method.configured(**fewer))
        if fewer:
            lines.append(f"{method.name}: {changes(made[-1], fewer)}")
    return made, lines


def changes(method: Method, names: Mapping[str, Any] | None = None) -> str:
    """``top_k=64 (None)``: the options that differ from the defaults, which stand in parentheses."""
    usual = METHODS[method.name].options
    return ", ".join(
        f"{name}={value!r} ({usual[name]!r})"
        for name, value in method.options.items()
        if value != usual[name] and (names is None or name in names)
    )


def explain(
    classifier: Classifier,
    prepared: Prepared,
    methods: Sequence[Method],
    *,
    target_layers: Sequence[str] = (),
    categories: Sequence[int] = (),
    setup: Setup | None = None,
    batch_size: int | None = None,
) -> tuple[dict[str, Explanation], dict[str, CamkitError]]:
    """What the methods find, one by one, and why those that can't be applied can't; the former is reported.

    Args:
        classifier: see :func:`camkit.commands.job.explain`, as for the arguments not named here.
        prepared: the image.
        methods: as they are set.
        target_layers: for the methods that take layers.
        categories: class indices.
        setup: how the model is read.
        batch_size: of changed images.

    Raises:
        CamkitError: none can be applied.
    """
    found: dict[str, Explanation] = {}
    missing: dict[str, CamkitError] = {}
    defaults: dict[str, Sequence[Choice]] = {}
    for method in methods:
        layers = target_layers if method.takes_layers else ()
        try:
            if not layers and method.default_layers not in defaults:
                defaults |= job.choose_layers(classifier, prepared, [method], categories=categories, setup=setup)
            (found[method.name],) = job.explain(
                classifier,
                prepared,
                [method],
                target_layers=layers,
                defaults=defaults,
                categories=categories,
                setup=setup,
                batch_size=batch_size,
            )
        except CamkitError as error:
            missing[method.name] = error
    if not found:
        raise next(iter(missing.values()))
    job.report(classifier, list(found.values()), defaults)
    return found, missing


def draw(
    classifier: Classifier,
    prepared: Prepared,
    methods: Sequence[Method],
    found: Mapping[str, Explanation],
    missing: Mapping[str, CamkitError],
    *,
    columns: int,
) -> Picture:
    """The page: the image, and a cell per method."""
    explanations = list(found.values())
    first = explanations[0]
    rows = [job.label(classifier, first, category) for category in job.categories_of(explanations)] or ["concepts"]
    top = job.label(classifier, first, int(first.logits[0].argmax()))
    cells = [Cell("image", pictures=[prepared.picture], text=f"predicted: {top}")]
    for method in methods:
        if method.name in missing:
            cells.append(
                Cell(method.name, method.family, "not applied", text=str(missing[method.name]).partition(";")[0])
            )
            continue
        explanation = found[method.name]
        pictures = job.draw(prepared, explanation, job.Style())
        text = ""
        if job.has_concepts(explanation):
            text = job.legend(classifier, explanation)
        elif not method.request.has_targets:
            pictures, text = pictures[:1], "asks for no class"
        cells.append(Cell(method.name, method.family, changes(method), pictures, text))
    source = Path(classifier.source)
    heading = f"{source.stem if source.exists() else source}: {_count(len(found), 'method')}"
    if missing:
        heading += f", {_count(len(missing), 'other')} can't be applied"
    remark = ", ".join(method.name for method in methods if changes(method))
    return sheet(cells, rows, columns, heading, remark and f"{remark}: not the defaults, which stand in parentheses")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


@contextmanager
def _subject(options: argparse.Namespace) -> Iterator[tuple[Classifier, Prepared, list[int]]]:
    """The network, the image, and the categories that are asked for where none are given."""
    if options.config:
        classifier = arguments.load(options)
    else:
        config, checkpoint = demo.build(demo.cache_folder())
        settings = options.cfg_options or ({} if options.img else demo.WHOLE_PICTURE)
        classifier = mmpretrain.load(str(config), str(checkpoint), device=options.device, cfg_options=settings)
    if options.img:
        yield classifier, classifier.prepare(options.img), []
        return
    with tempfile.TemporaryDirectory() as folder:
        image = save_picture(Path(folder) / "input.png", demo.photographs())
        yield classifier, classifier.prepare(image), list(demo.CATEGORIES.values()) if not options.config else []


def _fewer() -> str:
    return "; ".join(
        f"{name}: {', '.join(f'{each}={value}' for each, value in options.items())}" for name, options in FEWER.items()
    )
