"""Pages in a real browser: Chromium, driven by Playwright; accessibility by axe-core."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import pytest

FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
SERIOUS = ("serious", "critical")


@contextmanager
def browser() -> Iterator[Any]:
    """A browser without a window; where there is none, the test is skipped."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not find_spec("playwright") or chromium is None:
        pytest.skip("pages are tested with Playwright (pip install playwright) and Chromium (apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        yield made
        made.close()


def faults(page: Any) -> list[str]:
    """What axe-core finds on a page that is serious for somebody."""
    if not find_spec("axe_playwright_python"):
        pytest.skip("accessibility is tested with axe-core: pip install axe-playwright-python")
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {node['html'][:200]}: {node['failureSummary']}"
        for each in found
        if each["impact"] in SERIOUS
        for node in each["nodes"]
    ]
