"""``camkit methods``: the registry as a table."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from camkit.commands import table
from camkit.methods import METHODS

HEADINGS = ("method", "family", "needs", "cost", "options", "paper")
WEIGHTING = "weighting of A, or map"
UNITS = (
    "cost: forwards and backwards of an image; C: channels of the layer, L: blocks with attention, tail: the network "
    "behind the layer"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("--markdown", action="store_true", help="in Markdown, with what each one does")


def main(options: argparse.Namespace) -> None:
    """Print every registered method."""
    if options.markdown:
        print(markdown())
    else:
        table.show(HEADINGS, cells())
        print(f"\n{UNITS}")


def cells() -> list[tuple[str, ...]]:
    """One row of text per method, in the order of registration."""
    return [
        (
            method.name,
            method.family,
            method.request.needs,
            method.cost,
            options_of(method.options),
            method.paper,
        )
        for method in METHODS.values()
    ]


def markdown() -> str:
    """The table as it stands in README.md, with what each method does."""
    rows = []
    for method, row in zip(METHODS.values(), cells(), strict=True):
        options = f"`{row[4]}`" if row[4] else ""
        rows.append((row[0], row[1], method.weighting, *row[2:4], options, row[5]))
    return table.markdown((*HEADINGS[:2], WEIGHTING, *HEADINGS[2:]), rows)


def options_of(options: Mapping[str, Any]) -> str:
    """``top_k=None, seed=0``, as ``--method-options`` takes them one by one."""
    return ", ".join(f"{name}={value}" for name, value in options.items())
