"""Flags that several commands share, and what is made of their values."""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator, Sequence
from os.path import expanduser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camkit.cli.parser import Parser
from camkit.errors import UsageError, closest
from camkit.methods import METHODS
from camkit.models.frameworks import config_forms

if TYPE_CHECKING:
    from camkit.models.classifier import Classifier
    from camkit.visualize.overlay import Style


def add_model(parser: Parser, *, checkpoint: str, config: str = "", seed: str = "of random weights") -> None:
    """Add CONFIG, CHECKPOINT and the flags that say how they are loaded.

    Args:
        parser: The command's.
        checkpoint: Help text of CHECKPOINT.
        config: What is taken in place of CONFIG where it may be left out; else CONFIG is required.
        seed: What ``--seed`` is of.
    """
    forms = config_forms()
    if config:
        parser.add_argument("config", nargs="?", help=f"{forms}; default: {config}")
    else:
        parser.add_argument("config", help=forms)
    parser.add_argument("checkpoint", nargs="?", help=checkpoint)
    parser.add_argument("--device", default="cpu", help="default: cpu")
    parser.add_argument(
        "--trust-checkpoint", action="store_true", help="unpickle the checkpoint fully, which can run code in it"
    )
    parser.add_argument(
        "--weights",
        metavar="live|ema",
        help="of a checkpoint with several weights, those as trained or their moving average (or the name of an entry);"
        " default: as the framework's own loader, which is said",
    )
    parser.add_argument(
        "--allow-partial",
        action="store_true",
        help="take a checkpoint that lacks a part of what the scores depend on, with random weights for the rest",
    )
    parser.add_argument("--seed", type=_seed, default=0, metavar="N", help=f"{seed}; default: 0")
    parser.add_argument(
        "--activation",
        choices=["softmax", "sigmoid"],
        help="what makes probabilities of scores: sigmoid where several labels hold at once; default: as the framework "
        "says, else softmax",
    )
    parser.add_argument(
        "--mean",
        nargs="+",
        type=float,
        metavar="NUMBER",
        help="R G B, in 0 to 1, or one for all, for timm and torchvision; default: the checkpoint's or the framework's",
    )
    parser.add_argument("--std", nargs="+", type=float, metavar="NUMBER", help="standard deviations, as --mean")
    parser.add_argument(
        "--input-size",
        nargs="+",
        type=int,
        metavar="N",
        help="C H W, H W or one side of the network's input, for timm and torchvision",
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="override settings of the config, or the model's keyword arguments",
    )


def add_reading(parser: Parser) -> None:
    """Add the flags that say which classes are explained, and how layers and output are read."""
    parser.add_argument(
        "--target-category",
        nargs="+",
        action="extend",
        default=[],
        metavar="CATEGORY",
        help='class indices or names such as 281 or "tabby cat", a picture for each; default: the predicted class',
    )
    add_layout(parser)


def add_layout(parser: Parser) -> None:
    """Add the flags that say how layers and output are read."""
    parser.add_argument(
        "--num-extra-tokens",
        type=_token_count,
        help="tokens in front of the grid that have no place in the image (class, registers); default: found out",
    )
    parser.add_argument(
        "--output",
        metavar="PART",
        help="of a model that returns several tensors, the one to explain: a key or an index; default: what it "
        "predicts from",
    )


def add_methods(parser: Parser, *, default: str, chunk: str = "--batch-size") -> None:
    """Add the flags that choose and configure methods.

    Args:
        parser: The command's.
        default: The help's text for no method named.
        chunk: What the number of perturbed images at a time is called.
    """
    spellings = [spelling for method in METHODS.values() for spelling in (method.name, method.identifier)]
    add_repeated(parser, "--method", spellings)
    parser.add_argument(
        "--method",
        action="append",
        metavar="METHOD [METHOD ...]",
        help=f"one or more of {', '.join(METHODS)}, in any case; default: {default}",
    )
    add_options(parser, "method", "num_samples=10")
    parser.add_argument(
        chunk,
        type=positive_count,
        metavar="N",
        help="how many perturbed images go through the network at a time, for methods that need many; default: what "
        "the memory allows",
    )


def add_options(parser: Parser, whose: str, example: str) -> None:
    """Add ``--method-options`` or ``--metric-options``."""
    parser.add_argument(
        f"--{whose}-options",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help=f"options of the {whose}s, such as {example}; each goes to those that have it (camkit {whose}s lists "
        "them)",
    )


def add_smoothing(parser: Parser) -> None:
    """Add ``--eigen-smooth`` and ``--aug-smooth``."""
    parser.add_argument(
        "--eigen-smooth",
        "--eigen_smooth",
        action="store_true",
        help="reduce to the first principal component of the weighted activations",
    )
    parser.add_argument(
        "--aug-smooth", "--aug_smooth", action="store_true", help="average over six test-time augmentations"
    )


def add_style(parser: Parser) -> None:
    """Add the flags that say how maps are drawn."""
    parser.add_argument("--original-size", action="store_true", help="draw on the whole input image")
    parser.add_argument("--colormap", default="jet", help="an OpenCV colour map; default: jet")
    parser.add_argument("--alpha", type=float, default=0.5, help="the heat's share, 0 to 1; default: 0.5")


def style(options: argparse.Namespace) -> Style:
    """The style that the flags of :func:`add_style` say.

    Raises:
        UsageError: An unknown colour map, or a share outside 0 to 1.
    """
    from camkit.visualize.colours import find_colormap
    from camkit.visualize.overlay import Style

    find_colormap(options.colormap)
    if not 0 <= options.alpha <= 1:
        raise UsageError(f"--alpha is the heat's share, 0 to 1, got {options.alpha}")
    return Style(options.colormap, options.alpha)


def add_target_layers(parser: Parser) -> None:
    """Add ``--target-layers``."""
    parser.add_argument(
        "--target-layers",
        nargs="+",
        action="extend",
        default=[],
        metavar="LAYER",
        help="dotted names, fused by the mean (camkit layers lists them); default: the last norm layer of the backbone "
        "that is spatial and that the class score depends on at more than one place",
    )


def add_bands(parser: Parser) -> None:
    """Add ``--bands``."""
    parser.add_argument(
        "--bands",
        nargs="+",
        action="extend",
        type=positive_count,
        default=[],
        metavar="N",
        help="of an image with many bands, the three to draw as red, green and blue, or the one in grey, counted from "
        "1; the network still gets all; default: the first three, or the first of fewer",
    )


def add_repeated(parser: Parser, flag: str, names: Sequence[str]) -> None:
    """Let a flag that is given once for each value take several of ``names``, also in front of positional arguments."""
    before = parser.rewrite
    parser.rewrite = lambda words: repeat_flag(list(before(words)), flag, names)


def repeat_flag(words: Sequence[str], flag: str, names: Sequence[str]) -> Iterator[str]:
    """Write ``--method A B`` as ``--method A --method B``.

    So ``--method`` takes several names and still may stand in front of the positional arguments.
    """
    taking = False
    for index, word in enumerate(words):
        first = index > 0 and words[index - 1] == flag
        taking = first or (taking and _looks_like_one(word, names))
        if taking and not first:
            yield flag
        yield word
        taking = taking or word.startswith(f"{flag}=")


def _looks_like_one(word: str, names: Sequence[str]) -> bool:
    """Whether a word behind a name is another one, perhaps misspelt, and not a positional argument."""
    if word.lower() in map(str.lower, names):
        return True
    return bool(closest(word, names)) and not word.startswith("-") and not Path(word).exists()


def method_options(words: Sequence[str], flag: str = "--method-options") -> dict[str, Any]:
    """Read ``--method-options`` or another flag like it: values are Python literals, else strings.

    Raises:
        UsageError: A word that isn't NAME=VALUE, or an option named twice.
    """
    found: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        name = name.strip()
        if not equals or not name:
            raise UsageError(f"{flag} takes NAME=VALUE, got {word!r}")
        if name in found:
            raise UsageError(f"{flag} names one twice: {' '.join(words)}")
        found[name] = _literal(text.strip())
    return found


def add_targets(parser: Parser) -> None:
    """Add --target, of commands that explain many images."""
    parser.add_argument(
        "--target",
        nargs="+",
        action="extend",
        default=[],
        metavar="TARGET",
        help="predicted, label, both, top:K, or class indices or names; default: predicted",
    )


def count(text: str) -> int:
    """Read a flag's whole number, 0 among them.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"takes a whole number, got {text}")
    return int(text)


def positive_count(text: str) -> int:
    """Read a flag's whole number of at least 1.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"takes a whole number of at least 1, got {text}")
    return int(text)


def path(text: str) -> Path:
    """Read a flag's path, in which ``~`` is the home folder: the shell doesn't see one in ``--save-path=~/a.png``."""
    return Path(expanduser(text))  # noqa: PTH111 (which raises where there is no such user)


def check_once(flag: str, values: Sequence[object], words: Sequence[str] = ()) -> None:
    """Refuse a flag that names something twice; ``words`` are the values as they were typed.

    Raises:
        UsageError: It does.
    """
    if len(set(values)) < len(values):
        raise UsageError(f"{flag} names one twice: {' '.join(words or map(str, values))}")


def load_classifier(options: argparse.Namespace, *, pretrained: bool = True) -> Classifier:
    """Load the classifier that the flags of :func:`add_model` name, and print what was taken and its warning.

    See :func:`camkit.models.load.load`.
    """
    from camkit.cli.printing import print_warning
    from camkit.models.load import load
    from camkit.models.settings import Preprocessing, Reading

    mean, std, size = (value and tuple(value) for value in (options.mean, options.std, options.input_size))
    classifier = load(
        options.config,
        options.checkpoint,
        device=options.device,
        cfg_options=options.cfg_options,
        reading=Reading(options.trust_checkpoint, options.weights, options.allow_partial, options.seed),
        preprocessing=Preprocessing(mean, std, size),
        activation=options.activation,
        pretrained=pretrained,
    )
    for note in classifier.notes:
        print(f"checkpoint: {note}", file=sys.stderr if getattr(options, "json", False) else sys.stdout)
    if classifier.load_warning:
        print_warning(classifier.load_warning)
    return classifier.of_output(options.output)


def words_of_model(options: argparse.Namespace) -> list[str]:
    """CONFIG, CHECKPOINT and the flags of :func:`add_model` and :func:`add_layout` that were given, as they are typed.

    Files are named by whole paths, so that the words mean the same in every folder.
    """
    words = [_anywhere(each) for each in (options.config, options.checkpoint) if each]
    for flag in ("device", "weights", "seed", "activation", "num_extra_tokens", "output"):
        value = getattr(options, flag)
        if value not in (None, _USUAL.get(flag)):
            words += [f"--{flag.replace('_', '-')}", str(value)]
    for flag in ("trust_checkpoint", "allow_partial"):
        words += [f"--{flag.replace('_', '-')}"] * getattr(options, flag)
    for flag in ("mean", "std", "input_size", "cfg_options"):
        value = getattr(options, flag)
        words += [f"--{flag.replace('_', '-')}", *map(str, value)] if value else []
    return words


def categories(options: argparse.Namespace, classifier: Classifier) -> list[int]:
    """The class indices of ``--target-category``, which takes indices and names; none where the flag is left out.

    Raises:
        UsageError: A name that no class has or several have, or a class named twice.
    """
    words = options.target_category
    found = [classifier.find_category(word) for word in words]
    check_once("--target-category", found, words)
    return found


def output(options: argparse.Namespace, classifier: Classifier) -> Any:
    """The part of the model's output to explain: ``--output``, else what the framework predicts from."""
    return classifier.output if options.output is None else options.output


_USUAL = {"device": "cpu", "seed": 0}
"""Values of flags that are left out."""


def _anywhere(name: str) -> str:
    """A file's whole path; a model's name or an address as it is."""
    kind, colon, rest = name.rpartition(":")
    found = path(rest if kind == "transformers" else name)
    if not found.exists():
        return name
    return f"{kind}{colon}{found.absolute()}" if kind == "transformers" else str(found.absolute())


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"takes a whole number from 0, got {text}")
    return int(text)


def _token_count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"counts tokens, got {text}")
    return int(text)
