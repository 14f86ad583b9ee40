"""The ``camkit`` command. A subcommand's module is imported when it is named, so ``camkit --help`` imports no torch."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from camkit.cli.parser import Parser
from camkit.cli.streams import standard_streams
from camkit.errors import CamkitError, first_line, is_out_of_memory
from camkit.models.frameworks import framework_titles
from camkit.versions import require_torch, versions

COMMANDS = {
    "vis-cam": f"explain one image with a model of {framework_titles()}",
    "run": "explain a data set: maps and scores of many images, in Parquet files",
    "draw": "draw maps of a run, chosen and sorted, as files or contact sheets",
    "runs": "print what a run holds",
    "sanity": "explain one image while the network is randomised from the output on",
    "evaluate": "measure how far to trust maps: metrics of methods, with controls beside them",
    "report": "write a page about a run: errors, classes, clusters of maps, what stands out",
    "explore": "open a page to explore a model: pictures, classes, methods and layers, live",
    "layers": "list the layers that a map can be made of",
    "gallery": "draw every method of one image on one page",
    "demo": "explain a built-in picture with a trained network",
    "methods": "list the methods there are",
    "metrics": "list the metrics of maps there are",
    "env": "print versions, devices and frameworks, for a bug report",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: The words of the command line without ``camkit``; None for the process' own.

    Returns:
        The exit code: 0, 1 for an error, 2 for wrong usage, 130 when interrupted.

    Raises:
        SystemExit: From the parser: the code is 0 after ``--help`` and ``--version``, 2 for a wrong command line.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    with standard_streams() as out:
        code = _run(words)
        out.flush()
        if out.error is not None and not isinstance(out.error, BrokenPipeError):  # a reader may leave early, as `head`
            return _fail(f"can't write to standard output: {out.error.strerror}", code or 1)
    return code


def _run(words: list[str]) -> int:
    """Run a command whose output always goes somewhere, and turn its errors into a line."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)  # for the frameworks' log lines
    try:
        options = _parser(words[0] if words else None).parse_args(words)
        with warnings.catch_warnings():
            # Warnings of other packages mean nothing to the user; the commands print camkit's own as lines.
            warnings.simplefilter("ignore")
            _module(options.command).main(options)
    except CamkitError as error:
        if "--traceback" in words:
            raise
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except Exception as error:
        if "--traceback" in words:
            raise
        return _fail(_in_one_line(error), 1)
    return 0


def _parser(command: str | None) -> Parser:
    """The parser of all commands; only the named one has its arguments."""
    parser = Parser(prog="camkit", description="Class activation maps: where an image classifier looked.")
    numbers = ", ".join(f"{package} {number}" for package, number in versions().items())
    parser.add_argument("--version", action="version", version=numbers)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    for name, summary in COMMANDS.items():
        sub = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if name == command:
            _module(name).add_arguments(sub)
            sub.add_argument("--traceback", action="store_true", help="on an error, show where in the code it arose")
    return parser


def _module(command: str) -> Any:
    if command != "env":  # which says what is wrong with torch
        require_torch()
    return import_module(f"camkit.cli.{command.replace('-', '_')}")


def _fail(message: str, code: int) -> int:
    print(f"camkit: error: {message}", file=sys.stderr)
    return code


def _in_one_line(error: Exception) -> str:
    """The message for an error that isn't one of camkit's."""
    first = first_line(str(error))
    if is_out_of_memory(error):
        return f"out of memory: use a smaller input, a later target layer or another --device ({first})"
    return f"{type(error).__name__}: {first} (see where with --traceback)"
