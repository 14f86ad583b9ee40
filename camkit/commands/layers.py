"""``camkit layers``: what a network's layers are good for as target layers."""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from camkit.commands import arguments, job
from camkit.commands.table import show
from camkit.errors import LayerError
from camkit.forward import Setup, forward
from camkit.layers import is_norm
from camkit.outputs import answer
from camkit.probe import Candidate, default_layer, modules_of, probe
from camkit.save import save_picture
from camkit.tokens import as_text

if TYPE_CHECKING:
    from torch import Tensor

HEADINGS = ("layer", "type", "output", "grid", "live places", "")
SIDE = 512  # pixels of the picture made up where none is given


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    arguments.add_model(
        parser, checkpoint="checkpoint file or URL; default: random weights, which have the same layers"
    )
    arguments.add_reading(parser)
    parser.add_argument("--img", help="the image to try; default: noise, prepared as images are")
    parser.add_argument("--all", action="store_true", help="every layer, not only the norm layers with places")
    parser.add_argument("--json", action="store_true", help="for programs")


def main(options: argparse.Namespace) -> None:
    """List the layers."""
    classifier = arguments.load(options, pretrained=False)
    with tempfile.TemporaryDirectory() as folder:
        inputs = classifier.prepare(options.img or _noise(Path(folder))).inputs
    setup = arguments.setup(options, classifier)
    if classifier.checkpoint is None:
        _enliven(classifier.model)
    choice, problem = None, ""
    try:
        choice = default_layer(classifier.model, inputs, _targets(options), setup)
    except LayerError as error:
        if options.num_extra_tokens is not None:
            raise
        problem = str(error)
    default = choice.name if choice else None
    found = candidates(classifier.model, inputs, _targets(options), setup, whole=options.all)
    with forward(classifier.model, {}, inputs, setup, roots=False) as seen:
        taken = answer(seen.output, len(inputs), setup.output)
    if options.json:
        about = {"input": list(inputs.shape[1:]), "output": taken.name, "other_outputs": list(taken.others)}
        print(json.dumps(about | {"default": default, "problem": problem or None, "layers": as_json(found, default)}))
    else:
        names = [candidate.name for candidate in found]
        rows = [_row(candidate, default) for candidate in found]
        show(HEADINGS, rows, highlighted=names.index(default) if default in names else None)
        print(f"\ninput: {as_text(inputs.shape[1:])}")
        job.report_output(classifier, taken.name, taken.others)
        if choice:
            print(f"default: {choice.name} ({choice.why})")
    if problem:
        job.warn(problem)


def candidates(model: nn.Module, inputs: Tensor, targets: Any, setup: Setup, *, whole: bool = False) -> list[Candidate]:
    """The backbone's norm layers that have places, in the order of execution; with ``whole`` every layer there is."""
    modules = {name: module for name, module in model.named_modules() if name} if whole else modules_of(model)
    wanted = {name: module for name, module in modules.items() if whole or is_norm(module)}
    found = probe(model, wanted, inputs, targets, setup)
    if not whole:
        return [candidate for candidate in found if candidate.layout]
    ran = {candidate.module for candidate in found}
    idle = [Candidate(name, module) for name, module in wanted.items() if module not in ran]
    return found + idle


def as_json(found: Sequence[Candidate], default: str | None) -> list[dict[str, Any]]:
    """What the table says, for programs."""
    return [
        {
            "name": each.name,
            "type": type(each.module).__name__,
            "norm": is_norm(each.module),
            "output": list(each.shape),
            "form": each.layout and each.layout.form,
            "grid": each.layout and list(each.layout.grid),
            "extra_tokens": each.layout and list(each.layout.extra_tokens),
            "live_places": each.live_places,
            "live": each.is_live,
            "default": each.name == default,
            "problem": _problem(each) or None,
        }
        for each in found
    ]


def _row(each: Candidate, default: str | None) -> tuple[str, ...]:
    grid, live, note = "", "", _problem(each)
    if each.layout:
        front, back = each.layout.extra_tokens
        extra = "".join(f" + {count} {where}" for count, where in ((front, "in front"), (back, "at the back")) if count)
        grid = as_text(each.layout.grid) + extra
        live = f"{each.live_places} of {math.prod(each.layout.grid)}" if each.is_live else "dead"
        note = "default" if each.name == default else ""
    shape = f"({', '.join(map(str, each.shape))})" if each.shape else ""
    return each.name, type(each.module).__name__, shape, grid, live, note


def _problem(each: Candidate) -> str:
    if each.problem:
        return str(each.problem).removeprefix(f"layer {each.name!r} ")
    return "" if each.layout else "doesn't run"


def _targets(options: argparse.Namespace) -> list[list[int]] | None:
    return job.targets(options.target_category)


def _enliven(model: nn.Module) -> None:
    """Give random weights that start at zero a value: behind them, no layer of the network would be live."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith("bias") and not parameter.any():
                nn.init.ones_(parameter) if parameter.ndim == 1 else nn.init.normal_(parameter, std=0.02)


def _noise(folder: Path) -> str:
    picture = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    return str(save_picture(folder / "noise.png", picture))
