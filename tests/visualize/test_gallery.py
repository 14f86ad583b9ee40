"""The gallery's page: cells under the bars of their families."""

from __future__ import annotations

import numpy as np
import pytest

from camkit.errors import UsageError
from camkit.visualize.colours import PALETTE
from camkit.visualize.gallery import BAR, GAP, HEAD, MARGIN, NOTE, TITLE, Cell, gallery
from camkit.visualize.picture import Picture

RANDOM = np.random.default_rng(0)
HEIGHT, WIDTH = 80, 200
PICTURES = tuple(RANDOM.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8) for _ in range(4))
ABOVE = BAR + TITLE + NOTE


def at(
    page: Picture, band: int, column: int, row: int, rows: int = 2, size: tuple[int, int] = (HEIGHT, WIDTH)
) -> Picture:
    """What stands on a page at the place of a picture of ``size``."""
    height, width = size
    top = HEAD + band * (ABOVE + rows * (height + 2) + GAP) + ABOVE + row * (height + 2)
    left = MARGIN + column * (width + GAP)
    return page[top : top + height, left : left + width]


def test_cells_stand_in_order_under_bars() -> None:
    first, second, third, fourth = PICTURES
    cells = [
        Cell("image", pictures=[first]),
        Cell("A", "one", pictures=[second, third], note="k=2 (1)"),
        Cell("B", "two", text="can't be applied"),
        Cell("C", "two", pictures=[fourth]),
    ]
    page = gallery(cells, ["up", "down"], 2, "heading", "remark")
    np.testing.assert_array_equal(at(page, 0, 0, 0), first)
    np.testing.assert_array_equal(at(page, 0, 1, 0), second)
    np.testing.assert_array_equal(at(page, 0, 1, 1), third)
    np.testing.assert_array_equal(at(page, 1, 1, 0), fourth)
    text = at(page, 1, 0, 0)
    assert 0 < (text < 128).any(2).mean() < 0.1
    bars = [(page == np.array(PALETTE[group])).all(2).any(0).sum() for group in range(2)]
    assert bars == [200, 410], "a bar goes over all neighbours of a group"


def test_wide_pictures_become_smaller() -> None:
    page = gallery([Cell("a", pictures=[np.zeros((100, 480, 3), np.uint8)])], ["row"], 3, "")
    assert not at(page, 0, 0, 0, rows=1, size=(50, 240)).any()
    assert page.shape[1] == MARGIN + 240 + GAP


def test_pixels_of_tiny_pictures_become_larger() -> None:
    tiny = RANDOM.integers(0, 256, (20, 48, 3), dtype=np.uint8)
    page = gallery([Cell("a", pictures=[tiny])], ["row"], 3, "")
    np.testing.assert_array_equal(at(page, 0, 0, 0, rows=1, size=(80, 192)), tiny.repeat(4, 0).repeat(4, 1))


def test_long_words_stay_in_their_cells() -> None:
    words = "pneumonoultramicroscopicsilicovolcanoconiosis " * 9
    cells = [Cell("a", pictures=[PICTURES[0]]), Cell(words, words, words, text=words)]
    page = gallery([*cells, Cell("c")], [words], 2, words, words)
    assert (page[:, -10:] == 255).all()


def test_refuses_unequal_pictures() -> None:
    with pytest.raises(UsageError, match="a gallery needs pictures of one size"):
        gallery([Cell("a", pictures=[PICTURES[0], PICTURES[0][1:]])], ["row"], 1, "")
    with pytest.raises(UsageError, match="a gallery needs pictures of one size"):
        gallery([Cell("a")], ["row"], 1, "")
