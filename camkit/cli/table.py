"""Print tables, on the terminal and as Markdown."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

UNLIMITED = 10_000  # columns in pipes and files, where nothing is to be wrapped or cut


def show(headings: Sequence[str], rows: Iterable[Sequence[str]], *, highlighted: int | None = None) -> None:
    """Print a table; on a terminal, row number ``highlighted`` is bold."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for number, row in enumerate(rows):
        table.add_row(*map(Text, row), style="bold" if number == highlighted else None)
    console = Console() if sys.stdout.isatty() else Console(width=UNLIMITED)
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        print(line.rstrip())


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The table as Markdown."""
    escaped = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in (headings, ("---",) * len(headings), *escaped))
