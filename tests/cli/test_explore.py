"""``camkit explore``: what is refused, in one line each, and what a start prints. Needs no framework."""

from __future__ import annotations

import json
import shlex
import socket
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from camkit.cli import flags
from camkit.cli.parser import Parser
from camkit.models.classifier import Classifier
from tests.cli.running import Run, refused

pytest.importorskip("fastapi", reason="the explorer needs camkit[web]")
Camkit = Callable[..., Run]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Nothing is served: the applications and sockets that would be."""
    found: list[Any] = []

    def serve(app: Any, explorer: Any, listening: socket.socket) -> None:
        found.append((app, listening.getsockname()))

    monkeypatch.setattr("camkit.explore.server.serve", serve)
    return found


@pytest.fixture
def no_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """No display, wherever the tests run."""
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr("webbrowser.open", lambda url: False)


def test_a_start_prints_the_address_and_that_there_is_no_browser(
    camkit: Camkit, tiny: dict[str, Classifier], started: list[Any], no_window: None
) -> None:
    run = camkit("explore", "cnn", "--port", 0)
    assert run.code == 0, run.err
    port = started[0][1][1]
    assert run.out.splitlines() == [
        f"exploring cnn at http://127.0.0.1:{port}/ (Ctrl-C ends it)",
        "no browser could be opened: open the address in one",
        "the explorer has ended",
    ]


def test_another_address_takes_a_token(
    camkit: Camkit, tiny: dict[str, Classifier], started: list[Any], no_window: None
) -> None:
    tokens = set()
    for _ in range(2):
        run = camkit("explore", "cnn", "--port", 0, "--host", "0.0.0.0", "--no-browser")
        token = run.out.partition("/?token=")[2].split()[0]
        assert len(token) >= 40
        tokens.add(token)
    assert len(tokens) == 2


def test_a_port_that_is_taken(camkit: Camkit, tiny: dict[str, Classifier]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        refused(camkit("explore", "cnn", "--port", port), 1, f"port {port} of 127.0.0.1 is taken: give another --port")


def test_addresses_and_ports_that_there_are_not(camkit: Camkit, tiny: dict[str, Classifier]) -> None:
    refused(camkit("explore", "cnn", "--host", "no such host"), 2, "--host no such host is no address")
    refused(camkit("explore", "cnn", "--host", "192.0.2.1", "--port", 0), 1, "can't listen at 192.0.2.1")
    refused(camkit("explore", "cnn", "--port", 70000), 2, "takes a number from 0 to 65535, got 70000")


def test_without_the_extra(camkit: Camkit, tiny: dict[str, Classifier], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        if name == "uvicorn":
            raise ModuleNotFoundError("No module named 'uvicorn'", name="uvicorn")
        return import_module(name)

    monkeypatch.setattr("camkit.versions.import_module", missing)
    refused(camkit("explore", "cnn"), 1, r"uvicorn is missing: pip install 'camkit\[web\]'")


def test_pictures_that_there_are_not(camkit: Camkit, tiny: dict[str, Classifier], tmp_path: Path) -> None:
    refused(camkit("explore", "cnn", "--port", 0, "--images", tmp_path / "nothing"), 2, "is no folder")
    refused(camkit("explore", "cnn", "--port", 0, "--images", tmp_path), 2, "no pictures in")


def test_what_doesnt_go_together(camkit: Camkit, tiny: dict[str, Classifier]) -> None:
    refused(camkit("explore", "--compare", "other.pth"), 2, "--compare names another checkpoint of CONFIG")
    refused(camkit("explore", "cnn", "--method", "GradCAM", "gradcam"), 2, "--method names one twice")
    refused(camkit("explore", "cnn", "--port", 0, "--target-category", "sofa"), 2, "no class 'sofa'")


def test_two_checkpoints_stand_side_by_side(
    camkit: Camkit, tiny: dict[str, Classifier], started: list[Any], no_window: None, photo: str
) -> None:
    from camkit.explore.kinds import View
    from camkit.visualize.overlay import Style

    before, after = "run1/last.pth", "run2/last.pth"
    run = camkit("explore", "cnn", before, "--compare", after, "--images", Path(photo).parent, "--port", 0)
    assert run.code == 0, run.err
    assert run.out.startswith(f"exploring {before} and {after} at")
    sources = started[0][0]._app.state.explorer.sources
    for name, checkpoint in (("a", before), ("b", after)):
        command = sources[name].command(View("given:photo.png", "GradCAM", 2), Style(), original_size=False)
        assert shlex.split(command)[:5] == ["camkit", "vis-cam", photo, "cnn", checkpoint]


class TestRuns:
    """``--run``: unfinished, of a newer format, moved, empty."""

    @pytest.fixture
    def run(self, tmp_path: Path) -> Path:
        """A run of four pictures."""
        pytest.importorskip("pyarrow", reason="runs need camkit[datasets]")
        from camkit.datasets import run
        from tests.datasets.pictures import classifier, write_pictures

        run(write_pictures(tmp_path / "data", 4), classifier(), tmp_path / "run", workers=0)
        return tmp_path / "run"

    def test_a_run_is_browsed_without_a_model(
        self, camkit: Camkit, run: Path, started: list[Any], no_window: None
    ) -> None:
        found = camkit("explore", "--run", run, "--port", 0)
        assert (found.code, found.err) == (0, "")
        assert found.out.startswith("exploring run run at http://127.0.0.1:")

    def test_an_unfinished_run_says_how_far_it_is(
        self, camkit: Camkit, run: Path, started: list[Any], no_window: None
    ) -> None:
        manifest = json.loads((run / "manifest.json").read_text())
        manifest["about"]["images"] = 9
        (run / "manifest.json").write_text(json.dumps(manifest))
        found = camkit("explore", "--run", run, "--port", 0)
        assert found.code == 0
        assert found.err == f"camkit: warning: {run} is unfinished: 4 of 9 images are done\n"

    def test_a_run_of_a_newer_format(self, camkit: Camkit, run: Path) -> None:
        manifest = json.loads((run / "manifest.json").read_text())
        (run / "manifest.json").write_text(json.dumps({**manifest, "version": 99}))
        refused(camkit("explore", "--run", run, "--port", 0), 1, "was written by a newer camkit")

    def test_a_run_whose_images_have_moved(
        self, camkit: Camkit, run: Path, started: list[Any], no_window: None, tmp_path: Path
    ) -> None:
        (tmp_path / "data").rename(tmp_path / "elsewhere")
        found = camkit("explore", "--run", run, "--port", 0)
        assert found.code == 0
        assert len(found.err.splitlines()) == 1
        assert "maps are shown without them" in found.err
        found = camkit("explore", "--run", run, "--port", 0, "--images", tmp_path / "elsewhere")
        assert (found.code, found.err) == (0, "")
        refused(camkit("explore", "--run", run, "--port", 0, "--images", tmp_path / "nothing"), 2, "is no folder")

    def test_no_run(self, camkit: Camkit, tmp_path: Path) -> None:
        pytest.importorskip("pyarrow", reason="runs need camkit[datasets]")
        refused(camkit("explore", "--run", tmp_path / "nothing", "--port", 0), 2, "no run in")


def test_the_models_flags_are_told_as_they_were_typed(tmp_path: Path) -> None:
    parser = Parser()
    flags.add_model(parser, checkpoint="")
    flags.add_layout(parser)
    config = tmp_path / "a config.py"
    config.touch()
    typed = (
        "weights.pth --device cuda:1 --weights ema --seed 3 --activation sigmoid --num-extra-tokens 0 --output aux "
        "--trust-checkpoint --allow-partial --mean 0.5 --std 0.25 0.5 0.5 --input-size 3 64 64 --cfg-options a.b=(1,2)"
    )
    words = [str(config), *typed.split()]
    told = flags.words_of_model(parser.parse_args(words))
    assert shlex.split(shlex.join(told)) == told
    assert sorted(told) == sorted(words)
    assert vars(parser.parse_args(told)) == vars(parser.parse_args(words))
    assert flags.words_of_model(parser.parse_args(["cnn"])) == ["cnn"]
