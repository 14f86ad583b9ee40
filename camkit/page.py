"""A white page with pictures and text on it, at exact pixels."""

from __future__ import annotations

from bisect import bisect_right
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

DPI = 100


class Page:
    """Text, bars and pictures at places in pixels, counted from the upper left corner.

    Matplotlib's object interface, without pyplot, draws the text: no global state, no window, exact pixels.
    """

    def __init__(self, height: int, width: int) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.height, self.width = height, width
        self._figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
        self._canvas = FigureCanvasAgg(self._figure)
        self._pictures: list[tuple[int, int, NDArray[np.uint8]]] = []

    def text(self, x: float, y: float, words: str, *, room: float, size: float = 9, **style: Any) -> None:
        """Write ``words``, centred at a point or as ``style`` says; what is wider than ``room`` loses its middle."""
        known = {"ha": "center", "va": "center", "parse_math": False, **style}
        fitted = self._fitted(words, room, size, style.get("weight", "normal"))
        self._figure.text(x / self.width, 1 - y / self.height, fitted, size=size, **known)

    def lines(self, words: str, room: float, size: float) -> list[str]:
        """``words`` in lines of at most ``room`` pixels."""
        made: list[str] = []
        for paragraph in words.splitlines():
            line = ""
            for word in paragraph.split():
                longer = f"{line} {word}".lstrip()
                if line and self._length(longer, size, "normal") > room:
                    made.append(line)
                    longer = word
                line = longer
            made.append(line)
        return made

    def bar(self, top: int, left: int, height: int, width: int, colour: tuple[int, int, int]) -> None:
        """Fill a rectangle, below text, with an RGB colour."""
        x, y = left / self.width, 1 - (top + height) / self.height
        from matplotlib.patches import Rectangle

        shares = [each / 255 for each in colour]
        patch = Rectangle((x, y), width / self.width, height / self.height, color=shares, linewidth=0, zorder=0)
        self._figure.add_artist(patch)

    def picture(self, top: int, left: int, picture: NDArray[np.uint8]) -> None:
        """Put an RGB picture (H, W, 3) there, over all else, pixel by pixel."""
        self._pictures.append((top, left, picture))

    def drawn(self) -> NDArray[np.uint8]:
        """The page, (H, W, 3) uint8 RGB."""
        self._canvas.draw()
        page = np.array(self._canvas.buffer_rgba(), dtype=np.uint8)[:, :, :3]
        for top, left, picture in self._pictures:
            page[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
        return page

    def _fitted(self, words: str, room: float, size: float, weight: str) -> str:
        """``words`` with an ellipsis in place of their middle where they would run over their neighbours."""
        if self._length(words, size, weight) <= room:
            return words

        def shortened(kept: int) -> str:
            end = min(7, kept // 2)  # labels end in scores
            return f"{words[: kept - end]}…{words[len(words) - end :]}"

        kept = range(len(words))
        fitting = bisect_right(kept, room, key=lambda count: self._length(shortened(count), size, weight))
        return shortened(max(fitting - 1, 0))

    def _length(self, words: str, size: float, weight: str) -> float:
        from matplotlib.font_manager import FontProperties

        font = FontProperties(size=size, weight=weight)
        length: float = self._renderer.get_text_width_height_descent(words, font, ismath=False)[0]
        return length

    @cached_property
    def _renderer(self) -> Any:
        return self._canvas.get_renderer()
