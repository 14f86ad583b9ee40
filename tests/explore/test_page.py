"""The page in a browser: the demo explored, by mouse and by keyboard, in light and dark."""

from __future__ import annotations

import base64
import io
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import camkit
from camkit.cli import explore
from camkit.cli.main import main
from camkit.cli.parser import Parser
from camkit.methods.maps import finish
from tests.explore.serving import Client, served
from tests.models.installed import installed
from tests.web.browser import browser, faults, missing

pytestmark = [pytest.mark.frameworks, pytest.mark.slow]
SHOTS = Path(os.environ["CAMKIT_SHOTS"]) if "CAMKIT_SHOTS" in os.environ else None
"""Where screenshots are kept to be looked at; None for nowhere."""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """``camkit explore`` without arguments."""
    installed("mmpretrain")
    pytest.importorskip("skimage")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAMKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        parser = Parser()
        explore.add_arguments(parser)
        with served(explore.make_explorer(parser.parse_args([]))) as client:
            yield client


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if missing():
        pytest.skip(missing())
    with browser() as made:
        yield made


@pytest.fixture
def page(demo: Client, chromium: Any) -> Iterator[Any]:
    """The page when its first maps are there. It asks nobody else, and nothing goes wrong in it."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800}, color_scheme="light")
    made = context.new_page()
    wrong: list[str] = []
    made.on("pageerror", lambda error: wrong.append(str(error)))
    made.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    asked: list[str] = []
    made.on("request", lambda request: asked.append(request.url))
    made.goto(f"http://127.0.0.1:{demo.port}/")
    shown(made)
    yield made
    context.close()
    assert wrong == []
    assert all(url.startswith((f"http://127.0.0.1:{demo.port}/", "data:", "blob:")) for url in asked)


def shown(page: Any, count: int | None = None) -> None:
    """Wait until all maps are there, and so many of them."""
    page.locator(".card").first.wait_for(timeout=120_000)
    page.locator(".card:not([data-state])").first.wait_for(state="detached", timeout=120_000)
    page.locator("#layer-name:has-text('grid'), #problem:not([hidden])").first.wait_for(timeout=120_000)
    assert page.locator("#problem").is_hidden(), page.locator("#problem").inner_text()
    assert page.locator(".card[data-state=failed]").count() == 0
    if count is not None:
        assert page.locator(".card[data-state=shown]").count() == count


def titles(page: Any) -> list[str]:
    return [" ".join(text.split()) for text in page.locator(".card h3").all_inner_texts()]


def chip(page: Any, name: str) -> Any:
    """A class or a method to choose."""
    return page.locator("button.chip").filter(has=page.get_by_text(name, exact=True))


def chips(page: Any, group: str) -> list[str]:
    """The pressed ones."""
    return [
        each.strip()
        for each in page.locator(f"#{group} [aria-pressed=true] > span:not(.key, .number)").all_inner_texts()
    ]


def shoot(page: Any, name: str) -> None:
    if SHOTS is not None:
        page.screenshot(path=SHOTS / f"{name}.png")


def save(page: Any, button: str, folder: Path) -> Path:
    """Press a button that downloads, and keep what comes."""
    with page.expect_download(timeout=120_000) as waiting:
        page.locator(".card").first.get_by_role("button", name=button).click()
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


def test_it_starts_on_the_demo(page: Any) -> None:
    assert titles(page) == ["GradCAM tiger cat", "GradCAM espresso"]
    assert page.locator("#strip button").all_inner_texts() == [
        "cat and espresso",
        "chelsea",
        "coffee",
        "astronaut",
        "rocket",
    ]
    shoot(page, "explore")
    assert faults(page) == []


def test_the_demo_explored(page: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from skimage import data

    picture = tmp_path / "my cat.png"
    Image.fromarray(data.chelsea()[:, 60:360]).save(picture)
    page.set_input_files("#file", picture)
    page.locator("#seen", has_text="my cat.png").wait_for(timeout=120_000)
    shown(page, 1)

    page.locator("#several").uncheck()
    chip(page, "Egyptian cat").click()
    chip(page, "LayerCAM").click()
    chip(page, "GradCAM").click()
    shown(page, 1)
    assert titles(page) == ["LayerCAM Egyptian cat"]
    before = page.locator("#layer-name").inner_text()
    page.locator("#layer").focus()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    page.wait_for_timeout(300)
    shown(page, 1)
    layer = page.locator("#layer-name").inner_text().partition(":")[0]
    assert layer not in before
    page.locator("#alpha").fill("0.7")
    page.locator("#colormap").select_option("viridis")

    # What the pointer reads is the library's map.
    page.locator("canvas").first.hover(position={"x": 120, "y": 180})
    reading = page.locator(".reading").first
    x, y = (int(each) for each in re.search(r"x (\d+), y (\d+)", reading.inner_text()).groups())
    page.locator(".card").first.get_by_role("button", name="Copy as command").click()
    page.locator("#command").wait_for()
    words = shlex.split(page.locator("#command-text").inner_text())
    assert words[2] == "my cat.png"
    value = float(reading.get_attribute("data-value"))

    # The command, run where the file is, makes the page's picture and raw map to the bit.
    monkeypatch.chdir(tmp_path)
    assert main([*words[1:], "--save-raw", "by-command.npz"]) == 0
    drawn = save(page, "Picture", tmp_path)
    assert drawn.read_bytes() == (tmp_path / words[-1]).read_bytes()
    maps, told = camkit.load_raw("by-command.npz")
    own, own_told = camkit.load_raw(save(page, "Raw map", tmp_path))
    assert np.array_equal(maps[f"LayerCAM/{layer}"], own[f"LayerCAM/{layer}"])
    assert told == own_told
    heat = finish([torch.from_numpy(maps[f"LayerCAM/{layer}"])], (224, 224))[0]
    assert value == pytest.approx(float(heat[y, x]), abs=1e-6)

    # What the browser paints is what the command draws, but for rounding.
    shot = page.locator("canvas").first.evaluate("canvas => canvas.toDataURL('image/png').split(',')[1]")
    painted = np.array(_decoded(shot).convert("RGB")).astype(int)
    expected = np.array(Image.open(drawn).convert("RGB")).astype(int)
    assert np.abs(painted - expected).max() <= 1


def test_a_place_and_a_difference(page: Any) -> None:
    page.locator("canvas").first.click(position={"x": 100, "y": 100})
    page.locator("#place").wait_for(timeout=120_000)
    assert "cat" in page.locator("#place-classes li").first.inner_text()
    page.locator("#difference").check()
    page.locator("#signed").check()
    shown(page, 3)
    assert titles(page)[-1] == "GradCAM: difference tiger cat less espresso"
    chip(page, "EigenCAM").click()
    shown(page, 4)
    assert "asks for no class" in page.locator(".card").nth(2).inner_text()
    shoot(page, "explore-difference")
    assert faults(page) == []


def test_the_keyboard(page: Any) -> None:
    page.locator("body").press("ArrowRight")
    page.locator("#seen", has_text="chelsea").wait_for(timeout=120_000)
    shown(page, 1)
    first = chips(page, "classes")
    page.keyboard.press("3")
    shown(page, 1)
    assert chips(page, "classes") != first
    page.keyboard.press("Shift+Digit1")
    shown(page, 2)
    page.keyboard.press("1")
    page.keyboard.press("m")
    shown(page, 1)
    assert chips(page, "methods") == ["GradCAM++"]
    page.keyboard.press("ArrowLeft")
    page.locator("#seen", has_text="cat and espresso").wait_for(timeout=120_000)
    shown(page)
    page.locator("canvas").first.focus()
    page.keyboard.press("ArrowUp")
    assert "row 3" in page.locator(".reading").first.inner_text()
    page.keyboard.press("Enter")
    page.locator("#place").wait_for(timeout=120_000)


def test_dark_and_narrow(page: Any) -> None:
    page.locator("#theme").click()
    page.locator("#theme").click()
    assert page.locator("html").get_attribute("data-theme") == "dark"
    page.set_viewport_size({"width": 820, "height": 1180})
    shoot(page, "explore-dark")
    assert faults(page) == []
    wide = page.locator("html").evaluate("root => root.scrollWidth > root.clientWidth")
    assert not wide, "nothing reaches beyond a tablet's width"


def test_a_slow_method_shows_progress_and_is_stopped(page: Any) -> None:
    page.locator("#more summary").click()
    chip(page, "SS-CAM").click()
    page.locator(".card progress:visible").first.wait_for(timeout=120_000)
    page.locator(".card").get_by_role("button", name="Stop").locator("visible=true").first.click()
    page.locator(".card[data-state=stopped]").first.wait_for(timeout=120_000)
    page.locator("body").press("1")
    chip(page, "SS-CAM").click()
    shown(page)


def test_names_from_outside_are_text(demo: Client, page: Any, tmp_path: Path) -> None:
    picture = tmp_path / "<img src=x onerror=alert(1)>.png"
    Image.new("RGB", (60, 60), "orange").save(picture)
    page.set_input_files("#file", picture)
    page.locator("#seen", has_text="<img src=x onerror=alert(1)>.png").wait_for(timeout=120_000)
    shown(page)


def test_what_is_no_picture_is_said(demo: Client, page: Any, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_bytes(b"no picture")
    # The browser itself notes answers of 4xx on its console.
    page.evaluate("() => 0")
    page.route("**/api/images?name=*", lambda route: route.fulfill(status=200, body="no json"))
    page.set_input_files("#file", tmp_path / "text.png")
    page.locator("#problem", has_text="the server answers 200").wait_for()


def _decoded(text: str) -> Any:
    return Image.open(io.BytesIO(base64.b64decode(text)))
