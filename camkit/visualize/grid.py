"""Pictures in labelled rows and columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from camkit.errors import UsageError
from camkit.visualize.page import GREY, Page
from camkit.visualize.picture import Picture, as_picture, check_channel_order, in_order

if TYPE_CHECKING:
    from PIL.Image import Image

GAP, BAND = 6, 28
"""Pixels between pictures, and of the bands at the top and the left that hold the labels."""
NOTE = 16
"""Height of a line below a picture."""


def grid(
    pictures: Sequence[Sequence[Picture | Image | str]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    notes: Sequence[Sequence[str]] = (),
    channel_order: str = "RGB",
) -> Picture:
    """Arrange pictures in labelled rows and columns.

    Args:
        pictures: Rows of pictures of one size, as :func:`camkit.visualize.picture.as_picture` takes them; text stands
            where there is no picture.
        rows: A label per row, drawn upright at the left.
        columns: A label per column, drawn at the top.
        notes: Rows of small lines, one below each picture.
        channel_order: ``"RGB"`` or ``"BGR"``: the order of the arrays given and of the picture returned.

    Returns:
        (H, W, 3) uint8 on white, which holds the pictures pixel by pixel.

    Raises:
        UsageError: Counts or sizes that don't agree, or no picture.
    """
    check_channel_order(channel_order)
    cells = [[each if isinstance(each, str) else as_picture(each, channel_order) for each in row] for row in pictures]
    sizes = {cell.shape[:2] for row in cells for cell in row if not isinstance(cell, str)}
    if len(sizes) != 1 or len(rows) != len(cells) or {len(row) for row in cells} != {len(columns)}:
        raise UsageError(
            f"a grid needs equal pictures and a label per row and column: got sizes {sorted(sizes)}, rows "
            f"{[len(row) for row in cells]}, {len(rows)} row and {len(columns)} column labels"
        )
    if notes and [len(row) for row in notes] != [len(row) for row in cells]:
        raise UsageError(f"a grid needs a note per picture: got {[len(row) for row in notes]} in rows")
    height, width = next(iter(sizes))
    step = height + GAP + (NOTE if notes else 0)
    page = Page(BAND + len(rows) * step, BAND + len(columns) * (width + GAP))
    for j, label in enumerate(columns):
        page.text(BAND + j * (width + GAP) + width / 2, BAND / 2, label, room=width)
    for i, label in enumerate(rows):
        page.text(BAND / 2, BAND + i * step + height / 2, label, room=height, rotation=90)
    for i, row in enumerate(cells):
        for j, cell in enumerate(row):
            top, left = BAND + i * step, BAND + j * (width + GAP)
            if isinstance(cell, str):
                page.paragraph(top, left, height, width, cell)
            else:
                page.picture(top, left, cell)
            if notes:
                page.text(left + width / 2, top + height + NOTE / 2, notes[i][j], room=width, size=8, color=GREY)
    return in_order(page.drawn(), channel_order)
