"""``camkit vis-cam``: explain one image, with the flags of MMPretrain's CAM tool."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from camkit import raw
from camkit.cli import flags, printing
from camkit.layers.names import find_layers
from camkit.methods import configured, find_method
from camkit.visualize.save import PICTURE_SUFFIXES, Writer, check_suffix, check_writable, picture_writer, raw_writer
from camkit.visualize.window import require_display, show

if TYPE_CHECKING:
    from torch import nn

    from camkit.cli.parser import Parser
    from camkit.explanation import Explanation
    from camkit.models.classifier import Classifier
    from camkit.models.prepared import Prepared
    from camkit.visualize.picture import Picture


def add_arguments(parser: Parser) -> None:
    """Add the command's flags, spelled as in MMPretrain's tool."""
    parser.add_argument("img", help="image file")
    flags.add_model(
        parser,
        checkpoint="checkpoint file or URL, .pth or .safetensors; default: the framework's own weights (MMPretrain has "
        "none)",
    )
    flags.add_reading(parser)
    flags.add_target_layers(parser)
    parser.add_argument("--preview-model", action="store_true", help="print the names usable in --target-layers")
    flags.add_methods(parser, default="GradCAM")
    flags.add_smoothing(parser)
    parser.add_argument(
        "--save-path",
        type=flags.path,
        help=f"where to write the picture ({', '.join(PICTURE_SUFFIXES)}); of several, each name gets the method or "
        "category; default: show it in a window",
    )
    parser.add_argument("--grid", action="store_true", help="one picture, methods by categories")
    parser.add_argument(
        "--save-raw",
        type=flags.path,
        metavar="FILE.npz",
        help="write the signed maps at layer resolution and how they were made (and open no window)",
    )
    flags.add_style(parser)
    flags.add_bands(parser)
    parser.add_argument("--vit-like", action="store_true", help="accepted; token layers are recognised without it")


def main(options: argparse.Namespace) -> None:
    """Explain one image."""
    methods = [find_method(name) for name in options.method or ["GradCAM"]]
    flags.check_once("--method", [method.name for method in methods])
    methods = configured(methods, flags.method_options(options.method_options))
    _check(options)
    classifier = flags.load_classifier(options, pretrained=not options.preview_model)  # names need no weights
    if options.preview_model:
        preview(classifier.model)
        return
    categories = flags.categories(options, classifier)
    if options.target_layers:
        find_layers(classifier.model, options.target_layers)  # before the image is read
    prepared = printing.prepare(classifier, options.img, options.bands, original_size=options.original_size)
    explanations = printing.explain_image(
        classifier,
        prepared,
        methods,
        categories,
        target_layers=options.target_layers,
        num_extra_tokens=options.num_extra_tokens,
        output=flags.output(options, classifier),
        batch_size=options.batch_size,
        eigen_smooth=options.eigen_smooth,
        aug_smooth=options.aug_smooth,
    )
    printing.print_report(classifier, explanations)
    pictures = draw(classifier, prepared, explanations, options)
    files: dict[Path, Writer] = {}
    if options.save_path:
        files |= picture_files(options.save_path, pictures)
    if options.save_raw:
        told = raw.provenance(
            classifier,
            explanations,
            image=str(options.img),
            device=options.device,
            cfg_options=options.cfg_options,
            num_extra_tokens=options.num_extra_tokens,
        )
        files[options.save_raw] = raw_writer(raw.arrays(explanations), told)
    printing.write_files(files)
    if not files:
        show({" ".join(["camkit", *name]): picture for name, picture in pictures.items()})


def preview(model: nn.Module) -> None:
    """Print the module tree; every line begins with a name that ``--target-layers`` takes."""
    modules = {name: module for name, module in model.named_modules() if name}
    width = max(len(name) for name in modules)
    for name, module in modules.items():
        # A leaf's own line gives its sizes; the repr of a container would be the whole tree below it.
        text = type(module).__name__ if list(module.children()) else str(module).splitlines()[0]
        print(f"{name.ljust(width)}  {'  ' * name.count('.')}{text}")


def draw(
    classifier: Classifier, prepared: Prepared, explanations: Sequence[Explanation], options: argparse.Namespace
) -> dict[tuple[str, ...], Picture]:
    """The pictures by what tells them apart: method, category, both, or nothing for a single one."""
    style = flags.style(options)
    if options.grid:
        return {(): printing.draw_grid(classifier, prepared, explanations, style, original_size=options.original_size)}
    categories = [(str(category),) for category in raw.categories_of(explanations)]
    pictures: dict[tuple[str, ...], Picture] = {}
    for explanation in explanations:
        method = (explanation.method,) if len(explanations) > 1 else ()
        drawn = printing.draw(prepared, explanation, style, original_size=options.original_size)
        names: Sequence[tuple[str, ...]] = categories if len(drawn) > 1 else [()]
        pictures |= {method + name: picture for name, picture in zip(names, drawn, strict=True)}
    return pictures


def picture_files(path: Path, pictures: Mapping[tuple[str, ...], Picture]) -> dict[Path, Writer]:
    """Files for :func:`draw`'s pictures: ``out.png``, or ``out-GradCAM-281.png`` and so on for several."""
    named = {path.with_stem("-".join([path.stem, *name])): picture for name, picture in pictures.items()}
    return {each: picture_writer(each, picture) for each, picture in named.items()}


def _check(options: argparse.Namespace) -> None:
    """Refuse what can be refused before the model loads."""
    flags.style(options)
    flags.check_once("--target-category", options.target_category)
    if options.save_path:
        check_writable(check_suffix(options.save_path, PICTURE_SUFFIXES))
    if options.save_raw:
        check_writable(check_suffix(options.save_raw, (".npz",)))
    if not (options.save_path or options.save_raw or options.preview_model):
        require_display()
