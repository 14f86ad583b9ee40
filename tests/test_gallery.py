"""``camkit gallery``: every method on one page, and what can't be drawn said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import timm
import torch

from camkit.cli import main
from camkit.commands import gallery
from camkit.errors import UsageError
from camkit.methods import FAMILIES, METHODS
from tests import zoo
from tests.pictures import read

VIT = "timm:test_vit"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photograph, and a network's weights."""
    folder = tmp_path_factory.mktemp("gallery")
    cv2.imwrite(str(folder / "cat.png"), zoo.photographs()[0][:, :, ::-1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(timm.create_model("test_vit").state_dict(), folder / "vit.pth")
    return folder


@pytest.fixture
def camkit(capsys: pytest.CaptureFixture[str]) -> Any:
    """Exit code, standard output and standard error of ``camkit gallery``."""

    def call(*words: object) -> tuple[int, str, str]:
        try:
            code = main(["gallery", *map(str, words)])
        except SystemExit as stop:  # argparse's way out
            code = int(stop.code or 0)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def test_all_methods_of_a_transformer(folder: Path, camkit: Any, tmp_path: Path) -> None:
    saved = tmp_path / "page.jpg"
    few = ("--method-options", "top_k=2", "num_samples=2")
    code, out, err = camkit(folder / "cat.png", VIT, folder / "vit.pth", "--save-path", saved, *few)
    assert code == 0, err
    lines = out.splitlines()
    assert [line.split(": ")[1] for line in lines if line.startswith("not applied: ")] == [
        "CAM",
        "GuidedBackprop",
        "GuidedGradCAM",
    ]
    assert any("needs ReLUs" in line for line in lines)
    assert not any("fewer forwards" in line for line in lines), "the options given say how many"
    assert lines[-1] == f"wrote: {saved}"
    page = read(saved)
    # 29 cells with the image, six by six, one picture each.
    assert 5 * 160 < page.shape[0] < 5 * 250
    assert 6 * 160 < page.shape[1] < 6 * 190


def test_fewer_forwards_are_said(folder: Path, camkit: Any, tmp_path: Path) -> None:
    words = (folder / "cat.png", VIT, folder / "vit.pth", "--save-path", tmp_path / "page.png")
    code, out, err = camkit(*words, "--method", "IS-CAM", "GradCAM", "--method-options", "top_k=2", "--columns", 2)
    assert code == 0, err
    assert "fewer forwards than by default: IS-CAM: num_samples=8 (10); --full leaves it alone\n" in out
    narrow = read(tmp_path / "page.png").shape
    code, out, err = camkit(*words, "--method", "IS-CAM", "--method-options", "top_k=2", "--full", "--columns", 9)
    assert code == 0, err
    assert "fewer forwards" not in out
    assert read(tmp_path / "page.png").shape[1] == narrow[1], "two cells"


def test_methods_are_chosen_by_family_as_they_are_set() -> None:
    methods, lines = gallery.chosen(None, {}, full=False)
    assert sorted(method.name for method in methods) == sorted(METHODS)
    families = [FAMILIES.index(method.family) for method in methods]
    assert families == sorted(families)
    assert [line.partition(":")[0] for line in lines] == list(gallery.FEWER)
    for method in methods:
        expected = {**METHODS[method.name].options, **gallery.FEWER.get(method.name, {})}
        assert dict(method.options) == expected
    methods, lines = gallery.chosen(None, {}, full=True)
    assert lines == []
    assert all(method.options == METHODS[method.name].options for method in methods)
    (method,), lines = gallery.chosen(["sscam"], {"num_samples": 3}, full=False)
    assert dict(method.options) == {"num_samples": 3, "std": 2.0, "seed": 0, "top_k": 64}
    assert lines == ["SS-CAM: top_k=64 (None)"]
    assert gallery.changes(method) == "num_samples=3 (35), top_k=64 (None)"
    with pytest.raises(UsageError, match="--method names one twice"):
        gallery.chosen(["GradCAM", "gradcam"], {}, full=False)


def test_the_demos_picture_and_network(camkit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    code, out, err = camkit("--method", "EigenCAM", "GradCAM", "DFF", "LeGrad", "GuidedGradCAM")
    assert code == 0, err
    assert "explained: 282 tiger cat" in out
    assert "concept 4: " in out
    assert "target layer: model.bn2 (the last norm layer that is spatial and live; BatchNormAct2d, grid 7x14)\n" in out
    assert "not applied: LeGrad: attention methods need attention" in out
    assert "wrote: gallery.png" in out
    page = read(tmp_path / "gallery.png").astype(int)
    # The cell of GradCAM stands beside the image: red over the cat in the first row, over the cup in the second.
    left, top = 24 + 250, 34 + 17 + 20 + 15
    for row, half in ((0, 0), (1, 1)):
        cell = page[top + row * 122 : top + row * 122 + 120, left : left + 240]
        redness = (cell[:, :, 2] - cell[:, :, 0]).clip(0)
        halves = redness[:, :120].sum(), redness[:, 120:].sum()
        assert np.argmax(halves) == half, halves


def test_ones_own_picture_on_the_demos_network(
    folder: Path, camkit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAMKIT_CACHE", str(tmp_path / "cache"))
    code, out, err = camkit(folder / "cat.png", "--method", "GradCAM", "--save-path", tmp_path / "page.png")
    assert code == 0, err
    assert "predicted: 28" in out, "a cat"
    assert "explained" not in out


@pytest.mark.parametrize(
    ("code", "message", "flags"),
    [
        (2, "--columns: takes a whole number of at least 1, got 0;", ("--columns", "0")),
        (2, "no method 'GradCAN'; closest: GradCAM", ("--method", "GradCAN")),
        (2, "no method has the option 'topk'; closest: top_k", ("--method-options", "topk=2")),
        (2, "its extension must be one of .png", ("--save-path", "page.gif")),
        (2, "--target-category names one twice: 3 3", ("--target-category", "3", "3")),
        (2, "category 1000 is outside 0..999", ("--target-category", "1000")),
        (2, "no layer 'blocks.9'", ("--target-layers", "blocks.9")),
        (2, "needs ReLUs", ("--method", "GuidedBackprop")),
    ],
)
def test_mistakes_take_one_line(code: int, message: str, flags: Any, folder: Path, camkit: Any, tmp_path: Path) -> None:
    saved = () if "--save-path" in flags else ("--save-path", tmp_path / "page.png")
    made, out, err = camkit(folder / "cat.png", VIT, folder / "vit.pth", *saved, *flags)
    assert (made, out) == (code, ""), err
    assert message in err
    assert len(err.splitlines()) == 1, err
    assert list(tmp_path.iterdir()) == []


def test_a_layer_for_those_that_take_one(folder: Path, camkit: Any, tmp_path: Path) -> None:
    words = (folder / "cat.png", VIT, folder / "vit.pth", "--save-path", tmp_path / "page.png")
    code, out, err = camkit(
        *words, "--target-layers", "blocks.4", "--method", "GradCAM", "LeGrad", "FullGrad", "RefineCAM"
    )
    assert code == 0, err
    assert "target layer of GradCAM: blocks.4 (" in out
    assert "attention blocks of LeGrad: blocks.4\n" in out
    assert "not applied: RefineCAM: RefineCAM multiplies the maps of several layers" in out
    assert "not applied: FullGrad" not in out
