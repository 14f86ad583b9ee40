"""The progress bar: on a terminal, for what takes long; nothing elsewhere."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import Any

import pytest

from camkit.cli import progress
from tests.cli.running import Run


class Terminal(io.StringIO):
    """A standard error that somebody looks at."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_appears_after_a_while_and_goes(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress.Bar("SS-CAM [2]") as bar:
        bar(1, 100)
        assert terminal.getvalue() == ""
        clock[0] = progress.PATIENCE + 0.1
        bar(40, 100)
        bar(3, 50)  # the next method, or the next view
    shown = terminal.getvalue()
    assert "SS-CAM [2]" in shown
    assert "40/100" in shown or "3/50" in shown
    assert shown.endswith(("\x1b[2K", "\x1b[?25h")), "it takes its line away"


def test_nothing_where_nobody_looks(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress.Bar("SS-CAM") as bar:
        clock[0] = 100
        bar(1, 2)
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("tiny")
def test_hears_of_perturbation_methods(
    photo: str, camkit: Callable[..., Run], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = []
    monkeypatch.setattr(progress.Bar, "__call__", lambda self, *counts: heard.append((self._title, *counts)))
    few = ("--method-options", "top_k=2", "--batch-size", 1)
    run = camkit("vis-cam", photo, "cnn", "--method", "ScoreCAM", *few, "--save-path", tmp_path / "out.png")
    assert run.code == 0, run.err
    assert heard == [("ScoreCAM", 1, 2), ("ScoreCAM", 2, 2)]
