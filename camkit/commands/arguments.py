"""Flags that several commands share, and what they stand for."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from camkit.adapters import loading
from camkit.commands import job
from camkit.forward import Setup

if TYPE_CHECKING:
    from camkit.adapters.classifier import Classifier


def add_model(parser: argparse.ArgumentParser, *, checkpoint: str) -> None:
    """CONFIG, CHECKPOINT and the flags that say how they are loaded; ``checkpoint`` is the help of the second."""
    parser.add_argument(
        "config",
        help="MMPretrain's: config file or model name; others': timm:NAME, torchvision:NAME or transformers:FOLDER",
    )
    parser.add_argument("checkpoint", nargs="?", help=checkpoint)
    parser.add_argument("--device", default="cpu", help="default: cpu")
    parser.add_argument(
        "--trust-checkpoint", action="store_true", help="unpickle the checkpoint fully, which can run code in it"
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="override settings of the config, or the model's keyword arguments",
    )


def add_reading(parser: argparse.ArgumentParser) -> None:
    """The flags that say how the model's layers and its output are read."""
    parser.add_argument(
        "--target-category",
        nargs="+",
        type=int,
        default=[],
        metavar="CATEGORY",
        help="class indices, a picture for each; default: the predicted class",
    )
    parser.add_argument(
        "--num-extra-tokens", type=_token_count, help="tokens in front that belong to no place; default: found out"
    )
    parser.add_argument(
        "--output",
        metavar="PART",
        help="of a model that returns several tensors, the one to explain: a key or an index; default: what it "
        "predicts from",
    )


def load(options: argparse.Namespace, *, pretrained: bool = True) -> Classifier:
    """The classifier that the flags name; see :func:`camkit.adapters.loading.load`."""
    classifier = loading.load(
        options.config,
        options.checkpoint,
        device=options.device,
        cfg_options=options.cfg_options,
        trust_checkpoint=options.trust_checkpoint,
        pretrained=pretrained,
    )
    if classifier.load_warning:
        job.warn(classifier.load_warning)
    return classifier


def setup(options: argparse.Namespace, classifier: Classifier) -> Setup:
    """How the model's layers and its output are read; without ``--output``, as its framework reads it."""
    output = classifier.output if options.output is None else options.output
    return Setup(num_extra_tokens=options.num_extra_tokens, output=output)


def _token_count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"counts tokens, got {text}")
    return int(text)
