"""``camkit draw``: pictures out of a run, chosen and sorted."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camkit.cli import flags, printing
from camkit.datasets.reading import Run, load
from camkit.errors import CamkitError, UsageError
from camkit.visualize.save import PICTURE_SUFFIXES, check_suffix, check_writable, save_picture

if TYPE_CHECKING:
    from camkit.cli.parser import Parser
    from camkit.visualize.picture import Picture

ON_A_SHEET = 8
"""Rows of images on a contact sheet."""


def add_arguments(parser: Parser) -> None:
    """Add the command's flags."""
    parser.add_argument("run", help="the folder that camkit run --out made, or its address")
    parser.add_argument(
        "--where", metavar="CONDITION", help='such as "score < 0.5 and label != predicted"; classes may be named'
    )
    parser.add_argument(
        "--worst",
        type=flags.positive_count,
        metavar="N",
        help="the N with the lowest probability of their label, or of the predicted class where no label is known",
    )
    parser.add_argument(
        "--per-class", type=flags.positive_count, metavar="N", help="N of each label, or of each predicted class"
    )
    parser.add_argument("--sort", metavar="COLUMN", help="by a column, such as score; the lowest first")
    parser.add_argument("--descending", action="store_true", help="the highest of --sort first")
    parser.add_argument("--limit", type=flags.positive_count, metavar="N", help="the first N of them")
    parser.add_argument(
        "--method", nargs="+", action="extend", default=[], metavar="METHOD", help="of the run's; default: all"
    )
    parser.add_argument(
        "--target-index", type=int, default=0, metavar="N", help="which of several explained classes; default: 0"
    )
    parser.add_argument(
        "--out", type=flags.path, metavar="FOLDER", help="where to write a picture for each; default: drawn"
    )
    parser.add_argument(
        "--sheet",
        type=flags.path,
        metavar="FILE",
        help=f"write contact sheets in place of single pictures ({', '.join(PICTURE_SUFFIXES)})",
    )
    parser.add_argument(
        "--columns", type=flags.positive_count, default=6, metavar="N", help="images side by side; default: 6"
    )
    flags.add_style(parser)
    flags.add_bands(parser)


def main(options: argparse.Namespace) -> None:
    """Draw.

    Raises:
        UsageError: No row is left to draw.
        CamkitError: No picture can be drawn.
    """
    flags.style(options)
    if options.descending and not options.sort:
        raise UsageError("--descending is the order of --sort: name its column")
    if options.sheet and options.out:
        raise UsageError("--sheet writes sheets and --out single pictures: give one of them")
    if options.sheet:
        check_writable(check_suffix(options.sheet, PICTURE_SUFFIXES))
    run = load(options.run)
    methods = list(dict.fromkeys(run.column_method(name) for name in options.method)) or run.methods
    rows = chosen(run, options)
    if not len(rows):
        raise UsageError(f"none of the {len(run)} images of {run.path} is left to draw")
    problems: list[CamkitError] = []
    paths = list(
        _sheets(rows, methods, options, problems) if options.sheet else _files(rows, methods, options, problems)
    )
    if not paths:
        raise CamkitError(f"none of {len(rows)} images could be drawn: {problems[0]}")
    for error in problems[:3]:
        printing.print_warning(f"not drawn: {error}")
    for path in paths[:3]:
        print(f"wrote: {path}")
    if len(paths) > 3:
        print(f"... and {len(paths) - 3} more")
    if len(problems) > 3:
        printing.print_warning(f"{len(problems)} images could not be drawn")


def chosen(run: Run, options: argparse.Namespace) -> Run:
    """The rows that the flags choose, in their order; images that failed have no picture."""
    rows = run.filter(options.where, errors=False)
    has_labels = len(rows) and rows.table["label"].null_count < len(rows)
    if options.sort:
        rows = rows.sort(options.sort, descending=options.descending)
    if options.worst:
        rows = rows if options.sort else rows.sort("label_score" if has_labels else "score")
        if not options.per_class:
            rows = rows.take(slice(None, options.worst))
    if options.per_class:
        rows = _per_class(rows, "label" if has_labels else "predicted", options.per_class)
        rows = rows.take(slice(None, options.worst))
    return rows.take(slice(None, options.limit))


def caption(run: Run, about: dict[str, Any]) -> str:
    """A row's classes: ``3 cup, taken for 2 espresso (0.81)``."""
    predicted = f"{run.named(about['predicted'])} ({about['score']:.2f})"
    if about["label"] is None or about["label"] == about["predicted"]:
        return predicted
    return f"{run.named(about['label'])}, taken for {predicted}"


def file_name(text: str, taken: set[str], suffix: str) -> str:
    """A path below a folder for the picture of an image, from its id; none is taken twice."""
    parts = [re.sub(r'[\x00-\x1f\\:*?"<>|]', "_", part) for part in text.split("/")]
    name = "/".join(part for part in parts if part not in ("", ".", "..")) or "image"
    stem = re.sub(r"\.[A-Za-z0-9]{1,5}$", "", name)
    for candidate in (stem, name, *(f"{name}-{number}" for number in range(2, len(taken) + 3))):
        if f"{candidate}{suffix}".lower() not in taken:
            taken.add(f"{candidate}{suffix}".lower())
            return f"{candidate}{suffix}"
    raise AssertionError


def _per_class(rows: Run, column: str, count: int) -> Run:
    """The first of each class, by class."""
    classes = rows.table[column].to_pylist()
    seen: Counter[Any] = Counter()
    kept: list[tuple[int, int]] = []
    for number, each in enumerate(classes):
        seen[each] += 1
        if each is not None and seen[each] <= count:
            kept.append((each, number))
    return rows.take([number for _, number in sorted(kept, key=lambda pair: pair[0])])


def _drawn(
    rows: Run, methods: Sequence[str], options: argparse.Namespace, problems: list[CamkitError]
) -> Iterator[tuple[dict[str, Any], list[Picture]]]:
    """Each row with a picture per method; those that can't be drawn are problems."""
    style = flags.style(options)
    for number in range(len(rows)):
        try:
            pictures = [
                rows.picture(
                    number,
                    name,
                    target_index=options.target_index,
                    original_size=options.original_size,
                    style=style,
                    bands=options.bands,
                )
                for name in methods
            ]
        except CamkitError as error:
            problems.append(error)
            continue
        yield rows.row(number), pictures


def _files(
    rows: Run, methods: Sequence[str], options: argparse.Namespace, problems: list[CamkitError]
) -> Iterator[Path]:
    """Write a picture for each row and method."""
    taken: set[str] = set()
    for about, pictures in _drawn(rows, methods, options, problems):
        for name, picture in zip(methods, pictures, strict=True):
            suffix = f"-{name}.png" if len(methods) > 1 else ".png"
            try:
                path = save_picture((options.out or Path("drawn")) / file_name(about["id"], taken, suffix), picture)
            except CamkitError as error:  # such as a name that is too long there
                problems.append(error)
                continue
            yield path


def _sheets(
    rows: Run, methods: Sequence[str], options: argparse.Namespace, problems: list[CamkitError]
) -> Iterator[Path]:
    """Write contact sheets."""
    from camkit.datasets.drawing import sheet

    size = options.columns * ON_A_SHEET
    pages = -(-len(rows) // size)
    for page in range(pages):
        found = list(_drawn(rows.take(slice(page * size, (page + 1) * size)), methods, options, problems))
        if not found:
            continue
        titles = [" ".join(about["id"].rpartition("/")[2].split()) for about, _ in found]
        notes = [caption(rows, about) for about, _ in found]
        path = options.sheet if pages == 1 else options.sheet.with_stem(f"{options.sheet.stem}-{page + 1}")
        heading = f"{rows.path}: {len(rows)} images" + (f", page {page + 1} of {pages}" if pages > 1 else "")
        drawn = sheet([pictures for _, pictures in found], titles, notes, methods, heading, options.columns)
        yield save_picture(path, drawn)
