"""The browser that tests of the page drive: Chromium, with nothing to reach but what a test gives it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SERIOUS = ("serious", "critical")


def chromium() -> str | None:
    """Where Chromium is: ``CAMKIT_CHROMIUM``, or the first that the system knows."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return os.environ.get("CAMKIT_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


def missing() -> str:
    """What tests of the page lack here; empty where nothing."""
    for package, name in (("playwright", "playwright"), ("axe_playwright_python", "axe-playwright-python")):
        if not find_spec(package):
            return f"drives a browser, and {name} isn't installed"
    return "" if chromium() else "drives a browser, and there is no Chromium (CAMKIT_CHROMIUM says where it is)"


@contextmanager
def browser() -> Iterator[Any]:
    """Chromium, without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium(), args=list(ARGUMENTS))
        try:
            yield started
        finally:
            started.close()


def faults(page: Any) -> list[str]:
    """Serious accessibility faults that axe-core finds in a page, one line each."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {each['help']}: {each['nodes'][0]['html'][:200]}" for each in found if each["impact"] in SERIOUS
    ]
