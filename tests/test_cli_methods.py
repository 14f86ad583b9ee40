"""The command line with methods of every family: what it prints, writes and refuses, on two small networks."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import timm
import torch

from camkit import load_raw
from camkit.cli import main
from camkit.commands import progress
from camkit.commands.arguments import method_options
from camkit.errors import UsageError
from camkit.methods import METHODS
from tests import zoo
from tests.pictures import read

CNN, VIT = "timm:test_resnet", "timm:test_vit"
# So few that the scored methods take no time.
FEW = ("--method-options", "top_k=2", "num_samples=2")
ATTENTION = tuple(name for name, method in METHODS.items() if method.family == "attention")
GUIDED = ("GuidedBackprop", "GuidedGradCAM")
ON = {
    CNN: tuple(name for name in METHODS if name not in ATTENTION),
    VIT: tuple(name for name in METHODS if name not in (*GUIDED, "CAM")),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photograph, and the networks' weights."""
    folder = tmp_path_factory.mktemp("methods")
    cv2.imwrite(str(folder / "cat.png"), zoo.photographs()[0][:, :, ::-1])
    for config in (CNN, VIT):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            torch.save(timm.create_model(config.partition(":")[2]).state_dict(), weights(folder, config))
    return folder


def weights(folder: Path, config: str) -> Path:
    return folder / f"{config.partition(':')[2]}.pth"


@pytest.fixture
def vis_cam(folder: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Exit code, standard output and standard error of ``camkit vis-cam`` with a network."""

    def call(config: str, *flags: object) -> tuple[int, str, str]:
        words = ("vis-cam", folder / "cat.png", config, weights(folder, config), *flags)
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:  # argparse's way out
            code = int(stop.code or 0)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


@pytest.mark.parametrize(("config", "method"), [(config, method) for config, some in ON.items() for method in some])
def test_every_method_of_its_network_draws_and_writes(config: str, method: str, vis_cam: Any, tmp_path: Path) -> None:
    options = [word for word in FEW if word.partition("=")[0] in METHODS[method].options or word == "--method-options"]
    files = ("--save-path", tmp_path / "out.png", "--save-raw", tmp_path / "raw.npz")
    code, out, err = vis_cam(
        config, "--method", method, *files, "--target-category", 3, 7, *(options if len(options) > 1 else ())
    )
    assert code == 0, err
    has_layer = METHODS[method].request.of_layers
    assert ("target layer: " in out) == has_layer
    assert ("attention blocks: blocks.0 to blocks.5 (6)" in out) == (method in ATTENTION)
    assert "predicted: " in out
    assert all(line.startswith("camkit: warning: ") and "is empty" in line for line in err.splitlines()), err
    names = ["out.png"] if method == "DFF" else ["out-3.png", "out-7.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [*names, "raw.npz"]
    assert all(read(tmp_path / name).shape == (160, 160, 3) for name in names)
    maps, story = load_raw(tmp_path / "raw.npz")
    assert {name.partition("/")[0] for name in maps} <= {method, f"{method}.pixels"}
    assert all(len(array) == (4 if method == "DFF" else 2) for array in maps.values())
    assert (f"{method}.pixels" in maps) == (method in GUIDED)
    assert story["method_options"][method].keys() == METHODS[method].options.keys()
    assert story["categories"] == ([] if method == "DFF" else [3, 7])


def test_options_reach_the_maps_and_the_provenance(vis_cam: Any, tmp_path: Path) -> None:
    made = {}
    for name, options in {"a": (), "b": ("num_samples=2", "std=0"), "c": ("std=0", "num_samples=1")}.items():
        words = ("--method-options", *options) if options else ()
        raw = tmp_path / f"{name}.npz"
        assert vis_cam(CNN, "--method", "SmoothGradCAM++", "GradCAM", "--save-raw", raw, *words)[0] == 0
        maps, story = load_raw(raw)
        made[name] = maps["SmoothGradCAM++/layer4.0.downsample.2"]
        assert story["method_options"]["GradCAM"] == {}
    assert story["method_options"]["SmoothGradCAM++"] == {"numerator": 2, "num_samples": 1, "std": 0, "seed": 0}
    np.testing.assert_allclose(made["b"], made["c"], rtol=1e-4, atol=1e-6 * np.abs(made["c"]).max())
    assert np.abs(made["a"] - made["c"]).max() > 0.01 * np.abs(made["c"]).max()


def test_a_batch_size_changes_no_map(vis_cam: Any, tmp_path: Path) -> None:
    for size in (1, 5):
        raw = tmp_path / f"{size}.npz"
        code, _, err = vis_cam(CNN, "--method", "ScoreCAM", "--save-raw", raw, "--batch-size", size, *FEW[:2])
        assert code == 0, err
    first, second = (load_raw(tmp_path / f"{size}.npz")[0] for size in (1, 5))
    for name, array in first.items():
        np.testing.assert_allclose(array, second[name], rtol=1e-4, atol=1e-5)


def test_values_are_read_as_python_writes_them() -> None:
    words = ["top_k=None", "kernel=rbf", "comparison=1,2", "std=.5", "seed= 3", "weights='equal'", "utility=a=b", "k="]
    assert method_options(words) == {
        "top_k": None,
        "kernel": "rbf",
        "comparison": (1, 2),
        "std": 0.5,
        "seed": 3,
        "weights": "equal",
        "utility": "a=b",
        "k": "",
    }
    with pytest.raises(UsageError, match="takes NAME=VALUE, got 'top_k'"):
        method_options(["top_k"])


@pytest.mark.parametrize(
    ("code", "message", "flags"),
    [
        (2, "--method-options takes NAME=VALUE, got 'oops'", ("--method-options", "oops")),
        (2, "--method-options takes NAME=VALUE, got '=3'", ("--method-options", "=3")),
        (2, "--method-options names one twice: seed=1 seed=2", ("--method-options", "seed=1", "seed=2")),
        (
            2,
            "--method-options names one twice: seed=1 seed=2",
            ("--method-options", "seed=1", "--method-options", "seed=2"),
        ),
        (2, "no method has the option 'num_samples'.*options of them: none", ("--method-options", "num_samples=2")),
        (
            2,
            "no method has the option 'topk'; closest: top_k; options of ScoreCAM: top_k=None",
            ("--method", "ScoreCAM", "--method-options", "topk=2"),
        ),
        (2, "the option top_k of ScoreCAM takes .*, got 0", ("--method", "ScoreCAM", "--method-options", "top_k=0")),
        (2, "the option std of SS-CAM takes .*, got 'wide'", ("--method", "SS-CAM", "--method-options", "std=wide")),
        (2, "takes .*rbf.*, got 'rfb'", ("--method", "KPCA-CAM", "--method-options", "kernel=rfb")),
        (2, "--batch-size: takes a whole number of at least 1, got 0;", ("--batch-size", "0")),
        (2, "--batch-size: takes a whole number of at least 1, got two;", ("--batch-size", "two")),
        (2, "num_concepts is 1000, and the layer has", ("--method", "DFF", "--method-options", "num_concepts=1000")),
        (1, "this network has no attention at all", ("--method", "LeGrad")),
        (1, "CAM needs a head of pooling and one linear layer", ("--method", "CAM", "--target-layers", "layer3")),
        (2, "FullGrad looks at the whole network", ("--method", "FullGrad", "--target-layers", "layer3")),
        (2, "RefineCAM multiplies the maps of several layers", ("--method", "RefineCAM", "--target-layers", "layer3")),
        (2, "FullGrad has no weighted channels", ("--method", "FullGrad", "--eigen-smooth")),
        (2, "DFF finds other concepts in every view", ("--method", "DFF", "--aug-smooth")),
    ],
)
def test_mistakes_take_one_line(code: int, message: str, flags: Any, vis_cam: Any, tmp_path: Path) -> None:
    made, out, err = vis_cam(CNN, "--save-path", tmp_path / "out.png", *flags)
    assert (made, out) == (code, ""), err
    assert len(err.splitlines()) == 1, err
    assert re.match(f"camkit: error: .*{message}", err), err
    assert list(tmp_path.iterdir()) == []


def test_guided_methods_of_a_network_without_relus(vis_cam: Any, tmp_path: Path) -> None:
    code, _, err = vis_cam(VIT, "--method", "GuidedGradCAM", "--save-path", tmp_path / "out.png")
    assert code != 0
    assert "needs ReLUs" in err
    assert len(err.splitlines()) == 1


def test_methods_with_layers_of_their_own_say_which(vis_cam: Any, tmp_path: Path) -> None:
    saved = ("--save-path", tmp_path / "out.png")
    _, out, _ = vis_cam(CNN, "--method", "GradCAM", "LayerCAM", "RefineCAM", "FullGrad", *saved)
    lines = [line for line in out.splitlines() if line.startswith("target layer")]
    assert lines[0] == (
        "target layer of GradCAM, LayerCAM: layer4.0.downsample.2 (the last norm layer that is spatial and live; "
        "BatchNorm2d, grid 5x5)"
    )
    assert [re.findall(r"of RefineCAM: (layer\d).*its resolution.*grid (\d+)x", line)[0] for line in lines[1:]] == [
        ("layer1", "40"),
        ("layer2", "20"),
        ("layer3", "10"),
        ("layer4", "5"),
    ]
    _, out, _ = vis_cam(CNN, "--method", "RefineCAM", *saved)
    assert out.count("target layer: layer") == 4


def test_no_default_layer_is_looked_for_where_no_method_takes_one(
    vis_cam: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("camkit.commands.job.default_layers", never)
    code, out, err = vis_cam(VIT, "--method", "LeGrad", "FullGrad", "--save-path", tmp_path / "out.png")
    assert code == 0, err
    assert "target layer" not in out
    assert "attention blocks of LeGrad: blocks.0 to blocks.5 (6)" in out


def test_blocks_may_be_named(vis_cam: Any, tmp_path: Path) -> None:
    saved = ("--save-path", tmp_path / "out.png")
    _, out, _ = vis_cam(VIT, "--method", "LeGrad", "--target-layers", "blocks.4", *saved)
    assert "attention blocks: blocks.4\n" in out


class TestConcepts:
    """One picture, a colour per concept, and what each one is."""

    LINE = re.compile(r"concept (\d): \d+ .+ \(score -?\d+\.\d\d\)")

    def test_lines_and_provenance(self, vis_cam: Any, tmp_path: Path) -> None:
        files = ("--save-path", tmp_path / "out.png", "--save-raw", tmp_path / "raw.npz")
        code, out, err = vis_cam(CNN, "--method", "DFF", "--method-options", "num_concepts=3", *files)
        assert code == 0, err
        assert [found[1] for line in out.splitlines() if (found := self.LINE.fullmatch(line))] == ["1", "2", "3"]
        assert "explained" not in out
        maps, story = load_raw(tmp_path / "raw.npz")
        assert maps["DFF/layer4.0.downsample.2"].shape == (3, 5, 5)
        (found,) = story["concepts"].values()
        for number, concept in enumerate(found, 1):
            line = f"concept {number}: {concept['category']} {concept['name']} (score {concept['score']:.2f})"
            assert line in out.splitlines()

    def test_beside_other_methods(self, vis_cam: Any, tmp_path: Path) -> None:
        asked = ("--method", "DFF", "GradCAM", "--target-category", 3, 7)
        code, out, err = vis_cam(CNN, *asked, "--save-path", tmp_path / "out.png")
        assert code == 0, err
        names = sorted(path.name for path in tmp_path.iterdir())
        assert names == ["out-DFF.png", "out-GradCAM-3.png", "out-GradCAM-7.png"]
        assert "explained: 3 " in out
        picture = read(tmp_path / "out-DFF.png")
        code, _, err = vis_cam(CNN, *asked, "--grid", "--save-path", tmp_path / "grid.png")
        assert code == 0, err
        page = read(tmp_path / "grid.png")
        found = cv2.minMaxLoc(cv2.matchTemplate(page, picture, cv2.TM_SQDIFF))
        assert found[0] < 1
        x, y = found[2]
        legend = page[y : y + 160, x + 166 : x + 320]
        assert (legend == 255).all(2).mean() > 0.7, "text on white"
        assert legend.min() < 128

    def test_on_the_whole_image(self, vis_cam: Any, tmp_path: Path) -> None:
        code, _, err = vis_cam(CNN, "--method", "DFF", "--original-size", "--save-path", tmp_path / "out.png")
        assert code == 0, err
        assert read(tmp_path / "out.png").shape == (300, 451, 3)

    def test_alone_in_a_grid(self, vis_cam: Any, tmp_path: Path) -> None:
        code, _, err = vis_cam(CNN, "--method", "DFF", "--grid", "--save-path", tmp_path / "out.png")
        assert code == 0, err


class Terminal(io.StringIO):
    """A standard error that somebody looks at."""

    def isatty(self) -> bool:
        return True


class TestProgress:
    """A bar on a terminal, for what takes long; nothing elsewhere."""

    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        now = [0.0]
        monkeypatch.setattr(time, "monotonic", lambda: now[0])
        return now

    def test_appears_after_a_while_and_goes(self, clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
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

    def test_nothing_where_nobody_looks(self, clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
        with progress.Bar("SS-CAM") as bar:
            clock[0] = 100
            bar(1, 2)
        assert capsys.readouterr() == ("", "")

    def test_hears_of_scored_methods(self, vis_cam: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        heard = []
        monkeypatch.setattr(progress.Bar, "__call__", lambda self, *counts: heard.append((self._what, *counts)))
        vis_cam(CNN, "--method", "ScoreCAM", *FEW[:2], "--batch-size", 1, "--save-path", tmp_path / "out.png")
        assert heard == [("ScoreCAM", 1, 2), ("ScoreCAM", 2, 2)]
