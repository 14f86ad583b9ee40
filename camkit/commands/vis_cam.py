"""``camkit vis-cam``: MMPretrain's CAM tool, flag by flag."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from torch import nn

from camkit.cam import Explanation
from camkit.commands import arguments, job
from camkit.commands.arguments import unfold as unfold
from camkit.errors import UsageError
from camkit.layers import resolve
from camkit.methods import Method, configured, find_method
from camkit.render import find_colormap
from camkit.save import PICTURE_SUFFIXES, Writer, check_suffix, check_writable, picture_writer, raw_writer
from camkit.show import require_display, show

if TYPE_CHECKING:
    from camkit.adapters.classifier import Classifier
    from camkit.adapters.prepared import Prepared
    from camkit.render import Picture


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags, with the spellings of MMPretrain's tool."""
    parser.add_argument("img", help="image file")
    arguments.add_model(
        parser,
        checkpoint="checkpoint file or URL, .pth or .safetensors; default: the framework's own weights (MMPretrain has "
        "none)",
    )
    arguments.add_reading(parser)
    arguments.add_target_layers(parser)
    parser.add_argument("--preview-model", action="store_true", help="print the names usable in --target-layers")
    arguments.add_methods(parser, default="GradCAM")
    parser.add_argument(
        "--eigen-smooth",
        "--eigen_smooth",
        action="store_true",
        help="reduce to the first principal component of the weighted activations",
    )
    parser.add_argument(
        "--aug-smooth", "--aug_smooth", action="store_true", help="average over six test-time augmentations"
    )
    parser.add_argument(
        "--save-path",
        type=Path,
        help=f"where to write the picture ({', '.join(PICTURE_SUFFIXES)}); of several, each name gets the method or "
        "category; default: show it in a window",
    )
    parser.add_argument("--grid", action="store_true", help="one picture, methods by categories")
    parser.add_argument(
        "--save-raw",
        type=Path,
        metavar="FILE.npz",
        help="write the signed maps at layer resolution and how they were made (and open no window)",
    )
    parser.add_argument("--original-size", action="store_true", help="draw on the whole input image")
    parser.add_argument("--colormap", default="jet", help="an OpenCV colour map; default: jet")
    parser.add_argument("--alpha", type=float, default=0.5, help="the heat's share, 0 to 1; default: 0.5")
    parser.add_argument("--vit-like", action="store_true", help="accepted; token layers are recognised without it")


def main(options: argparse.Namespace) -> None:
    """Explain one image."""
    methods = [find_method(name) for name in options.method or ["GradCAM"]]
    arguments.check_once("--method", [method.name for method in methods])
    methods = configured(methods, arguments.method_options(options.method_options))
    _check(options)
    classifier = arguments.load(options, pretrained=not options.preview_model)  # names need no weights
    if options.preview_model:
        preview(classifier.model)
        return
    if options.target_layers:
        resolve(classifier.model, options.target_layers)
    prepared = classifier.prepare(options.img)
    categories, setup = options.target_category, arguments.setup(options, classifier)
    defaults: job.Defaults = {}
    if not options.target_layers:
        defaults = job.choose_layers(classifier, prepared, methods, categories=categories, setup=setup)
    explanations = job.explain(
        classifier,
        prepared,
        methods,
        target_layers=options.target_layers,
        defaults=defaults,
        categories=categories,
        setup=setup,
        batch_size=options.batch_size,
        eigen_smooth=options.eigen_smooth,
        aug_smooth=options.aug_smooth,
    )
    job.report(classifier, explanations, defaults)
    pictures = _pictures(classifier, prepared, explanations, options)
    files: dict[Path, Writer] = {}
    if options.save_path:
        path = options.save_path
        named = {path.with_stem("-".join([path.stem, *name])): picture for name, picture in pictures.items()}
        files |= {path: picture_writer(path, picture) for path, picture in named.items()}
    if options.save_raw:
        story = provenance(classifier, methods, explanations, options)
        files[options.save_raw] = raw_writer(raw(explanations), story)
    job.write(files)
    if not files:
        show({" ".join(["camkit", *name]): picture for name, picture in pictures.items()})


def preview(model: nn.Module) -> None:
    """Print the module tree, every line starting with a name that ``--target-layers`` takes."""
    modules = {name: module for name, module in model.named_modules() if name}
    width = max(len(name) for name in modules)
    for name, module in modules.items():
        # A leaf's own line says its sizes; a container's repr would be the whole tree below it.
        text = type(module).__name__ if list(module.children()) else str(module).splitlines()[0]
        print(f"{name.ljust(width)}  {'  ' * name.count('.')}{text}")


def raw(explanations: Sequence[Explanation]) -> dict[str, NDArray[Any]]:
    """The signed maps of the one image by method and layer, and what guided methods say of every input channel."""
    arrays = {f"{each.method}/{layer}": maps for each in explanations for layer, maps in each.raw.items()}
    arrays |= {f"{each.method}.pixels": each.pixels for each in explanations if each.pixels is not None}
    return {name: array[0].cpu().numpy() for name, array in arrays.items()}


def provenance(
    classifier: Classifier, methods: Sequence[Method], explanations: Sequence[Explanation], options: argparse.Namespace
) -> dict[str, object]:
    """How the maps were made."""
    first = explanations[0]
    categories = job.categories_of(explanations)
    asked = [each for each in explanations if not job.has_concepts(each)]
    checkpoint = classifier.checkpoint
    return {
        "image": str(options.img),
        "config": classifier.source,
        "cfg_options": options.cfg_options,
        "checkpoint": checkpoint and {"source": checkpoint.source, "sha256": checkpoint.sha256},
        "methods": [method.name for method in methods],
        "method_options": {method.name: dict(method.options) for method in methods},
        "layers": {each.method: list(each.layers) for each in explanations},
        "smoothing": list(first.smoothing),
        "num_extra_tokens": options.num_extra_tokens,
        "output": first.output,
        "categories": categories,
        "names": [classifier.name(category) for category in categories],
        "scores": [float(score) for score in asked[0].scores[0]] if asked else [],
        "probabilities": [job.probability(classifier, first, category) for category in categories],
        "concepts": {each.method: _concepts(classifier, each) for each in explanations if job.has_concepts(each)},
        "input_size": list(first.maps.shape[2:]),
        "device": options.device,
        "versions": first.versions,
    }


def _concepts(classifier: Classifier, explanation: Explanation) -> list[dict[str, object]]:
    pairs = zip(explanation.targets[0], explanation.scores[0], strict=True)
    return [
        {"category": int(category), "name": classifier.name(int(category)), "score": float(score)}
        for category, score in pairs
    ]


def _check(options: argparse.Namespace) -> None:
    """Refuse what can be refused before the model loads."""
    find_colormap(options.colormap)
    if not 0 <= options.alpha <= 1:
        raise UsageError(f"--alpha is the heat's share, 0 to 1, got {options.alpha}")
    arguments.check_once("--target-category", options.target_category)
    if options.save_path:
        check_writable(check_suffix(options.save_path, PICTURE_SUFFIXES))
    if options.save_raw:
        check_writable(check_suffix(options.save_raw, (".npz",)))
    if not (options.save_path or options.save_raw or options.preview_model):
        require_display()


def _pictures(
    classifier: Classifier, prepared: Prepared, explanations: Sequence[Explanation], options: argparse.Namespace
) -> dict[tuple[str, ...], Picture]:
    """Pictures by the parts of their names; a single one needs none."""
    style = job.Style(options.colormap, options.alpha, options.original_size)
    if options.grid:
        return {(): job.draw_grid(classifier, prepared, explanations, style)}
    categories = [str(category) for category in job.categories_of(explanations)]
    pictures: dict[tuple[str, ...], Picture] = {}
    for explanation in explanations:
        method = (explanation.method,) if len(explanations) > 1 else ()
        drawn = job.draw(prepared, explanation, style)
        names = [(category,) for category in categories] if len(drawn) > 1 else [()]
        pictures |= {method + name: picture for name, picture in zip(names, drawn, strict=True)}
    return pictures
