"""A page: ink where it was asked for, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from camkit.visualize.colours import concept_colour
from camkit.visualize.page import Page

LONG = "pneumonoultramicroscopicsilicovolcanoconiosis " * 5


def ink(page: Page) -> tuple[slice, slice]:
    """The rectangle of all that isn't white."""
    rows, columns = (page.drawn() < 255).any(2).nonzero()
    return slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)


def test_an_empty_page_is_white_and_exact() -> None:
    drawn = Page(37, 53).drawn()
    assert drawn.shape == (37, 53, 3)
    assert drawn.dtype == np.uint8
    assert (drawn == 255).all()


def test_a_bar_fills_its_rectangle() -> None:
    page = Page(40, 60)
    page.bar(10, 20, 5, 30, (213, 94, 0))
    drawn = page.drawn()
    assert (drawn[10:15, 20:50] == (213, 94, 0)).all()
    assert ink(page) == (slice(10, 15), slice(20, 50))


def test_pictures_lie_over_everything_pixel_by_pixel() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (10, 20, 3), dtype=np.uint8)
    page = Page(40, 60)
    page.picture(3, 4, picture)
    page.bar(0, 0, 40, 60, (0, 0, 0))
    np.testing.assert_array_equal(page.drawn()[3:13, 4:24], picture)


def test_text_is_centred_and_shortened_to_its_room() -> None:
    page = Page(40, 400)
    page.text(200, 20, LONG, room=300)
    rows, columns = ink(page)
    assert 250 < columns.stop - columns.start <= 301
    assert abs((columns.start + columns.stop) / 2 - 200) < 3
    assert abs((rows.start + rows.stop) / 2 - 20) < 5


def test_a_dollar_is_no_formula() -> None:
    page = Page(40, 400)
    page.text(200, 20, "$5 and $", room=300)
    assert page.drawn().min() < 128


def test_a_paragraph_stays_in_its_rectangle() -> None:
    page = Page(100, 300)
    page.paragraph(20, 30, 50, 200, f"[1] {LONG}\n[2] one\ntwo\nthree\nfour")
    rows, columns = ink(page)
    assert rows.start >= 20
    assert rows.stop <= 70
    assert columns.start >= 30
    assert columns.stop <= 231
    # Three lines fit: the first concept has more, so the second one's square is not there.
    drawn = page.drawn()
    assert (drawn == concept_colour(1)).all(2).sum() > 40
    assert not (drawn == concept_colour(2)).all(2).any()


def test_a_paragraph_without_room_writes_nothing() -> None:
    page = Page(100, 300)
    page.paragraph(20, 30, 10, 200, "no room")
    assert (page.drawn() == 255).all()


@pytest.mark.parametrize("width", [7, 509, 510, 1019, 1020])
def test_has_the_size_asked_for(width: int) -> None:
    assert Page(30, width).drawn().shape == (30, width, 3)
