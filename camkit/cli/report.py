"""``camkit report``: a run as one page to read."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from camkit.cli import flags, printing
from camkit.cli.progress import Bar

if TYPE_CHECKING:
    from camkit.cli.parser import Parser


def add_arguments(parser: Parser) -> None:
    """Add the command's flags."""
    parser.add_argument("run", help="the folder that camkit run --out made, or its address")
    parser.add_argument(
        "--out", type=flags.path, default=Path("report.html"), metavar="FILE", help="default: report.html"
    )
    parser.add_argument(
        "--method",
        metavar="METHOD",
        help="of the run's, whose maps are shown; default: the first that explains classes",
    )
    parser.add_argument(
        "--images", type=flags.path, metavar="ROOT", help="the folder that the images are below now, if they have moved"
    )
    parser.add_argument(
        "--max-mb", type=_megabytes, default=20.0, metavar="MB", help="the most that the file may take; default: 20"
    )


def main(options: argparse.Namespace) -> None:
    """Write it."""
    from camkit.report import write_report

    with Bar("report") as bar:
        made = write_report(
            options.run, options.out, options.method, images=options.images, max_mb=options.max_mb, progress=bar
        )
    for line in made.notices:
        printing.print_warning(line)
    print(f"images: {made.images}")
    print(f"wrote: {made.path}")
    print(f"size: {made.bytes / 1e6:.1f} MB")


def _megabytes(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < 1e6:
        raise argparse.ArgumentTypeError(f"a number of megabytes above zero, got {text!r}")
    return found
