"""``camkit methods``: the registry as a table."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from camkit.cli import table
from camkit.cli.parser import Parser
from camkit.methods import METHODS

HEADINGS = ("method", "family", "needs", "cost", "options", "paper")
FORMULA = "weighting of A, or map"
UNITS = (
    "cost: forwards and backwards of an image; C: channels of the layer, L: blocks with attention, tail: the network "
    "behind the layer"
)


def add_arguments(parser: Parser) -> None:
    """Add the command's flags."""
    parser.add_argument("--markdown", action="store_true", help="print Markdown, with each method's formula")


def main(options: argparse.Namespace) -> None:
    """Print every registered method."""
    if options.markdown:
        print(markdown())
    else:
        table.show(HEADINGS, rows())
        print(f"\n{UNITS}")


def rows() -> list[tuple[str, ...]]:
    """One row of text per method under ``HEADINGS``, in the order of registration."""
    return [
        (method.name, method.family, method.need.text, method.cost, options_of(method.options), method.paper)
        for method in METHODS.values()
    ]


def markdown() -> str:
    """The table as Markdown, with each method's formula; it stands in README.md and the docs."""
    made = []
    for method, (name, family, needs, cost, options, paper) in zip(METHODS.values(), rows(), strict=True):
        made.append((name, family, method.formula, needs, cost, options and f"`{options}`", paper))
    return table.markdown((*HEADINGS[:2], FORMULA, *HEADINGS[2:]), made)


def options_of(options: Mapping[str, Any]) -> str:
    """Options as text: ``top_k=None, seed=0``; ``--method-options`` takes each one so."""
    return ", ".join(f"{name}={value}" for name, value in options.items())
