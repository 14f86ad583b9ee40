"""``camkit layers``: list a network's layers, and what each can do as a target layer."""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from camkit.cli import flags, printing
from camkit.cli.table import show
from camkit.engine.network import Network
from camkit.engine.record import record
from camkit.errors import LayerError
from camkit.layers.default_layers import Choice, Question, choose
from camkit.layers.listing import as_json, candidates, problem_of
from camkit.layers.liveness import Candidate
from camkit.layers.token_grid import as_text
from camkit.methods.needs import DefaultLayer
from camkit.visualize.save import save_picture

if TYPE_CHECKING:
    from camkit.cli.parser import Parser
    from camkit.models.classifier import Classifier
    from camkit.typing import Images

HEADINGS = ("layer", "type", "output", "grid", "live places", "")
SIDE = 512
"""Pixels of the noise image that is used where none is given."""


def add_arguments(parser: Parser) -> None:
    """Add the command's flags."""
    flags.add_model(parser, checkpoint="checkpoint file or URL; default: random weights, which have the same layers")
    flags.add_reading(parser)
    parser.add_argument("--img", help="the image to try; default: noise, prepared as images are")
    parser.add_argument("--all", action="store_true", help="every layer, not only the norm layers with places")
    parser.add_argument("--json", action="store_true", help="for programs")


def main(options: argparse.Namespace) -> None:
    """List the layers."""
    classifier = flags.load_classifier(options, pretrained=False)
    categories = flags.categories(options, classifier)
    inputs = _inputs(options, classifier)
    if classifier.checkpoint is None:
        _fill_zero_weights(classifier.model)
    network = Network(classifier.model, output=flags.output(options, classifier))
    inputs = network.prepare(inputs)
    question = Question(network, inputs, [categories] if categories else None, options.num_extra_tokens)
    choice, problem = _default(question)
    default = choice.name if choice else None
    found = candidates(question, whole=options.all)
    with record(network, inputs, {}) as forward:
        part = forward.part
    if options.json:
        about = {"input": list(inputs.shape[1:]), "output": part.name, "other_outputs": list(part.others)}
        print(json.dumps(about | {"default": default, "problem": problem or None, "layers": as_json(found, default)}))
    else:
        names = [candidate.name for candidate in found]
        rows = [_row(candidate, default) for candidate in found]
        show(HEADINGS, rows, highlighted=names.index(default) if default in names else None)
        print(f"\ninput: {as_text(inputs.shape[1:])}")
        printing.print_output(classifier, part.name, part.others)
        if choice:
            print(f"default: {choice.name} ({choice.reason})")
    if problem:
        printing.print_warning(problem)


def _default(question: Question) -> tuple[Choice | None, str]:
    """The default layer of most methods; where there is none, the reason as a line.

    Raises:
        LayerError: The number of extra tokens is given and fits no layer.
    """
    try:
        return choose(DefaultLayer.LAST_NORM, question).choices[0], ""
    except LayerError as error:
        if question.num_extra_tokens is not None:
            raise
        return None, str(error)


def _row(each: Candidate, default: str | None) -> tuple[str, ...]:
    grid, live, note = "", "", problem_of(each)
    if each.layout:
        front, back = each.layout.extra_tokens
        extra = "".join(f" + {count} {where}" for count, where in ((front, "in front"), (back, "at the back")) if count)
        grid = as_text(each.layout.grid) + extra
        live = f"{each.live_places} of {math.prod(each.layout.grid)}" if each.is_live else "dead"
        note = "default" if each.name == default else ""
    shape = f"({', '.join(map(str, each.shape))})" if each.shape else ""
    return each.name, type(each.module).__name__, shape, grid, live, note


def _inputs(options: argparse.Namespace, classifier: Classifier) -> Images:
    """The network's input for the image that the flags name, or for noise."""
    if options.img:
        return classifier.prepare(options.img).inputs
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        return classifier.prepare(save_picture(Path(folder) / "noise.png", noise)).inputs


def _fill_zero_weights(model: nn.Module) -> None:
    """Fill random weights that start at zero: in front of them no layer of the network would be live."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith("bias") and not parameter.any():
                nn.init.ones_(parameter) if parameter.ndim == 1 else nn.init.normal_(parameter, std=0.02)
