"""``camkit gallery``: every method's picture of one image, on one page."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camkit.cli import demo, flags, printing
from camkit.errors import CamkitError
from camkit.layers.names import find_layers
from camkit.methods import FAMILIES, METHODS, configured, find_method
from camkit.models.load import load
from camkit.raw import categories_of
from camkit.visualize.gallery import Cell
from camkit.visualize.gallery import gallery as draw_page
from camkit.visualize.save import PICTURE_SUFFIXES, check_suffix, check_writable, picture_writer, save_picture

if TYPE_CHECKING:
    from camkit.cli.parser import Parser
    from camkit.explanation import Explanation
    from camkit.methods import Method
    from camkit.models.classifier import Classifier
    from camkit.models.prepared import Prepared
    from camkit.visualize.picture import Picture

FEWER: Mapping[str, Mapping[str, Any]] = {
    "ScoreCAM": {"top_k": 256},
    "SS-CAM": {"top_k": 64, "num_samples": 8},
    "IS-CAM": {"top_k": 64, "num_samples": 8},
}
"""Options with which the methods of many forwards take a minute or two; ``--full`` leaves the defaults."""


def add_arguments(parser: Parser) -> None:
    """Add the command's flags."""
    parser.add_argument("img", nargs="?", help="image file; default: the demo's cat and espresso")
    flags.add_model(
        parser,
        config="the demo's network",
        checkpoint="checkpoint file or URL, .pth or .safetensors; default: the framework's own weights",
    )
    flags.add_reading(parser)
    flags.add_target_layers(parser)
    flags.add_bands(parser)
    flags.add_methods(parser, default="all of them")
    parser.add_argument("--full", action="store_true", help=f"no fewer forwards than by default ({_fewer()})")
    parser.add_argument(
        "--columns", type=flags.positive_count, default=6, metavar="N", help="methods side by side; default: 6"
    )
    parser.add_argument(
        "--save-path",
        type=flags.path,
        default=Path("gallery.png"),
        help=f"where to write the page ({', '.join(PICTURE_SUFFIXES)}); default: gallery.png",
    )


def main(options: argparse.Namespace) -> None:
    """Draw the gallery."""
    methods, reduced = chosen(options.method, flags.method_options(options.method_options), full=options.full)
    flags.check_once("--target-category", options.target_category)
    check_writable(check_suffix(options.save_path, PICTURE_SUFFIXES))
    classifier = _classifier(options)
    if options.target_layers:
        find_layers(classifier.model, options.target_layers)
    categories = flags.categories(options, classifier)
    if not (categories or options.img or options.config):
        categories = list(demo.CATEGORIES.values())
    prepared = _image(options, classifier)
    found, missing = explain(
        classifier,
        prepared,
        methods,
        categories=categories,
        target_layers=options.target_layers,
        num_extra_tokens=options.num_extra_tokens,
        output=flags.output(options, classifier),
        batch_size=options.batch_size,
    )
    page = draw(classifier, prepared, methods, found, missing, columns=options.columns)
    for line in reduced:
        print(f"fewer forwards than by default: {line}; --full leaves it alone")
    for name, error in missing.items():
        print(f"not applied: {name}: {error}")
    printing.write_files({options.save_path: picture_writer(options.save_path, page)})


def chosen(names: Sequence[str] | None, given: Mapping[str, Any], *, full: bool) -> tuple[list[Method], list[str]]:
    """Choose and configure methods.

    Args:
        names: Methods in any spelling; None for all.
        given: Options.
        full: Leave the number of forwards at the defaults.

    Returns:
        The methods by family, and a line for each that makes fewer forwards than by default.

    Raises:
        UsageError: A method that doesn't exist or is named twice, or an option that none of them has.
    """
    methods = [find_method(name) for name in names or METHODS]
    flags.check_once("--method", [method.name for method in methods])
    methods = configured(sorted(methods, key=lambda method: FAMILIES.index(method.family)), given)
    made, lines = [], []
    for method in methods:
        fewer = {} if full else {k: v for k, v in FEWER.get(method.name, {}).items() if k not in given}
        made.append(method.configured(**fewer))
        if fewer:
            lines.append(f"{method.name}: {changes(made[-1], fewer)}")
    return made, lines


def changes(method: Method, names: Mapping[str, Any] | None = None) -> str:
    """The options that differ from the defaults, with those in parentheses: ``top_k=64 (None)``."""
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
    categories: Sequence[int] = (),
    target_layers: Sequence[str] = (),
    **settings: Any,
) -> tuple[dict[str, Explanation], dict[str, CamkitError]]:
    """Explain an image with one method after the other, and print the report.

    Args:
        classifier: The model.
        prepared: The image.
        methods: With their options.
        categories: Class indices; none for the predicted one.
        target_layers: For the methods that take layers; none for the default ones.
        **settings: See :func:`camkit.cli.printing.explain_image`.

    Returns:
        Explanations by method, and errors by method for those that can't be applied.

    Raises:
        CamkitError: No method can be applied.
    """
    found: dict[str, Explanation] = {}
    missing: dict[str, CamkitError] = {}
    for method in methods:
        layers = target_layers if method.takes_layers else ()
        try:
            (found[method.name],) = printing.explain_image(
                classifier, prepared, [method], categories, target_layers=layers, **settings
            )
        except CamkitError as error:
            missing[method.name] = error
    if not found:
        raise next(iter(missing.values()))
    printing.print_report(classifier, list(found.values()))
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
    """Draw the page: the image, and a cell per method."""
    explanations = list(found.values())
    logits = explanations[0].logits[0]
    rows = [classifier.label(logits, category) for category in categories_of(explanations)] or ["concepts"]
    top = classifier.label(logits, int(logits.argmax()))
    cells = [Cell("image", pictures=[prepared.picture], text=f"predicted: {top}")]
    for method in methods:
        if method.name in missing:
            reason = str(missing[method.name]).partition(";")[0]
            cells.append(Cell(method.name, method.family, "not applied", text=reason))
            continue
        explanation = found[method.name]
        pictures, text = printing.draw(prepared, explanation), ""
        if explanation.finds_concepts:
            text = printing.legend(classifier, explanation)
        elif not explanation.depends_on_targets:
            pictures, text = pictures[:1], "asks for no class"
        cells.append(Cell(method.name, method.family, changes(method), pictures, text))
    source = Path(classifier.source)
    heading = f"{source.stem if source.exists() else source}: {_count(len(found), 'method')}"
    if missing:
        heading += f", {_count(len(missing), 'other')} can't be applied"
    remark = ", ".join(method.name for method in methods if changes(method))
    return draw_page(
        cells, rows, columns, heading, remark and f"{remark}: not the defaults, which stand in parentheses"
    )


def _classifier(options: argparse.Namespace) -> Classifier:
    """The network that the flags name, or the demo's."""
    if options.config:
        return flags.load_classifier(options)
    config, checkpoint = demo.build_network(demo.cache_folder())
    settings = options.cfg_options or (() if options.img else demo.WHOLE_PICTURE)
    return load(str(config), str(checkpoint), device=options.device, cfg_options=settings)


def _image(options: argparse.Namespace, classifier: Classifier) -> Prepared:
    """The image that the flags name, or the demo's."""
    if options.img:
        return printing.prepare(classifier, options.img, options.bands)
    with tempfile.TemporaryDirectory() as folder:
        path = save_picture(Path(folder) / "input.png", demo.photographs())
        return printing.prepare(classifier, str(path), options.bands)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _fewer() -> str:
    options = {name: ", ".join(f"{key}={value}" for key, value in fewer.items()) for name, fewer in FEWER.items()}
    return "; ".join(f"{name}: {text}" for name, text in options.items())
