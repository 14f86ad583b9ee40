"""A report in a browser: opened from disk with the network away, sorted, filtered, paged, in both themes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.web.browser import browser, faults, missing

if missing():
    pytest.skip(missing(), allow_module_level=True)
pytest.importorskip("pyarrow", reason="runs need pyarrow: pip install 'camkit[datasets]'")
pytest.importorskip("sklearn", reason="reports need scikit-learn: pip install 'camkit[report]'")

from camkit.report import write_report
from tests.report.runs import blobs, write_run

HOSTILE = "<img src=x onerror=\"document.title='owned'\">"
DESK, TABLET = {"width": 1280, "height": 800}, {"width": 768, "height": 1024}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ninety images of three classes, one of which looks at a corner; each map beside that of the true class."""
    folder = tmp_path_factory.mktemp("report")
    random = np.random.default_rng(0)
    label = [number % 3 for number in range(90)]
    predicted = [(each + 1) % 3 if number % 5 == 0 else each for number, each in enumerate(label)]
    centres = np.array([[0, 0] if each == 1 else [3, 3] for each in label]) + random.normal(0, 0.4, (90, 2))
    explained = [[top, each] for top, each in zip(predicted, label, strict=True)]
    made = write_run(
        folder,
        label,
        predicted,
        score=list(random.uniform(0.4, 1, 90)),
        maps=blobs(centres, targets=2),
        explained=explained,
        classes=("espresso", HOSTILE, "tabby cat"),
        asked=120,
    )
    return write_report(made, folder / "report.html").path


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as started:
        yield started


class Visit:
    """A page in a browser without a network, and what went wrong on it."""

    def __init__(self, chromium: Any, path: Path, **settings: Any) -> None:
        self.context = chromium.new_context(
            **{"viewport": DESK, "reduced_motion": "reduce", "offline": True, **settings}
        )
        self.requests: list[str] = []
        self.problems: list[str] = []
        self.page = self.context.new_page()
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.problems.append(message.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.goto(path.as_uri())


@pytest.fixture
def visit(chromium: Any, report: Path) -> Iterator[Any]:
    visits: list[Visit] = []

    def go(**settings: Any) -> Visit:
        visits.append(Visit(chromium, report, **settings))
        return visits[-1]

    yield go
    for each in visits:
        each.context.close()


def shown(page: Any, selector: str) -> list[Any]:
    return [each for each in page.locator(selector).all() if each.is_visible()]


def values(page: Any, name: str) -> list[str]:
    return [each.get_attribute(f"data-{name}") for each in shown(page, "#images-cards > .card")]


def test_it_asks_for_nothing_and_complains_of_nothing(visit: Any, report: Path) -> None:
    found = visit()
    assert [url for url in found.requests if not url.startswith("data:")] == [report.as_uri()]
    assert found.problems == []
    assert found.page.title().startswith("Report of")
    broken = "[...document.images].filter((each) => !each.complete || !each.naturalWidth).length"
    assert found.page.evaluate(broken) == 0
    assert "1 " + HOSTILE in found.page.inner_text("#classes-table")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESK, TABLET], ids=["desk", "tablet"])
def test_no_serious_fault_and_nothing_outside_the_window(visit: Any, scheme: str, viewport: dict[str, int]) -> None:
    page = visit(color_scheme=scheme, viewport=viewport).page
    assert faults(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]


def test_what_stands_out_is_on_the_first_page(visit: Any) -> None:
    page = visit().page
    box = page.locator(".finding[data-kind=border]").bounding_box()
    assert box["y"] + box["height"] <= DESK["height"] + 120  # under an unfinished run's notice


def test_images_are_sorted_and_filtered(visit: Any) -> None:
    page = visit().page
    assert page.inner_text("#images-count") == "18 of 18 shown"
    first = values(page, "order")
    assert first == sorted(first, key=int)
    page.select_option("#images-sort", "border")
    border = [float(each) for each in values(page, "border")]
    assert border == sorted(border, reverse=True)
    page.select_option("#images-sort", "id")
    assert values(page, "id") == sorted(values(page, "id"))
    page.select_option("#images-label", label="2 tabby cat")
    assert set(values(page, "label")) == {"2"}
    assert page.inner_text("#images-count") == "6 of 18 shown"
    page.fill("#images-text", values(page, "id")[0])
    assert len(values(page, "id")) == 1
    page.click("#images-reset")
    assert len(values(page, "id")) == 18


def test_a_confusion_shows_its_images(visit: Any) -> None:
    page = visit().page
    page.click("[data-pair-label='1'][data-pair-predicted='2']")
    assert set(zip(values(page, "label"), values(page, "predicted"), strict=True)) == {("1", "2")}


def test_tables_are_sorted_and_filtered(visit: Any) -> None:
    page = visit().page
    header = page.locator("#classes-table th", has_text="Energy at the border")
    column = "#classes-table tbody td:nth-child(5)"
    header.locator("button").click()
    found = [float(each.get_attribute("data-value")) for each in page.locator(column).all()]
    assert found == sorted(found, reverse=True)
    assert header.get_attribute("aria-sort") == "descending"
    header.locator("button").click()
    assert [float(each.get_attribute("data-value")) for each in page.locator(column).all()] == sorted(found)
    page.fill("#classes-text", "TABBY")
    assert len(shown(page, "#classes-table tbody tr")) == 1
    assert page.inner_text("#classes-count") == "1 of 3 shown"


def test_clusters_are_paged(visit: Any) -> None:
    page = visit().page
    assert [each.get_attribute("data-class") for each in shown(page, ".clusters")] == ["1"]
    page.click("#clusters-next")
    second = [each.get_attribute("data-class") for each in shown(page, ".clusters")]
    assert second in (["0"], ["2"])
    page.click("#clusters-previous")
    assert [each.get_attribute("data-class") for each in shown(page, ".clusters")] == ["1"]
    page.select_option("#clusters-class", "")
    assert len(shown(page, ".clusters")) == 3
    page.select_option("#clusters-sort", "border")
    for group in page.locator(".clusters").all():
        border = [float(each.get_attribute("data-border")) for each in group.locator(".card").all()]
        assert border == sorted(border, reverse=True)


def test_the_keyboard_reaches_everything(visit: Any) -> None:
    """Tab goes from control to control and past the images, arrows go through these."""
    page = visit().page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.focus("#images-reset")
    page.keyboard.press("Tab")
    at = "document.activeElement.dataset.order"
    assert page.evaluate(at) == "0"
    page.keyboard.press("ArrowRight")
    assert page.evaluate(at) == "1"
    page.keyboard.press("End")
    assert page.evaluate(at) == "17"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('#images-cards')") is None


def test_the_theme_is_the_systems_until_it_is_chosen(visit: Any) -> None:
    ground = "getComputedStyle(document.body.parentElement).backgroundColor"
    light, dark = (visit(color_scheme=each).page.evaluate(ground) for each in ("light", "dark"))
    assert light != dark
    page = visit(color_scheme="light").page
    page.click("#theme")  # light
    page.click("#theme")  # dark
    assert page.inner_text("#theme") == "Theme: dark"
    assert page.evaluate(ground) == dark
    page.reload()
    assert page.evaluate(ground) == dark


def test_without_scripts_everything_can_be_read(visit: Any) -> None:
    page = visit(java_script_enabled=False).page
    assert shown(page, ".toolbar") == []
    assert shown(page, "button") == []
    assert len(shown(page, "#images-cards > .card")) == 18
    assert len(shown(page, ".clusters")) == 3


def test_it_prints(visit: Any, tmp_path: Path) -> None:
    page = visit(color_scheme="dark").page
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
    assert shown(page, ".toolbar") == []
    page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert (tmp_path / "report.pdf").stat().st_size > 10_000
