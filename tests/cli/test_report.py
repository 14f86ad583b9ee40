"""``camkit report``: flags, what is printed, exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.running import Run, refused

pytest.importorskip("pyarrow", reason="runs need pyarrow: pip install 'camkit[datasets]'")
pytest.importorskip("sklearn", reason="reports need scikit-learn: pip install 'camkit[report]'")

from tests.report.runs import write_labelled, write_run


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    return write_labelled(tmp_path)


def test_the_command(camkit: Callable[..., Run], labelled: Path, tmp_path: Path) -> None:
    made = camkit("report", labelled, "--out", tmp_path / "new" / "report.html", "--max-mb", 5)
    assert made.code == 0, made.err
    assert made.wrote == [tmp_path / "new" / "report.html"]
    assert "images: 40" in made.out


def test_an_unfinished_run_is_said(camkit: Callable[..., Run], tmp_path: Path) -> None:
    made = write_run(tmp_path, [0, 0], [0, 0], asked=9)
    assert "unfinished: 2 of 9 images" in camkit("report", made, "--out", tmp_path / "r.html").err
    assert "2 of 9: unfinished" in camkit("runs", made).out


def test_what_the_command_refuses(camkit: Callable[..., Run], labelled: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    refused(camkit("report", tmp_path / "none", "--out", out), 2, "no run in")
    refused(camkit("report", labelled, "--out", tmp_path / "r.pdf"), 2, "its extension must be one of .html")
    refused(camkit("report", labelled, "--out", out, "--method", "LayerCAM"), 2, "has no maps of LayerCAM")
    refused(camkit("report", labelled, "--out", out, "--images", tmp_path / "gone"), 2, "is no folder")
    refused(camkit("report", labelled, "--out", out, "--max-mb", "0"), 2, "megabytes above zero")
    manifest = json.loads((labelled / "manifest.json").read_text())
    (labelled / "manifest.json").write_text(json.dumps(manifest | {"version": 99}))
    refused(camkit("report", labelled, "--out", out), 1, "written by a newer camkit")
    assert not out.exists()


def test_a_missing_extra_is_one_line(
    camkit: Callable[..., Run], labelled: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.delitem(sys.modules, "camkit.report", raising=False)
    refused(camkit("report", labelled, "--out", tmp_path / "r.html"), 1, r"pip install 'camkit\[report\]'")
