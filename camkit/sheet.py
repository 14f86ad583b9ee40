"""Many methods on one page: cells with a name each, under a bar for the family that they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import cv2
import numpy as np

from camkit.errors import UsageError
from camkit.page import Page
from camkit.render import COLOURS, Picture, write

NARROWEST, WIDEST = 160, 240
"""Pixels of a cell's picture; wider ones are made smaller, and the pixels of narrower ones larger."""
MARGIN, GAP = 24, 10
HEAD, BAR, TITLE, NOTE = 34, 17, 20, 15
"""Heights of the page's heading, the group's bar, a cell's title and the line below it."""


@dataclass(frozen=True)
class Cell:
    """One method.

    Attributes:
        title: its name.
        group: what it has in common with its neighbours; without one there is no bar.
        note: a small line below the title.
        pictures: BGR, from top to bottom.
        text: stands below them, where there are fewer than in other cells; see :func:`camkit.render.write`.
    """

    title: str
    group: str = ""
    note: str = ""
    pictures: Sequence[Picture] = ()
    text: str = ""


def sheet(cells: Sequence[Cell], rows: Sequence[str], columns: int, heading: str, remark: str = "") -> Picture:
    """Cells on a white page, BGR.

    Args:
        cells: in order, those of a group one after the other. Their pictures have one size.
        rows: what the pictures of each cell show, from top to bottom; stands upright at the left.
        columns: how many cells stand side by side.
        heading: of the page.
        remark: a small line beside it.

    Raises:
        UsageError: no picture, or pictures of several sizes.
    """
    sizes = {picture.shape for cell in cells for picture in cell.pictures}
    if len(sizes) != 1:
        raise UsageError(f"a sheet needs pictures of one size, got {sorted(sizes)}")
    height, width = next(iter(sizes))[:2]
    if width > WIDEST:
        height, width = max(1, round(height * WIDEST / width)), WIDEST
    zoom = -(-NARROWEST // width)
    height, width = zoom * height, zoom * width
    columns = min(columns, len(cells))
    top = BAR + TITLE + NOTE
    cell_height = top + len(rows) * (height + 2) + GAP
    bands = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    page = Page(HEAD + len(bands) * cell_height, MARGIN + columns * (width + GAP))
    room = page.width - 2 * MARGIN
    page.text(MARGIN, HEAD / 2, heading, room=room * (0.4 if remark else 1), size=11, ha="left")
    page.text(MARGIN + room, HEAD / 2, remark, room=0.58 * room, size=8, ha="right", color="#444444")
    colours = {group: COLOURS[number % len(COLOURS)] for number, group in enumerate(_groups(cells))}
    for number, band in enumerate(bands):
        y = HEAD + number * cell_height
        for label, row in zip(rows, range(len(rows)), strict=True):
            middle = y + top + row * (height + 2) + height / 2
            page.text(MARGIN / 2, middle, label, room=height, size=8, rotation=90)
        first = 0
        for group, members in groupby(band, key=lambda cell: cell.group):
            count = len(list(members))
            if group:
                _bar(page, y, MARGIN + first * (width + GAP), count * (width + GAP) - GAP, group, colours[group])
            first += count
        for column, cell in enumerate(band):
            _draw(page, cell, y + BAR, MARGIN + column * (width + GAP), (height, width), len(rows))
    return np.ascontiguousarray(page.drawn()[:, :, ::-1])


def _groups(cells: Sequence[Cell]) -> list[str]:
    return list(dict.fromkeys(cell.group for cell in cells if cell.group))


def _bar(page: Page, y: int, x: int, width: int, group: str, colour: tuple[int, int, int]) -> None:
    page.bar(y, x, BAR - 2, width, colour)
    ink = "black" if sum(colour) > 330 else "white"
    page.text(x + 5, y + BAR / 2 - 1, group, room=width - 10, size=8, ha="left", color=ink)


def _draw(page: Page, cell: Cell, y: int, x: int, size: tuple[int, int], rows: int) -> None:
    height, width = size
    page.text(x, y + TITLE / 2, cell.title, room=width, size=10, ha="left", weight="bold")
    page.text(x, y + TITLE + NOTE / 2 - 2, cell.note, room=width, size=7, ha="left", color="#444444")
    top = y + TITLE + NOTE
    for row, picture in enumerate(cell.pictures):
        # Averaging over areas repeats pixels where the picture becomes larger.
        fitting = np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)
        page.picture(top + row * (height + 2), x, fitting[:, :, ::-1])
    left = rows - len(cell.pictures)
    if cell.text and left > 0:
        write(page, top + len(cell.pictures) * (height + 2), x, (left * (height + 2), width), cell.text)
