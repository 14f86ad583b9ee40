"""``camkit vis-cam``: MMPretrain's CAM tool, flag by flag."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from camkit.cam import Explanation
from camkit.commands import arguments, job
from camkit.errors import UsageError, closest
from camkit.layers import resolve
from camkit.methods import METHODS, find_method
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
    parser.add_argument(
        "--target-layers",
        nargs="+",
        default=[],
        metavar="LAYER",
        help="dotted names, fused by the mean (camkit layers lists them); default: the last norm layer of the backbone "
        "that is spatial and that the class score depends on at more than one place",
    )
    parser.add_argument("--preview-model", action="store_true", help="print the names usable in --target-layers")
    parser.add_argument(
        "--method",
        action="append",
        metavar="METHOD [METHOD ...]",
        help=f"one or more of {', '.join(METHODS)}, in any case; default: GradCAM",
    )
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


def unfold(words: Sequence[str]) -> Iterator[str]:
    """Let ``--method`` take several names and still stand in front of the positional arguments."""
    taking = False
    for index, word in enumerate(words):
        first = index > 0 and words[index - 1] == "--method"
        taking = first or (taking and _looks_like_a_method(word))
        if taking and not first:
            yield "--method"
        yield word
        taking = taking or word.startswith("--method=")


def _looks_like_a_method(word: str) -> bool:
    """Whether a word behind a method is another one, spelt right or nearly so, and no positional argument."""
    names = [spelling for method in METHODS.values() for spelling in (method.name, method.identifier)]
    nearly = bool(closest(word, names)) and not word.startswith("-") and not Path(word).exists()
    return word.lower() in map(str.lower, names) or nearly


def main(options: argparse.Namespace) -> None:
    """Explain one image."""
    methods = [find_method(name).name for name in options.method or ["GradCAM"]]
    _check(options, methods)
    classifier = arguments.load(options, pretrained=not options.preview_model)  # names need no weights
    if options.preview_model:
        preview(classifier.model)
        return
    if options.target_layers:
        resolve(classifier.model, options.target_layers)
    prepared = classifier.prepare(options.img)
    categories, setup = options.target_category, arguments.setup(options, classifier)
    choice = (
        None if options.target_layers else job.choose_layer(classifier, prepared, categories=categories, setup=setup)
    )
    explanations = job.explain(
        classifier,
        prepared,
        methods,
        target_layers=[choice.name] if choice else options.target_layers,
        categories=categories,
        setup=setup,
        eigen_smooth=options.eigen_smooth,
        aug_smooth=options.aug_smooth,
    )
    job.report(classifier, explanations[0], choice)
    pictures = _pictures(classifier, prepared, explanations, options)
    files: dict[Path, Writer] = {}
    if options.save_path:
        path = options.save_path
        named = {path.with_stem("-".join([path.stem, *name])): picture for name, picture in pictures.items()}
        files |= {path: picture_writer(path, picture) for path, picture in named.items()}
    if options.save_raw:
        arrays = {
            f"{each.method}/{layer}": maps[0].cpu().numpy() for each in explanations for layer, maps in each.raw.items()
        }
        files[options.save_raw] = raw_writer(arrays, provenance(classifier, explanations, options))
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


def provenance(
    classifier: Classifier, explanations: Sequence[Explanation], options: argparse.Namespace
) -> dict[str, object]:
    """How the maps were made."""
    first = explanations[0]
    categories = job.categories_of(first)
    checkpoint = classifier.checkpoint
    return {
        "image": str(options.img),
        "config": classifier.source,
        "cfg_options": options.cfg_options,
        "checkpoint": checkpoint and {"source": checkpoint.source, "sha256": checkpoint.sha256},
        "methods": [each.method for each in explanations],
        "layers": list(first.layers),
        "smoothing": list(first.smoothing),
        "num_extra_tokens": options.num_extra_tokens,
        "output": first.output,
        "categories": categories,
        "names": [classifier.name(category) for category in categories],
        "scores": [float(score) for score in first.scores[0]],
        "probabilities": [job.probability(classifier, first, category) for category in categories],
        "input_size": list(first.maps.shape[2:]),
        "device": options.device,
        "versions": first.versions,
    }


def _check(options: argparse.Namespace, methods: Sequence[str]) -> None:
    """Refuse what can be refused before the model loads."""
    find_colormap(options.colormap)
    if not 0 <= options.alpha <= 1:
        raise UsageError(f"--alpha is the heat's share, 0 to 1, got {options.alpha}")
    for what, values in (("--method", methods), ("--target-category", options.target_category)):
        if len(set(values)) < len(values):
            raise UsageError(f"{what} names one twice: {' '.join(map(str, values))}")
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
    categories = [str(category) for category in job.categories_of(explanations[0])]
    names = product(
        [(each.method,) if len(explanations) > 1 else () for each in explanations],
        [(category,) if len(categories) > 1 else () for category in categories],
    )
    drawn = [picture for each in explanations for picture in job.draw(prepared, each, style)]
    return {method + category: picture for (method, category), picture in zip(names, drawn, strict=True)}
