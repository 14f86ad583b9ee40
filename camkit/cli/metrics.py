"""``camkit metrics``: the registry of metrics as a table."""

from __future__ import annotations

import argparse

from camkit.cli import table
from camkit.cli.methods import options_of
from camkit.cli.parser import Parser
from camkit.metrics import FAMILIES, METRICS, Metric

HEADINGS = ("metric", "family", "needs", "better", "options", "paper")
NEEDS = {
    "scores": "scores",
    "region": "boxes or masks",
    "explainer": "to explain again",
    "unit": "maps in [0, 1]",
}
"""What metrics need, in words."""


def add_arguments(parser: Parser) -> None:
    """Add the command's flags."""
    parser.add_argument("--markdown", action="store_true", help="print Markdown, with each metric's formula")


def main(options: argparse.Namespace) -> None:
    """Print every registered metric."""
    if options.markdown:
        print(markdown())
    else:
        table.show(HEADINGS, rows())


def by_family() -> list[Metric]:
    """All metrics, family by family."""
    return sorted(METRICS.values(), key=lambda metric: FAMILIES.index(metric.family))


def rows() -> list[tuple[str, ...]]:
    """One row of text per metric under ``HEADINGS``, family by family."""
    return [
        (
            each.name,
            each.family,
            ", ".join(NEEDS[need] for need in each.needs) or "maps alone",
            each.better,
            options_of(each.options),
            each.paper,
        )
        for each in by_family()
    ]


def markdown() -> str:
    """The table as Markdown, with each metric's formula; it stands in the docs."""
    made = []
    for metric, (name, family, needs, better, options, paper) in zip(by_family(), rows(), strict=True):
        made.append((name, family, metric.formula, needs, better, options and f"`{options}`", paper))
    return table.markdown((*HEADINGS[:2], "formula", *HEADINGS[2:]), made)
