"""The gallery's page: many methods side by side, each in a named cell under the bar of its family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from camkit.errors import UsageError
from camkit.visualize.colours import PALETTE
from camkit.visualize.opencv import cv2
from camkit.visualize.page import GREY, Page
from camkit.visualize.picture import Picture

NARROWEST, WIDEST = 160, 240
"""Width of a cell in pixels: wider pictures are made smaller, narrower ones larger by a whole factor."""
MARGIN, GAP = 24, 10
HEAD, BAR, TITLE, NOTE = 34, 17, 20, 15
"""Heights of the page's heading, the family's bar, a cell's title and the note below it."""


@dataclass(frozen=True)
class Cell:
    """One method on the page.

    Attributes:
        title: The method's name.
        group: The family; cells without one have no bar.
        note: A small line below the title.
        pictures: RGB, from top to bottom.
        text: Written below the pictures, in the space of rows that have none; see
            :meth:`camkit.visualize.page.Page.paragraph`.
    """

    title: str
    group: str = ""
    note: str = ""
    pictures: Sequence[Picture] = ()
    text: str = ""


def gallery(cells: Sequence[Cell], rows: Sequence[str], columns: int, heading: str, remark: str = "") -> Picture:
    """Draw the page, RGB.

    Args:
        cells: In reading order, those of a group next to each other. All pictures have one size.
        rows: Labels of what the pictures of every cell show, from top to bottom, written upright at the left.
        columns: How many cells stand side by side.
        heading: The page's heading.
        remark: A small line beside the heading.

    Raises:
        UsageError: No picture, or pictures of several sizes.
    """
    height, width = _cell_size(cells)
    columns = min(columns, len(cells))
    above = BAR + TITLE + NOTE
    cell_height, cell_width = above + len(rows) * (height + 2) + GAP, width + GAP
    bands = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    page = Page(HEAD + len(bands) * cell_height, MARGIN + columns * cell_width)
    room = page.width - 2 * MARGIN
    page.text(MARGIN, HEAD / 2, heading, room=room * (0.4 if remark else 1), size=11, ha="left")
    page.text(MARGIN + room, HEAD / 2, remark, room=0.58 * room, size=8, ha="right", color=GREY)
    groups = dict.fromkeys(cell.group for cell in cells if cell.group)
    colours = {group: PALETTE[number % len(PALETTE)] for number, group in enumerate(groups)}
    for number, band in enumerate(bands):
        y = HEAD + number * cell_height
        for row, label in enumerate(rows):
            middle = y + above + row * (height + 2) + height / 2
            page.text(MARGIN / 2, middle, label, room=height, size=8, rotation=90)
        first = 0
        for group, members in groupby(band, key=lambda cell: cell.group):
            count = len(list(members))
            if group:
                _draw_bar(page, y, MARGIN + first * cell_width, count * cell_width - GAP, group, colours[group])
            first += count
        for column, cell in enumerate(band):
            _draw_cell(page, cell, y + BAR, MARGIN + column * cell_width, (height, width), len(rows))
    return page.drawn()


def _cell_size(cells: Sequence[Cell]) -> tuple[int, int]:
    """Height and width of every picture on the page."""
    sizes = {picture.shape[:2] for cell in cells for picture in cell.pictures}
    if len(sizes) != 1:
        raise UsageError(f"a gallery needs pictures of one size, got {sorted(sizes)}")
    height, width = next(iter(sizes))
    if width > WIDEST:
        height, width = max(1, round(height * WIDEST / width)), WIDEST
    zoom = -(-NARROWEST // width)
    return zoom * height, zoom * width


def _draw_bar(page: Page, y: int, x: int, width: int, group: str, colour: tuple[int, int, int]) -> None:
    page.bar(y, x, BAR - 2, width, colour)
    ink = "black" if sum(colour) > 330 else "white"
    page.text(x + 5, y + BAR / 2 - 1, group, room=width - 10, size=8, ha="left", color=ink)


def _draw_cell(page: Page, cell: Cell, y: int, x: int, size: tuple[int, int], rows: int) -> None:
    height, width = size
    page.text(x, y + TITLE / 2, cell.title, room=width, size=10, ha="left", weight="bold")
    page.text(x, y + TITLE + NOTE / 2 - 2, cell.note, room=width, size=7, ha="left", color=GREY)
    top = y + TITLE + NOTE
    for row, picture in enumerate(cell.pictures):
        # INTER_AREA averages where the picture becomes smaller and repeats pixels where it becomes larger.
        fitted = np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)
        page.picture(top + row * (height + 2), x, fitted)
    empty = rows - len(cell.pictures)
    if cell.text and empty > 0:
        page.paragraph(top + len(cell.pictures) * (height + 2), x, empty * (height + 2), width, cell.text)
