"""The argument parser of ``camkit`` and its commands. Needs the standard library alone."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """A parser that takes no abbreviations and reports mistakes in one line.

    Attributes:
        rewrite: Applied to the words of a command line before they are parsed.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})
        self.rewrite: Callable[[Sequence[str]], Iterable[str]] = list

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse, and give positionals that are left over to the optional ones that got none.

        Python 3.11 takes an optional positional for absent where flags stand in front of it.
        """
        words = None if args is None else list(self.rewrite(args))
        options, unknown = super().parse_known_args(words, namespace)
        for action in self._get_positional_actions():
            if action.nargs == "?" and getattr(options, action.dest) is None and unknown[:1] and unknown[0][:1] != "-":
                setattr(options, action.dest, unknown.pop(0))
        return options, unknown

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with 2."""
        self.exit(2, f"camkit: error: {message}; see {self.prog} --help\n")
