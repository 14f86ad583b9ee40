"""``camkit evaluate`` and ``camkit metrics``: flags, what is printed and written, exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")

from camkit.metrics import METRICS
from tests.cli.running import Run, pixels, refused
from tests.datasets.pictures import write_classes

pytestmark = pytest.mark.usefixtures("tiny")
Command = Callable[..., Run]
CONTROLS = ("RandomCAM", "Random", "Gaussian", "Edges")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Class folders of 3 and 4 pictures, and a broken one."""
    data = write_classes(tmp_path / "data", 3)
    (data / "espresso" / "broken.png").write_bytes(b"")
    return data


@pytest.fixture
def evaluate(camkit: Command) -> Command:
    """Run ``camkit evaluate`` in one process."""
    return lambda *words: camkit("evaluate", *words, "--workers", 0)


def test_prints_a_table_of_methods_and_controls_and_what_differs(data: Path, evaluate: Command) -> None:
    call = evaluate(data, "cnn", "--method", "gradcam", "LayerCAM", "--metric", "average-drop", "Sparseness")
    assert call.code == 0, call.err
    assert "target layer: norm2\n" in call.out
    assert "measured: 7 images in " in call.out
    assert "Average drop (lower is better)" in call.out
    for name in ("GradCAM", "LayerCAM", *(f"{control} (control)" for control in CONTROLS)):
        assert f"\n{name} " in call.out
    assert "\nAverage drop: GradCAM is " in call.out
    assert "\nSparseness: LayerCAM is " in call.out


def test_several_metrics_may_stand_in_front_of_the_data(data: Path, evaluate: Command) -> None:
    call = evaluate("--metric", "Deletion", "averagedrop", "--method", "GradCAM", "LayerCAM", data, "cnn")
    assert call.code == 0, call.err
    assert "Deletion (lower is better)" in call.out
    assert "Average drop (lower is better)" in call.out


def test_broken_images_are_skipped_and_strict_makes_them_an_error(data: Path, evaluate: Command) -> None:
    call = evaluate(data, "cnn", "--metric", "Sparseness")
    assert call.code == 0
    assert "failed: 1\n  espresso/broken.png: the image " in call.out
    strict = evaluate(data, "cnn", "--metric", "Sparseness", "--strict")
    assert strict.code == 1
    assert "camkit: error: 1 of 8 images failed, and --strict was given" in strict.err
    (data / "espresso" / "broken.png").unlink()
    assert evaluate(data, "cnn", "--metric", "Sparseness", "--strict").code == 0


def test_writes_json_and_a_plot(data: Path, tmp_path: Path, evaluate: Command) -> None:
    files = tmp_path / "new" / "all.json", tmp_path / "new" / "all.png"
    call = evaluate(data, "cnn", "--metric", "Deletion", "--json", files[0], "--plot", files[1], "--seed", 3)
    assert call.code == 0, call.err
    assert call.wrote == list(files)
    told = json.loads(files[0].read_text())
    assert (told["seed"], told["methods"], told["controls"]) == (3, ["GradCAM"], list(CONTROLS))
    assert len(told["metrics"]["Deletion"]["methods"]["GradCAM"]["values"]) == 7
    assert pixels(files[1]).shape[2] == 3


def test_a_finished_run_is_measured_without_its_model_and_data_being_named(
    data: Path, tmp_path: Path, camkit: Command, evaluate: Command
) -> None:
    out = tmp_path / "run"
    assert camkit("run", data, "cnn", "--method", "GradCAM", "LayerCAM", "--out", out, "--workers", 0).code == 0
    call = evaluate("--run", out, "--metric", "Average drop")
    assert call.code == 0, call.err
    assert "measured: 7 images" in call.out
    assert "failed: 1\n" in call.out
    assert call.wrote == [out / "metrics.json"]
    told = json.loads((out / "metrics.json").read_text())
    assert told["methods"] == ["GradCAM", "LayerCAM"]
    assert camkit("runs", out).code == 0, "the run is still one"
    direct = evaluate(data, "cnn", "--method", "LayerCAM", "--metric", "Average drop", "--json", tmp_path / "a.json")
    assert direct.code == 0
    fresh = json.loads((tmp_path / "a.json").read_text())["metrics"]["Average drop"]["methods"]["LayerCAM"]
    assert fresh["values"] == pytest.approx(told["metrics"]["Average drop"]["methods"]["LayerCAM"]["values"], rel=1e-4)
    assert evaluate(data, "cnn", "--run", out, "--metric", "Sparseness", "--method", "LayerCAM").code == 0


def test_what_contradicts_a_run_is_refused(data: Path, tmp_path: Path, camkit: Command, evaluate: Command) -> None:
    out = tmp_path / "run"
    assert camkit("run", data, "cnn", "--out", out, "--workers", 0).code == 0
    refused(evaluate("--run", out, "--target", "label"), 2, "--target is about how maps are made")
    refused(evaluate("--run", out, "--num-extra-tokens", 0), 2, "--num-extra-tokens is about how maps are made")
    refused(evaluate(tmp_path, "--run", out), 2, "is a run of .*data, not of ")
    refused(evaluate("--run", out, "--mosaic", 2), 2, "no maps of mosaics")
    refused(evaluate("--run", tmp_path / "nothing"), 2, "no run in")
    refused(evaluate(data, "vit", "--run", out), 1, "was made with another network and checkpoint")


def test_boxes_are_read_and_what_is_left_out_is_said(data: Path, tmp_path: Path, evaluate: Command) -> None:
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("path,left,top,right,bottom\nespresso/000.png,0,0,30,40\nespresso/001.png,90,0,95,9\n")
    call = evaluate(data, "cnn", "--boxes", boxes, "--metric", "Pointing game", "Sparseness")
    assert call.code == 0, call.err
    assert "left out: 1 image whose boxes lie outside the image: espresso/001.png\n" in call.out
    assert "left out: 5 images without boxes or masks: " in call.out
    assert "\nPointing game: of 1 image, no interval of one\n" in call.out
    usual = evaluate(data, "cnn", "--boxes", boxes)
    assert "Energy pointing game (higher is better)" in usual.out


def test_one_image_has_no_interval_and_that_is_said(data: Path, evaluate: Command) -> None:
    call = evaluate(data / "espresso" / "000.png", "cnn", "--metric", "Sparseness")
    assert call.code == 0, call.err
    assert "measured: 1 image in " in call.out
    assert "\nSparseness: of 1 image, no interval of one\n" in call.out
    assert "Sparseness: GradCAM - 1 image is too few to tell it from the controls" in call.out


def test_controls_are_chosen(data: Path, evaluate: Command) -> None:
    call = evaluate(data, "cnn", "--metric", "Sparseness", "--controls", "Random")
    assert "Random (control)" in call.out
    assert "Gaussian" not in call.out
    none = evaluate(data, "cnn", "--metric", "Sparseness", "--controls")
    assert none.code == 0, none.err
    assert "(control)" not in none.out
    assert "Sparseness: GradCAM - no controls beside it" in none.out


def test_options_go_to_methods_and_metrics(data: Path, tmp_path: Path, evaluate: Command) -> None:
    words = ("--metric", "Deletion", "--metric-options", "pixels_per_step=512", "--json", tmp_path / "a.json")
    assert evaluate(data, "cnn", *words, "--limit", 1).code == 0
    told = json.loads((tmp_path / "a.json").read_text())["metrics"]["Deletion"]
    assert told["options"]["pixels_per_step"] == 512
    assert len(told["images"]) == 1


def test_bad_input_is_one_line(data: Path, tmp_path: Path, evaluate: Command) -> None:
    refused(evaluate(), 2, "name DATA and CONFIG, or a run with --run")
    refused(evaluate(data), 2, "name DATA and CONFIG")
    refused(evaluate(tmp_path / "nothing", "cnn"), 2, "no folder or list")
    refused(evaluate(data, "cnn", "--metric", "Deletio"), 2, "no metric 'Deletio'; closest: Deletion")
    refused(evaluate(data, "cnn", "--metric", "Pointing game"), 2, "needs boxes or masks: pass --boxes FILE")
    refused(evaluate(data, "cnn", "--boxes", tmp_path / "no.json"), 2, "there is no such file")
    refused(evaluate(data, "cnn", "--mosaic", 1), 2, "n at least 2")
    refused(evaluate(data, "cnn", "--mosaic", 2, "--min-confidence", 50), 2, "min_confidence is a probability, 0 to 1")
    refused(evaluate(data, "cnn", "--plot", tmp_path / "a.doc"), 2, "extension must be one of")
    refused(evaluate(data, "cnn", "--json", tmp_path / "a.txt"), 2, "extension must be one of .json")
    refused(evaluate(data, "cnn", "--metric-options", "x"), 2, "--metric-options takes NAME=VALUE")
    refused(evaluate(data, "cnn", "--controls", "Nothing"), 2, "no control 'Nothing'")
    refused(evaluate(data, "cnn", "--method", "DFF"), 2, "finds concepts of its own")
    refused(evaluate(data, "cnn", "--target", "dragon"), 2, "no class 'dragon'")
    refused(evaluate(data, "cnn", "--limit", 0), 2, "at least 1")
    refused(evaluate(data, "cnn", "--workers", "many"), 2, "whole number")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--metric", "Deletio"), "no metric 'Deletio'"),
        (("--metric", "Pointing game"), "needs boxes or masks"),
        (("--metric-options", "pixels=3"), "no metric has the option 'pixels'"),
        (("--method", "GradCamm"), "GradCamm"),
        (("--controls", "Nothing"), "no control 'Nothing'"),
        (("--mosaic", 2, "--boxes", "boxes.csv"), "mosaics have regions of their own"),
    ],
)
def test_what_is_misspelt_is_refused_before_the_model_loads(
    words: tuple[object, ...], message: str, data: Path, evaluate: Command
) -> None:
    """There is no such config: its line would come first."""
    refused(evaluate(data, "nothing", *words), 2, message)


def test_an_unfinished_run_is_measured_as_far_as_it_is_and_that_is_said(
    data: Path, tmp_path: Path, camkit: Command, evaluate: Command
) -> None:
    out = tmp_path / "run"
    assert camkit("run", data, "cnn", "--out", out, "--workers", 0).code == 0
    manifest = out / "manifest.json"
    told = json.loads(manifest.read_text())
    told["about"]["images"] = 20
    manifest.write_text(json.dumps(told))
    call = evaluate("--run", out, "--metric", "Sparseness")
    assert call.code == 0, call.err
    assert "has 8 of the 20 images that it was to have: they alone are measured" in call.err


def test_metrics_are_listed(camkit: Command) -> None:
    listed = camkit("metrics")
    assert listed.code == 0
    for metric in METRICS.values():
        assert f"\n{metric.name} " in listed.out
    assert camkit("evaluate", "--list").out == listed.out
    table = camkit("metrics", "--markdown").out
    assert table.startswith("| metric | family | formula | needs | better | options | paper |")
    assert table.count("\n") == len(METRICS) + 2
