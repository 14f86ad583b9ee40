"""Flags that several commands share, and what they stand for."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camkit.adapters import loading
from camkit.commands import job
from camkit.errors import UsageError, closest
from camkit.forward import Setup
from camkit.methods import METHODS

if TYPE_CHECKING:
    from camkit.adapters.classifier import Classifier


def add_model(parser: argparse.ArgumentParser, *, checkpoint: str, config: str = "") -> None:
    """CONFIG, CHECKPOINT and the flags that say how they are loaded.

    Args:
        parser: what gets them.
        checkpoint: the help of CHECKPOINT.
        config: what stands in place of CONFIG where it may be left out.
    """
    kinds = "MMPretrain's: config file or model name; others': timm:NAME, torchvision:NAME or transformers:FOLDER"
    if config:
        parser.add_argument("config", nargs="?", help=f"{kinds}; default: {config}")
    else:
        parser.add_argument("config", help=kinds)
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


def add_methods(parser: argparse.ArgumentParser, *, default: str) -> None:
    """The flags that say which methods are asked, and how; ``default`` is what is taken where none is named."""
    parser.add_argument(
        "--method",
        action="append",
        metavar="METHOD [METHOD ...]",
        help=f"one or more of {', '.join(METHODS)}, in any case; default: {default}",
    )
    parser.add_argument(
        "--method-options",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="options of the methods, such as num_samples=10; each goes to those that have it (camkit methods lists "
        "them)",
    )
    parser.add_argument(
        "--batch-size",
        type=count,
        metavar="N",
        help="how many changed images go through the network at a time, for methods that need many; default: what the "
        "memory allows",
    )


def add_target_layers(parser: argparse.ArgumentParser) -> None:
    """``--target-layers``."""
    parser.add_argument(
        "--target-layers",
        nargs="+",
        default=[],
        metavar="LAYER",
        help="dotted names, fused by the mean (camkit layers lists them); default: the last norm layer of the backbone "
        "that is spatial and that the class score depends on at more than one place",
    )


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


def method_options(words: Sequence[str]) -> dict[str, Any]:
    """``--method-options`` by name. Values are read as Python writes them, and what it can't have written as text.

    Raises:
        UsageError: a word that is no NAME=VALUE, or an option named twice.
    """
    found: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        name = name.strip()
        if not equals or not name:
            raise UsageError(f"--method-options takes NAME=VALUE, got {word!r}")
        if name in found:
            raise UsageError(f"--method-options names one twice: {' '.join(words)}")
        found[name] = _value(text.strip())
    return found


def count(text: str) -> int:
    """A flag's whole number of at least 1.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"takes a whole number of at least 1, got {text}")
    return int(text)


def check_once(flag: str, values: Sequence[object]) -> None:
    """Refuse a flag that names something twice.

    Raises:
        UsageError: it does.
    """
    if len(set(values)) < len(values):
        raise UsageError(f"{flag} names one twice: {' '.join(map(str, values))}")


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


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def _token_count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"counts tokens, got {text}")
    return int(text)
