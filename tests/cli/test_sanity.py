"""``camkit sanity`` on tiny models: one picture of maps of more and more random networks, with MPRT's figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from camkit import GradCAM, metrics
from camkit.cli import sanity
from camkit.models.classifier import Classifier
from camkit.visualize.grid import BAND, GAP, NOTE
from tests.cli.running import Run, pixels, refused, same_picture

STEPS = ["head", "norm2", "conv2", "norm1", "conv1"]


@pytest.fixture
def sane(tiny: dict[str, Classifier], photo: str, camkit: Callable[..., Run], tmp_path: Path) -> Any:
    """Run the command on a tiny model."""
    return lambda config, *flags: camkit("sanity", photo, config, "--save-path", tmp_path / "out.png", *flags)


def state(model: torch.nn.Module) -> list[bytes]:
    return [each.detach().numpy().tobytes() for each in model.state_dict().values()]


def cell(page: Any, row: int, column: int) -> Any:
    top, left = BAND + row * (32 + GAP + NOTE), BAND + column * (32 + GAP)
    return page[top : top + 32, left : left + 32]


def test_methods_by_steps(sane: Any, camkit: Any, photo: str, tiny: dict[str, Classifier], tmp_path: Path) -> None:
    before = state(tiny["cnn"].model)
    run = sane("cnn", "--method", "GradCAM", "EigenCAM")
    assert run.code == 0, run.err
    assert state(tiny["cnn"].model) == before
    assert "target layer: norm2 (" in run.out
    page = pixels(tmp_path / "out.png")
    assert page.shape == (BAND + 2 * (32 + GAP + NOTE), BAND + 6 * (32 + GAP), 3)
    for row, method in enumerate(["GradCAM", "EigenCAM"]):
        camkit("vis-cam", photo, "cnn", "--method", method, "--save-path", tmp_path / "one.png")
        same_picture(cell(page, row, 0), pixels(tmp_path / "one.png"))
    assert np.abs(cell(page, 0, 5).astype(int) - cell(page, 0, 0).astype(int)).max() > 20
    table = run.out[run.out.index("\nstep") + 1 :].splitlines()
    assert table[0].split() == ["step", "random", "from", "the", "output", "to", "GradCAM", "EigenCAM"]
    assert [line.split()[1] for line in table[2:7]] == STEPS
    assert [line.strip().partition("  ")[0] for line in table[7:9]] == ["MPRT, mean", "efficient MPRT"]


def test_figures_are_the_metrics(sane: Any, tiny: dict[str, Classifier], photo: str, tmp_path: Path) -> None:
    run = sane("cnn", "--target-category", "cup", 2, "--seed", 3, "--json")
    assert run.code == 0, run.err
    found = json.loads(run.out)
    assert found["steps"] == STEPS
    assert (found["seed"], found["layers"], found["picture"]) == (3, {"GradCAM": ["norm2"]}, str(tmp_path / "out.png"))
    assert f"wrote: {tmp_path / 'out.png'}\n" in run.err
    classifier = tiny["cnn"]
    cam = GradCAM(classifier.model, "norm2")
    images = classifier.prepare(photo).inputs
    maps = cam(images, [[3, 2]])
    expected = metrics.measure(["MPRT", "Efficient MPRT"], maps, images, cam, [[3, 2]], seed=3)
    assert [(row["method"], row["category"], row["name"]) for row in found["rows"]] == [
        ("GradCAM", 3, "cup"),
        ("GradCAM", 2, "espresso"),
    ]
    for number, row in enumerate(found["rows"]):
        curve = expected["MPRT"].curves["correlation"][number].tolist()
        assert row["correlations"] == pytest.approx(curve, abs=1e-3)
        assert row["mprt"] == pytest.approx(float(expected["MPRT"].values[number]), abs=1e-3)
        assert row["efficient_mprt"] == pytest.approx(float(expected["Efficient MPRT"].values[number]), abs=1e-3)


def test_json_opens_no_window(camkit: Any, tiny: dict[str, Classifier], photo: str, tmp_path: Path) -> None:
    run = camkit("sanity", photo, "cnn", "--json", "--groups", 2)
    assert run.code == 0, run.err
    found = json.loads(run.out)
    assert found["picture"] is None
    assert len(found["steps"]) == len(found["rows"][0]["correlations"]) == 2


def test_transformers_and_methods_without_layers(sane: Any, tiny: dict[str, Classifier], tmp_path: Path) -> None:
    before = state(tiny["vit"].model)
    run = sane("vit", "--method", "LeGrad", "GradCAM", "--target-layers", "layers.1", "--aug-smooth", "--groups", 5)
    assert run.code == 0, run.err
    assert state(tiny["vit"].model) == before
    lines = [line.split() for line in run.out.splitlines()]
    steps = [line[1] for line in lines if line and line[0].isdecimal()]
    assert steps == ["head", "norm", "layers", "patch", "(model)"]


def test_maps_that_are_empty_are_said(sane: Any) -> None:
    run = sane("cnn", "--method", "RandomCAM", "--seed", 1, "--method-options", "seed=3")
    assert run.code == 0, run.err
    assert all(line.startswith("camkit: warning: RandomCAM: ") for line in run.err.splitlines())


def test_an_interrupt_leaves_the_network_as_it_was(
    sane: Any, tiny: dict[str, Classifier], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = state(tiny["cnn"].model)
    told: list[bool] = []

    def interrupted(*_: Any) -> Any:
        told.append(state(tiny["cnn"].model) != before)
        if len(told) == 3:
            raise KeyboardInterrupt
        return again(*_)

    again = sanity.again
    monkeypatch.setattr(sanity, "again", interrupted)
    run = sane("cnn")
    assert (run.code, run.err) == (130, "camkit: error: interrupted\n")
    assert told == [True, True, True]
    assert state(tiny["cnn"].model) == before
    assert list(tmp_path.glob("*.png")) == []


@pytest.mark.parametrize(
    ("code", "message", "flags"),
    [
        (2, "no method 'GradCAN'; closest: GradCAM", ("--method", "GradCAN")),
        (2, "DFF finds other concepts in each network: there is nothing to compare", ("--method", "DFF")),
        (2, "argument --groups: takes a whole number of at least 1, got 0;", ("--groups", "0")),
        (2, ".*its extension must be one of .png", ("--save-path", "page.gif")),
        (2, "--target-category names one twice: 3 cup", ("--target-category", "3", "cup")),
        (2, "no layer 'norm9'", ("--target-layers", "norm9")),
        (2, "category 1000 is outside 0..4", ("--target-category", "1000")),
        (2, "no method has the option 'topk'", ("--method-options", "topk=2")),
    ],
)
def test_mistakes_take_one_line(code: int, message: str, flags: Any, sane: Any, tmp_path: Path) -> None:
    refused(sane("cnn", *flags), code, message)
    assert list(tmp_path.iterdir()) == []


def test_without_a_display(camkit: Any, tiny: dict[str, Classifier], photo: str) -> None:
    refused(camkit("sanity", photo, "cnn"), 1, "no display to show the picture on")
