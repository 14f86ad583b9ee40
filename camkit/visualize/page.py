"""A white page with text, bars and pictures at exact pixels."""

from __future__ import annotations

import re
from bisect import bisect_right
from functools import cached_property
from typing import Any

import numpy as np

from camkit.visualize.colours import concept_colour
from camkit.visualize.picture import Picture

DPI = 100
GREY = "#444444"
"""The ink of notes."""


class Page:
    """A page of ``height`` by ``width`` pixels; places are pixels from the upper left corner.

    Text is drawn by matplotlib's object interface, without pyplot: no global state and no window.
    """

    def __init__(self, height: int, width: int) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.height, self.width = height, width
        # A little more: some releases cut 509.99..., which is what 510 pixels become by way of inches.
        inches = ((width + 1e-3) / DPI, (height + 1e-3) / DPI)
        self._figure = Figure(figsize=inches, dpi=DPI, facecolor="white")
        self._canvas = FigureCanvasAgg(self._figure)
        self._pictures: list[tuple[int, int, Picture]] = []

    def text(self, x: float, y: float, words: str, *, room: float, size: float = 9, **style: Any) -> None:
        """Write one line, centred at (x, y) unless ``style`` says otherwise.

        Args:
            x: Column.
            y: Row.
            words: The line.
            room: Width in pixels; of a wider line the middle is replaced by an ellipsis.
            size: Of the font, in points.
            **style: Of matplotlib's ``Figure.text``.
        """
        style = {"ha": "center", "va": "center", "parse_math": False, **style}
        fitted = self._shortened(words, room, size, style.get("weight", "normal"))
        self._figure.text(x / self.width, 1 - y / self.height, fitted, size=size, **style)

    def paragraph(self, top: int, left: int, height: int, width: int, words: str, size: float = 8) -> None:
        """Write lines of grey text into a rectangle, from its upper left corner; what doesn't fit is left out.

        A line that begins with ``[N]`` gets a square in the colour of concept N in place of that.
        """
        step = 1.9 * size
        lines: list[tuple[int, str]] = []  # the concept's number, 0 for none, and the text
        for line in words.splitlines():
            marked = re.match(r"\[(\d+)\] ", line)
            indent = step if marked else 0
            parts = self._wrapped(line[marked.end() :] if marked else line, width - indent - 8, size)
            lines += [(int(marked[1]) if marked and not number else 0, part) for number, part in enumerate(parts)]
        fitting = int(height // step)
        for number, (concept, line) in enumerate(lines[:fitting]):
            y = top + (number + 0.8) * step
            if concept:
                self.bar(round(y - size / 2), left + 4, round(size), round(size), concept_colour(concept))
            x = left + 4 + (step if concept else 0)
            is_cut = number + 1 == fitting < len(lines)
            self.text(x, y, f"{line} …" if is_cut else line, room=left + width - x, size=size, ha="left", color=GREY)

    def bar(self, top: int, left: int, height: int, width: int, colour: tuple[int, int, int]) -> None:
        """Fill a rectangle with an RGB colour; text goes over it."""
        from matplotlib.patches import Rectangle

        corner = left / self.width, 1 - (top + height) / self.height
        shares = [each / 255 for each in colour]
        patch = Rectangle(corner, width / self.width, height / self.height, color=shares, linewidth=0, zorder=0)
        self._figure.add_artist(patch)

    def picture(self, top: int, left: int, picture: Picture) -> None:
        """Put a picture on the page, pixel by pixel, over everything else."""
        self._pictures.append((top, left, picture))

    def drawn(self) -> Picture:
        """Draw the page."""
        self._canvas.draw()
        page: Picture = np.array(self._canvas.buffer_rgba(), dtype=np.uint8)[:, :, :3].copy()
        for top, left, picture in self._pictures:
            page[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
        return page

    def _wrapped(self, words: str, room: float, size: float) -> list[str]:
        """One line of words in lines of at most ``room`` pixels, as far as single words allow."""
        made: list[str] = []
        line = ""
        for word in words.split():
            longer = f"{line} {word}".lstrip()
            if line and self._length(longer, size, "normal") > room:
                made.append(line)
                longer = word
            line = longer
        return [*made, line]

    def _shortened(self, words: str, room: float, size: float, weight: str) -> str:
        """A line with an ellipsis in place of its middle where it is wider than ``room``."""
        if self._length(words, size, weight) <= room:
            return words

        def without_middle(kept: int) -> str:
            end = min(7, kept // 2)  # labels end in scores
            return f"{words[: kept - end]}…{words[len(words) - end :]}"

        kept = range(len(words))
        fitting = bisect_right(kept, room, key=lambda count: self._length(without_middle(count), size, weight))
        return without_middle(max(fitting - 1, 0))

    def _length(self, words: str, size: float, weight: str) -> float:
        from matplotlib.font_manager import FontProperties

        font = FontProperties(size=size, weight=weight)
        length: float = self._renderer.get_text_width_height_descent(words, font, ismath=False)[0]
        return length

    @cached_property
    def _renderer(self) -> Any:
        return self._canvas.get_renderer()
