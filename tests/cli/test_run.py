"""``camkit run``, ``draw`` and ``runs``: flags, what is printed, exit codes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from camkit.cli import progress
from tests.cli.running import Run, pixels, refused

pytest.importorskip("pyarrow")

from camkit.datasets import load
from tests.datasets.pictures import write_classes, write_pictures

pytestmark = pytest.mark.usefixtures("tiny")
Command = Callable[..., Run]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Class folders with a broken picture."""
    data = write_classes(tmp_path / "data", 3)
    (data / "espresso" / "broken.png").write_bytes(b"")
    return data


@pytest.fixture
def made(data: Path, tmp_path: Path, camkit: Command) -> Path:
    """A run of it."""
    call = camkit("run", data, "cnn", "--out", tmp_path / "run", "--workers", 0, "--target", "both")
    assert call.code == 0, call.err
    return tmp_path / "run"


def test_says_what_it_did(data: Path, tmp_path: Path, camkit: Command) -> None:
    out = tmp_path / "run"
    call = camkit("run", data, "cnn", "--out", out, "--workers", 0)
    assert call.code == 0
    assert "target layer: norm2\n" in call.out
    assert "images: 8 in " in call.out
    assert "failed: 1; " in call.out
    assert "broken.png is an empty file" in call.out
    assert call.wrote == [out]
    again = camkit("run", data, "cnn", "--out", out, "--workers", 0)
    assert "images: 8 (8 of them earlier) in 0 s" in again.out


def test_strict_makes_a_failure_an_error(data: Path, tmp_path: Path, camkit: Command) -> None:
    call = camkit("run", data, "cnn", "--out", tmp_path / "run", "--workers", 0, "--strict")
    assert call.code == 1
    assert "camkit: error: 1 of 8 images failed, and --strict was given" in call.err
    (data / "espresso" / "broken.png").unlink()
    assert camkit("run", data, "cnn", "--out", tmp_path / "good", "--workers", 0, "--strict").code == 0


def test_the_map_is_vis_cam_s(data: Path, tmp_path: Path, camkit: Command) -> None:
    image = data / "tabby cat" / "001.png"
    flags = ("--method", "GradCAM", "LayerCAM", "--eigen-smooth")
    assert camkit("vis-cam", image, "cnn", *flags, "--save-raw", tmp_path / "one.npz").code == 0
    assert camkit("run", data, "cnn", *flags, "--out", tmp_path / "run", "--batch-size", 1, "--workers", 0).code == 0
    from camkit.visualize.save import load_raw

    maps, about = load_raw(tmp_path / "one.npz")
    found = load(tmp_path / "run")
    for name, wanted in maps.items():
        assert np.array_equal(found.map("tabby cat/001.png", *name.split("/", 1)).numpy(), wanted)
    assert found.row("tabby cat/001.png")["classes"] == about["categories"]


def test_bad_input_is_one_line(data: Path, tmp_path: Path, camkit: Command) -> None:
    out = ("--out", tmp_path / "run", "--workers", 0)
    refused(camkit("run", tmp_path / "nothing", "cnn", *out), 2, "no folder or list")
    refused(camkit("run", data, "cnn", *out, "--target", "top:x"), 2, "top:K")
    refused(camkit("run", data, "cnn", *out, "--target", "dragon"), 2, "no class 'dragon'")
    refused(camkit("run", data, "cnn", *out, "--actors", 2), 2, "--actors is the ray engine's")
    refused(camkit("run", data, "cnn", *out, "--ray-address", "x:1"), 2, "--ray-address is the ray engine's")
    refused(camkit("run", data, "cnn", *out, "--batch-size", 0), 2, "at least 1")
    refused(camkit("run", data, "cnn", *out, "--workers", "many"), 2, "whole number")
    refused(camkit("run", data, "cnn"), 2, "--out")
    refused(camkit("run", data, "cnn", "--out", data, "--workers", 0), 1, "holds something else")
    refused(camkit("runs", tmp_path), 1, "holds something else")
    refused(camkit("runs", tmp_path / "nothing"), 2, "no run in")


def test_another_command_on_the_same_run_is_told_what_differs(made: Path, data: Path, camkit: Command) -> None:
    call = camkit("run", data, "cnn", "--out", made, "--workers", 0, "--method", "LayerCAM", "--target", "both")
    refused(call, 1, "methods GradCAM, now LayerCAM; take another --out")


def test_runs_says_what_there_is(made: Path, camkit: Command) -> None:
    out = camkit("runs", made).out
    for line in ("target      both", "images      8, 1 of them failed", "method      GradCAM at norm2, 16x16"):
        assert f"{line}\n" in out
    assert "accuracy" in out
    assert "espresso/broken.png" in out
    told = json.loads(camkit("runs", made, "--json").out)
    assert (told["images"], told["failed"]) == (8, 1)
    assert told["fingerprint"]["target"] == "both"
    assert told["layers"] == {"GradCAM": ["norm2"]}


def test_the_target_layer_is_printed_where_another_method_has_none(data: Path, tmp_path: Path, camkit: Command) -> None:
    call = camkit(
        "run", data, "cnn", "--out", tmp_path / "run", "--workers", 0, "--method", "GuidedBackprop", "GradCAM"
    )
    assert call.code == 0, call.err
    assert call.out.count("target layer: norm2\n") == 1


def test_a_picture_that_can_t_be_written_keeps_no_other_back(tmp_path: Path, camkit: Command) -> None:
    data = write_pictures(tmp_path / "data", 2)
    (data / "000.png").rename(data / f"{'x' * 249}.png")
    assert camkit("run", data, "cnn", "--out", tmp_path / "run", "--workers", 0).code == 0
    (tmp_path / "drawn" / f"{'x' * 249}.png").mkdir(parents=True)
    call = camkit("draw", tmp_path / "run", "--out", tmp_path / "drawn")
    assert call.code == 0
    assert (tmp_path / "drawn" / "001.png").is_file()
    assert "not drawn: " in call.err


def test_draws_files(made: Path, tmp_path: Path, camkit: Command) -> None:
    call = camkit("draw", made, "--out", tmp_path / "drawn", "--where", "label == 'espresso'", "--original-size")
    assert call.code == 0, call.err
    files = sorted((tmp_path / "drawn").rglob("*.png"))
    assert [path.name for path in files] == ["000.png", "001.png", "002.png"]
    assert all(pixels(path).shape == (40, 60, 3) for path in files)


def test_the_worst_and_some_of_each_class(made: Path, tmp_path: Path, camkit: Command) -> None:
    found = load(made).filter(errors=False)
    worst = found.sort("label_score").ids[:2]
    assert camkit("draw", made, "--out", tmp_path / "worst", "--worst", 2).code == 0
    drawn = {path.relative_to(tmp_path / "worst").as_posix() for path in (tmp_path / "worst").rglob("*.png")}
    assert drawn == set(worst)
    assert (
        camkit("draw", made, "--out", tmp_path / "each", "--per-class", 1, "--sort", "score", "--descending").code == 0
    )
    each = {path.parent.name: path.name for path in (tmp_path / "each").rglob("*.png")}
    best = {
        name: found.filter(label=name).sort("score", descending=True).ids[0].partition("/")[2]
        for name in ("espresso", "tabby cat")
    }
    assert each == best


def test_contact_sheets(made: Path, tmp_path: Path, camkit: Command) -> None:
    call = camkit("draw", made, "--sheet", tmp_path / "sheet.png", "--columns", 4)
    assert call.wrote == [tmp_path / "sheet.png"]
    assert pixels(tmp_path / "sheet.png").shape[1] > 4 * 224
    many = camkit("draw", made, "--sheet", tmp_path / "page.png", "--columns", 1, "--limit", 3)
    assert many.wrote == [tmp_path / "page.png"]


def test_drawing_says_what_is_wrong(made: Path, data: Path, tmp_path: Path, camkit: Command) -> None:
    refused(camkit("draw", made, "--where", "score > 2"), 2, "none of the 8 images .* is left to draw")
    refused(camkit("draw", made, "--where", "import os"), 2, "can't read the condition")
    refused(camkit("draw", made, "--method", "LayerCAM"), 2, "has no maps of LayerCAM; it has GradCAM")
    refused(camkit("draw", made, "--sort", "colour"), 2, "can't sort by 'colour'")
    refused(camkit("draw", made, "--sheet", tmp_path / "a.txt"), 2, "extension")
    refused(camkit("draw", made, "--colormap", "rainbows"), 2, "closest: rainbow")
    (data / "espresso" / "000.png").unlink()
    call = camkit("draw", made, "--out", tmp_path / "drawn")
    assert call.code == 0
    assert "warning: not drawn: no image " in call.err
    assert len(list((tmp_path / "drawn").rglob("*.png"))) == 6


def test_names_of_files_are_made_harmless() -> None:
    from camkit.cli.draw import file_name

    taken: set[str] = set()
    made = [
        file_name(name, taken, ".png")
        for name in ("a/b.jpg", "a/b.png", "../../etc/x.jpg", "/abs\n.png", "", "a/b.jpg")
    ]
    assert made == ["a/b.png", "a/b.png.png", "etc/x.png", "abs_.png", "image.png", "a/b.jpg.png"]


def at(done: int, seconds: float, failed: int = 0) -> SimpleNamespace:
    return SimpleNamespace(total=1000, done=done, failed=failed, new=done, seconds=seconds)


def test_a_line_every_half_minute_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with progress.RunProgress() as shown:
        for seconds in range(0, 100, 5):
            now[0] = seconds
            shown(at(10 * seconds, seconds, failed=3))  # type: ignore[arg-type]
        shown.say("stopping")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "camkit: 300 of 1000 images, 10.0 images/s, 3 failed, 70 s left",
        "camkit: 600 of 1000 images, 10.0 images/s, 3 failed, 40 s left",
        "camkit: 900 of 1000 images, 10.0 images/s, 3 failed, 10 s left",
        "camkit: stopping",
    ]


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with progress.RunProgress() as shown:
        shown(at(250, 25.0, failed=2))  # type: ignore[arg-type]
        shown.say("a worker process died")
    text = terminal.getvalue()
    assert "250/1000" in text
    assert "10.0 images/s, 2 failed, 75 s left" in text
    assert "camkit: a worker process died" in text


def test_without_pyarrow_it_says_what_to_install(
    data: Path, tmp_path: Path, camkit: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    for name in list(sys.modules):
        if name.partition(".")[0] == "pyarrow" or name == "camkit.cli.run" or name.startswith("camkit.datasets"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused(camkit("run", data, "cnn", "--out", tmp_path / "run"), 1, "pip install 'camkit\\[datasets\\]'")


def test_lists_take_the_place_of_folders(tmp_path: Path, camkit: Command) -> None:
    write_pictures(tmp_path / "data", 2)
    (tmp_path / "list.csv").write_text("path,label,id\ndata/000.png,cup,a\ndata/001.png,3,b\n")
    flags = ("--target", "label", "--workers", 0, "--method", "GradCAM", "EigenCAM")
    call = camkit("run", tmp_path / "list.csv", "cnn", "--out", tmp_path / "run", *flags)
    assert call.code == 0, call.err
    assert load(tmp_path / "run").ids == ["a", "b"]
    assert load(tmp_path / "run").row("a")["classes"] == [3]
