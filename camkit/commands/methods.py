"""``camkit methods``: the registry as a table."""

from __future__ import annotations

import argparse

from camkit.commands import table
from camkit.methods import METHODS, channel_sum

HEADINGS = ("method", "weighting of A given G", "reduction over channels", "backward", "paper")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("--markdown", action="store_true", help="as a Markdown table")


def main(options: argparse.Namespace) -> None:
    """Print every registered method."""
    if options.markdown:
        print(markdown())
    else:
        table.show(HEADINGS, cells())


def cells() -> list[tuple[str, ...]]:
    """One row of text per method, in the order of registration."""
    return [
        (
            method.name,
            method.weighting,
            "sum" if method.reduction is channel_sum else "first principal component",
            "yes" if method.needs_gradients else "no",
            method.paper,
        )
        for method in METHODS.values()
    ]


def markdown() -> str:
    """The table as it stands in README.md."""
    return table.markdown(HEADINGS, cells())
