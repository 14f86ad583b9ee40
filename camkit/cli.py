"""The ``camkit`` command. ``camkit --help`` imports no torch: a command's module loads when the command is named."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from camkit.errors import CamkitError, first_line, is_out_of_memory
from camkit.versions import versions

COMMANDS = {
    "vis-cam": "explain one image with a model of MMPretrain, timm, torchvision or transformers",
    "layers": "list the layers that a map can be made of",
    "gallery": "draw every method of one image on one page",
    "demo": "explain a built-in picture with a trained network",
    "methods": "list the methods there are",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 1 for an error, 2 for wrong usage."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = words[0] if words and words[0] in COMMANDS else None
    options = _parser(command).parse_args(words if command is None else [command, *_unfolded(command, words[1:])])
    # Libraries below log through this; camkit says what it must in one line.
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        with warnings.catch_warnings():
            # What other packages warn of is no business of the user's; camkit's own warnings are printed as lines.
            warnings.simplefilter("ignore")
            _module(options.command).main(options)
            sys.stdout.flush()
    except CamkitError as error:
        if options.traceback:
            raise
        return _fail(str(error), error.exit_code)
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except Exception as error:
        if options.traceback:
            raise
        return _fail(_explained(error), 1)
    return 0


class _Parser(argparse.ArgumentParser):
    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Python 3.11 takes an optional positional for absent where flags stand in front of it, and it for unknown."""
        options, unknown = super().parse_known_args(args, namespace)
        for action in self._get_positional_actions():
            if action.nargs == "?" and getattr(options, action.dest) is None and unknown[:1] and unknown[0][:1] != "-":
                setattr(options, action.dest, unknown.pop(0))
        return options, unknown

    def error(self, message: str) -> NoReturn:
        """One line, as every other mistake gets."""
        self.exit(2, f"camkit: error: {message}; see {self.prog} --help\n")


def _parser(command: str | None) -> _Parser:
    """The parser of all commands, with the arguments of the one that is named."""
    parser = _Parser(
        prog="camkit", description="Class activation maps: where an image classifier looked.", allow_abbrev=False
    )
    stood_on = ", ".join(f"{package} {number}" for package, number in versions().items())
    parser.add_argument("--version", action="version", version=stood_on)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    for name, summary in COMMANDS.items():
        text = f"{summary[0].upper()}{summary[1:]}."
        sub = commands.add_parser(name, help=summary, description=text, allow_abbrev=False)
        if name == command:
            _module(name).add_arguments(sub)
            sub.add_argument("--traceback", action="store_true", help="on an error, show where in the code it arose")
    return parser


def _module(command: str) -> Any:
    return import_module(f"camkit.commands.{command.replace('-', '_')}")


def _unfolded(command: str, words: list[str]) -> list[str]:
    """The words as argparse can take them, where a command has spellings that it can't."""
    unfold = getattr(_module(command), "unfold", list)
    return list(unfold(words))


def _fail(message: str, code: int) -> int:
    print(f"camkit: error: {message}", file=sys.stderr)
    return code


def _explained(error: Exception) -> str:
    """One line for an error that camkit doesn't raise itself."""
    first = first_line(str(error))
    if is_out_of_memory(error):
        return f"out of memory: use a smaller input, a later target layer or another --device ({first})"
    return f"{type(error).__name__}: {first} (see where with --traceback)"
