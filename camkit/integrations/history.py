"""Maps over time: how much they change from one record to the next, and strips that show them side by side."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from camkit.visualize.gallery import GAP, HEAD, NOTE, TITLE, WIDEST
from camkit.visualize.opencv import cv2
from camkit.visualize.page import GREY, Page
from camkit.visualize.picture import Picture

Signed = Mapping[str, Tensor]
"""Layer to one signed map at its resolution, on the CPU."""


def drift(before: Signed, now: Signed) -> float | None:
    """How far a map has moved: 1 - r, with Pearson's correlation r of the two signed maps over their positions.

    0 where the map is the same up to a factor above 0 and an offset, 1 where the two have nothing to do with each
    other, 2 where what counted for the class now counts against it. Of several layers, the mean.

    Args:
        before: the signed maps by layer.
        now: the same for the same image, later.

    Returns:
        In [0, 2]; None where there are other layers or sizes, or where a map is the same everywhere, which correlates
        with nothing.
    """
    if before.keys() != now.keys() or any(before[name].shape != now[name].shape for name in now):
        return None
    found = [_correlation(before[name], now[name]) for name in now]
    known = [each for each in found if each is not None]
    return sum(1 - each for each in known) / len(known) if known else None


def _correlation(first: Tensor, second: Tensor) -> float | None:
    one, other = (each.double().flatten() for each in (first, second))
    one, other = one - one.mean(), other - other.mean()
    length = one.norm() * other.norm()
    # What is left of a constant map is rounding.
    if not length > 0 or min(_contrast(first), _contrast(second)) < 1e-6:
        return None
    return float((one @ other / length).clamp(-1, 1))


def _contrast(values: Tensor) -> float:
    """How much a map varies, in parts of its largest magnitude."""
    values = values.double()
    return float((values.max() - values.min()) / values.abs().max().clamp(min=torch.finfo(torch.float64).tiny))


class Strip:
    """One image's maps over time in a row, at most ``most`` of them: when there are more, every second one goes.

    What stays is spread evenly over the time so far, the first and the last record among it.

    Args:
        heading: over the row.
        unit: what is counted, ``"epoch"`` or ``"step"``.
        most: how many maps stay, at least 2.
    """

    def __init__(self, heading: str, unit: str, most: int) -> None:
        self.heading = heading
        self.unit = unit
        self._most = most
        self._stride = 1
        self._count = 0
        self._kept: list[Picture] = []
        self._last: Picture | None = None

    def __len__(self) -> int:
        return len(self._cells)

    def add(self, step: int, note: str, picture: Picture) -> None:
        """Take a map.

        Args:
            step: when.
            note: a small line below that.
            picture: RGB, all of one size.
        """
        self._last = _cell(f"{self.unit} {step}", note, picture)
        if self._count % self._stride == 0:
            if len(self._kept) == self._most - 1:
                self._kept, self._stride = self._kept[::2], 2 * self._stride
            if self._count % self._stride == 0:
                self._kept.append(self._last)
        self._count += 1

    def drawn(self) -> Picture:
        """The row, RGB."""
        row = np.concatenate(self._cells, axis=1)
        head = Page(HEAD, row.shape[1])
        head.text(GAP, HEAD / 2, self.heading, room=head.width - 2 * GAP, size=11, ha="left")
        return np.concatenate([head.drawn(), row])

    @property
    def _cells(self) -> list[Picture]:
        last = [] if self._last is None or (self._kept and self._kept[-1] is self._last) else [self._last]
        return [*self._kept, *last]


def _cell(title: str, note: str, picture: Picture) -> Picture:
    """A picture below two lines, drawn once for every strip that it will stand in."""
    width = min(picture.shape[1], WIDEST)
    height = max(1, round(picture.shape[0] * width / picture.shape[1]))
    page = Page(TITLE + NOTE + height + GAP, width + GAP)
    page.text(GAP, TITLE / 2, title, room=width, size=10, ha="left", weight="bold")
    page.text(GAP, TITLE + NOTE / 2 - 2, note, room=width, size=7, ha="left", color=GREY)
    resized = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    page.picture(TITLE + NOTE, GAP, np.asarray(resized, dtype=np.uint8))
    return page.drawn()
