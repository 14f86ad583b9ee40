"""``camkit gallery`` on tiny models: every method on one page, and what can't be drawn said. Needs no framework."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from camkit.cli import gallery
from camkit.compat import torch_version
from camkit.errors import UsageError
from camkit.methods import FAMILIES, METHODS
from camkit.models.classifier import Classifier
from camkit.visualize.gallery import BAR, GAP, HEAD, MARGIN, NOTE, TITLE
from tests.cli.running import Run, pixels, refused, same_picture

FEW = ("--method-options", "top_k=2", "num_samples=2")
CELL_WIDTH = 160 + GAP
"""Pictures of 32 x 32 are drawn five times as large."""


@pytest.fixture
def draw(tiny: dict[str, Classifier], photo: str, camkit: Callable[..., Run], tmp_path: Path) -> Any:
    """Draw the gallery of a tiny model."""
    return lambda config, *flags: camkit("gallery", photo, config, "--save-path", tmp_path / "page.png", *flags)


def test_all_methods_of_a_transformer(draw: Any, tmp_path: Path) -> None:
    run = draw("vit", *FEW)
    assert run.code == 0, run.err
    lines = run.out.splitlines()
    missing = [line.split(": ")[1] for line in lines if line.startswith("not applied: ")]
    too_old = ["FullGrad"] if torch_version() < (2, 2) else []
    assert missing == ["CAM", *too_old, "GuidedBackprop", "GuidedGradCAM"]
    assert any("needs ReLUs" in line for line in lines)
    assert not any("fewer forwards" in line for line in lines), "the options given say how many"
    assert lines[-1] == f"wrote: {tmp_path / 'page.png'}"
    # A cell for each method and the image, six by six.
    bands = -(-(len(METHODS) + 1) // 6)
    height = BAR + TITLE + NOTE + 162 + GAP
    assert pixels(tmp_path / "page.png").shape == (HEAD + bands * height, MARGIN + 6 * CELL_WIDTH, 3)


def test_cells_show_the_methods_pictures(draw: Any, camkit: Any, photo: str, tmp_path: Path) -> None:
    asked = ("--method", "GradCAM", "EigenCAM", "--target-category", "cup", 2)
    run = draw("cnn", *asked)
    assert run.code == 0, run.err
    assert "explained: 3 cup (" in run.out
    camkit("vis-cam", photo, "cnn", *asked, "--save-path", tmp_path / "out.png")
    page = pixels(tmp_path / "page.png")

    def cell(column: int, row: int) -> Any:
        top, left = HEAD + BAR + TITLE + NOTE + row * 162, MARGIN + column * CELL_WIDTH
        return page[top : top + 160 : 5, left : left + 160 : 5]

    same_picture(cell(1, 0), pixels(tmp_path / "out-GradCAM-3.png"))
    same_picture(cell(1, 1), pixels(tmp_path / "out-GradCAM-2.png"))
    same_picture(cell(2, 0), pixels(tmp_path / "out-EigenCAM-3.png"))
    assert (cell(2, 1) == 255).mean() > 0.5, "EigenCAM asks for no class: text"


def test_fewer_forwards_are_said(draw: Any, tmp_path: Path) -> None:
    run = draw("cnn", "--method", "IS-CAM", "GradCAM", "--method-options", "top_k=2", "--columns", 2)
    assert run.code == 0, run.err
    assert "fewer forwards than by default: IS-CAM: num_samples=8 (10); --full leaves it alone\n" in run.out
    narrow = pixels(tmp_path / "page.png").shape
    run = draw("cnn", "--method", "IS-CAM", "--method-options", "top_k=2", "--full", "--columns", 9)
    assert run.code == 0, run.err
    assert "fewer forwards" not in run.out
    assert pixels(tmp_path / "page.png").shape[1] == narrow[1], "two cells"


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


def test_a_layer_for_the_methods_that_take_one(draw: Any) -> None:
    methods = ("--method", "GradCAM", "LeGrad", "FullGrad", "RefineCAM")
    run = draw("vit", "--target-layers", "layers.1", *methods)
    assert run.code == 0, run.err
    assert "target layer of GradCAM: layers.1 (" in run.out
    assert "attention blocks of LeGrad: layers.1\n" in run.out
    assert "not applied: RefineCAM: RefineCAM multiplies the maps of several layers" in run.out
    assert "not applied: FullGrad" not in run.out


@pytest.mark.parametrize(
    ("code", "message", "flags"),
    [
        (2, "argument --columns: takes a whole number of at least 1, got 0;", ("--columns", "0")),
        (2, "no method 'GradCAN'; closest: GradCAM", ("--method", "GradCAN")),
        (2, "no method has the option 'topk'; closest: top_k", ("--method-options", "topk=2")),
        (2, ".*its extension must be one of .png", ("--save-path", "page.gif")),
        (2, "--target-category names one twice: 3 cup", ("--target-category", "3", "cup")),
        (2, "category 1000 is outside 0..4", ("--target-category", "1000")),
        (2, "no layer 'layers.9'", ("--target-layers", "layers.9")),
        (2, ".*needs ReLUs", ("--method", "GuidedBackprop")),
    ],
)
def test_mistakes_take_one_line(code: int, message: str, flags: Any, draw: Any, tmp_path: Path) -> None:
    refused(draw("vit", *flags), code, message)
    assert list(tmp_path.iterdir()) == []
