"""A run in the browser: chosen by condition, sorted, paged through, and explained anew beside what it kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from camkit.datasets import load, run
from tests.datasets.pictures import classifier, write_pictures
from tests.explore.serving import served
from tests.explore.test_kept import explorer
from tests.web.browser import browser, faults, missing

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing() or "there is a browser")]
PAGE = 24
"""Pictures on a page of the list."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of thirty pictures."""
    folder = tmp_path_factory.mktemp("made")
    run(write_pictures(folder / "data", 30), classifier(), folder / "run", ["GradCAM", "EigenCAM"], workers=0)
    return folder / "run"


@pytest.fixture(scope="module")
def page(made: Path) -> Iterator[Any]:
    with served(explorer(made)) as client, browser() as chromium:
        opened = chromium.new_page(viewport={"width": 1280, "height": 800})
        opened.goto(f"http://127.0.0.1:{client.port}/")
        shown(opened)
        yield opened


def shown(page: Any) -> None:
    """Wait until all maps are there."""
    page.locator(".card[data-state=shown]").first.wait_for(timeout=60_000)
    page.locator(".card:not([data-state=shown])").first.wait_for(state="detached", timeout=60_000)


def listed(page: Any) -> list[str]:
    return [each.strip() for each in page.locator("#strip .name").all_inner_texts()]


def choose(page: Any, where: str = "", sort: str = "") -> None:
    """Send the form above the pictures."""
    page.locator("#where").fill(where)
    page.locator("#sort").select_option(sort)
    with page.expect_response("**/api/images?*"):
        page.get_by_role("button", name="Show", exact=True).click()
    page.wait_for_timeout(300)


def test_rows_are_paged_through_by_button_and_by_key(page: Any, made: Path) -> None:
    ids = load(made).ids
    assert listed(page) == ids[:PAGE]
    page.locator("#page-on").click()
    page.locator("#range", has_text="25 to 30 of 30").wait_for()
    assert listed(page) == ids[PAGE:]
    page.locator("#page-back").click()
    page.locator("#range", has_text="1 to 24 of 30").wait_for()
    page.locator("#strip button").nth(PAGE - 1).click()
    page.locator("#seen", has_text=ids[PAGE - 1]).wait_for()
    page.locator("body").press("ArrowRight")
    page.locator("#seen", has_text=ids[PAGE]).wait_for()
    assert listed(page) == ids[PAGE:]
    assert faults(page) == []


def test_rows_are_chosen_and_sorted(page: Any, made: Path) -> None:
    rows = load(made)
    middle = sorted(rows.table["score"].to_pylist())[15]
    choose(page, f"score > {middle}", "score")
    expected = rows.filter(f"score > {middle}").sort("score").ids
    assert listed(page) == expected
    page.locator("#seen", has_text=expected[0]).wait_for()
    page.locator("#where").fill("scor > 1")
    page.get_by_role("button", name="Show", exact=True).click()
    page.locator("#problem", has_text="there is no column 'scor'").wait_for()
    choose(page)
    assert listed(page) == rows.ids[:PAGE]
    assert page.locator("#problem").is_hidden()


def test_the_model_stands_beside_the_run(page: Any) -> None:
    shown(page)
    page.locator("#sources button").nth(1).click()
    page.locator(".card").nth(1).wait_for(timeout=60_000)
    shown(page)
    assert [text.strip() for text in page.locator(".card .mark").all_inner_texts()] == ["run run", "tiny"]
    page.locator("canvas").first.hover(position={"x": 60, "y": 90})
    values = [float(each.get_attribute("data-value")) for each in page.locator(".reading").all()]
    assert values[0] == pytest.approx(values[1], abs=1e-3)
