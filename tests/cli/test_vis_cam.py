"""``camkit vis-cam`` on tiny models: files, pictures, provenance, warnings and refusals. Needs no framework."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from camkit.cli.demo import METHODS as SIX
from camkit.methods import METHODS
from camkit.models.checkpoint import Origin
from camkit.models.classifier import Classifier
from camkit.visualize.grid import BAND, GAP
from camkit.visualize.overlay import overlay
from camkit.visualize.save import load_raw
from tests.cli.running import CLASSES, Run, pixels, refused, same_picture

Camkit = Callable[..., Run]


@pytest.fixture
def vis_cam(tiny: dict[str, Classifier], photo: str, camkit: Camkit) -> Any:
    """Explain the photograph with one of the tiny models, the CNN where none is named."""
    return lambda *flags, config="cnn": camkit("vis-cam", photo, config, *flags)


class TestPictures:
    """What is drawn, and the names of the files."""

    def test_one_picture_of_the_predicted_class(self, vis_cam: Any, tiny: Any, photo: str, tmp_path: Path) -> None:
        run = vis_cam("--save-path", tmp_path / "out.png", "--save-raw", tmp_path / "raw.npz")
        assert (run.code, run.err) == (0, "")
        prepared = tiny["cnn"].prepare(photo)
        logits = tiny["cnn"].model(prepared.inputs)[0].detach()
        top = int(logits.argmax())
        assert run.out.splitlines() == [
            "target layer: norm2 (the last norm layer that is spatial and live; BatchNorm2d, grid 16x16)",
            f"predicted: {top} {CLASSES[top]} ({float(logits.softmax(0)[top]):.2f})",
            f"wrote: {tmp_path / 'out.png'}",
            f"wrote: {tmp_path / 'raw.npz'}",
        ]
        raw = torch.from_numpy(load_raw(tmp_path / "raw.npz")[0]["GradCAM/norm2"])
        heat = raw.relu() / (raw.max() + 1e-7)
        heat = nn.functional.interpolate(heat[None], (32, 32), mode="bilinear")[0, 0].clamp(0, 1)
        # The map's own rounding may move a colour by one step.
        expected = overlay(prepared.picture, heat).astype(int)
        assert np.abs(pixels(tmp_path / "out.png") - expected).mean() < 3

    def test_several_categories_and_methods_are_several_pictures(self, vis_cam: Any, tmp_path: Path) -> None:
        run = vis_cam(
            *("--save-path", tmp_path / "out.jpg", "--target-category", "espresso", 3),
            *("--method", "gradcam", "LayerCAM"),
        )
        assert run.code == 0, run.err
        names = [f"out-{method}-{category}.jpg" for method in ("GradCAM", "LayerCAM") for category in (2, 3)]
        assert [path.name for path in run.wrote] == names
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
        assert re.search(r"^explained: 2 espresso \(0\.\d\d\), 3 cup \(0\.\d\d\)$", run.out, re.MULTILINE)

    def test_only_what_differs_is_in_the_names(self, vis_cam: Any, tmp_path: Path) -> None:
        run = vis_cam("--save-path", tmp_path / "out.png", "--target-category", 2, 3)
        assert [path.name for path in run.wrote] == ["out-2.png", "out-3.png"]
        run = vis_cam("--save-path", tmp_path / "out.png", "--method", "GradCAM++", "--method", "EigenCAM")
        assert [path.name for path in run.wrote] == ["out-GradCAM++.png", "out-EigenCAM.png"]

    def test_each_picture_is_the_one_asked_for_alone(self, vis_cam: Any, tmp_path: Path) -> None:
        vis_cam("--save-path", tmp_path / "both.png", "--target-category", 2, 3)
        vis_cam("--save-path", tmp_path / "alone.png", "--target-category", 3)
        both, other, alone = (pixels(tmp_path / f"{n}.png").astype(int) for n in ("both-3", "both-2", "alone"))
        assert np.abs(both - alone).mean() < 0.1
        assert np.abs(other - alone).mean() > 5

    def test_the_grid_holds_the_single_pictures(self, vis_cam: Any, tmp_path: Path) -> None:
        asked = ("--target-category", 2, 3, "--method", *SIX)
        vis_cam("--save-path", tmp_path / "out.png", *asked)
        run = vis_cam("--grid", "--save-path", tmp_path / "grid.png", *asked)
        assert run.wrote == [tmp_path / "grid.png"]
        page = pixels(tmp_path / "grid.png")
        for i, method in enumerate(SIX):
            for j, category in enumerate((2, 3)):
                top, left = BAND + i * (32 + GAP), BAND + j * (32 + GAP)
                picture = pixels(tmp_path / f"out-{method}-{category}.png")
                same_picture(page[top : top + 32, left : left + 32], picture)

    def test_methods_may_stand_in_front(self, tiny: Any, photo: str, camkit: Camkit, tmp_path: Path) -> None:
        words = ("--method", "LayerCAM", "gradcam", photo, "cnn", "--save-path", tmp_path / "out.png")
        run = camkit("vis-cam", *words)
        assert [path.name for path in run.wrote] == ["out-LayerCAM.png", "out-GradCAM.png"]

    def test_original_size(self, vis_cam: Any, photo: str, tmp_path: Path) -> None:
        vis_cam("--save-path", tmp_path / "whole.png", "--original-size")
        vis_cam("--save-path", tmp_path / "seen.png")
        whole, seen, original = pixels(tmp_path / "whole.png"), pixels(tmp_path / "seen.png"), pixels(Path(photo))
        assert whole.shape == original.shape == (90, 120, 3)
        top, left = (90 - 64) // 2, (120 - 64) // 2
        crop = cv2.resize(whole[top : top + 64, left : left + 64], (32, 32), interpolation=cv2.INTER_AREA)
        assert np.abs(crop.astype(int) - seen).mean() < 8
        # Outside of what the network saw stands the photograph, darker by one factor.
        outside, beside = whole[:, : left - 3].astype(float), original[:, : left - 3].astype(float)
        np.testing.assert_allclose(outside, beside * outside.mean() / beside.mean(), rtol=0, atol=2)

    def test_colormap_and_alpha(self, vis_cam: Any, tiny: Any, photo: str, tmp_path: Path) -> None:
        vis_cam("--save-path", tmp_path / "jet.png")
        vis_cam("--save-path", tmp_path / "other.png", "--colormap", "viridis")
        vis_cam("--save-path", tmp_path / "faint.png", "--colormap", "viridis", "--alpha", 0)
        jet, other, faint = (pixels(tmp_path / f"{name}.png").astype(int) for name in ("jet", "other", "faint"))
        assert np.abs(jet - other).mean() > 10
        picture = tiny["cnn"].prepare(photo).picture.astype(float)
        np.testing.assert_allclose(faint, picture * 255 / picture.max(), rtol=0, atol=1.001)

    def test_without_a_path_windows_are_shown(self, vis_cam: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        shown: dict[str, Any] = {}
        monkeypatch.setattr("camkit.cli.vis_cam.require_display", lambda: None)
        monkeypatch.setattr("camkit.cli.vis_cam.show", shown.update)
        run = vis_cam("--target-category", 2, 3)
        assert run.code == 0, run.err
        assert list(shown) == ["camkit 2", "camkit 3"]
        assert all(picture.shape == (32, 32, 3) for picture in shown.values())


class TestReport:
    """What is printed of layers and outputs."""

    def test_methods_with_layers_of_their_own_say_which(self, vis_cam: Any, tmp_path: Path) -> None:
        run = vis_cam(
            "--method", "GradCAM", "LayerCAM", "RefineCAM", "GuidedBackprop", "--save-path", tmp_path / "out.png"
        )
        assert run.code == 0, run.err
        reason = "the last norm layer that is spatial and live"
        steps = "one of the norm layers, in even steps, that are spatial and live"
        assert [line for line in run.out.splitlines() if line.startswith("target layer")] == [
            f"target layer of GradCAM, LayerCAM: norm2 ({reason}; BatchNorm2d, grid 16x16)",
            f"target layer of RefineCAM: norm1 ({steps}; BatchNorm2d, grid 16x16)",
            f"target layer of RefineCAM: norm2 ({steps}; BatchNorm2d, grid 16x16)",
        ]

    def test_many_methods_are_counted(self, vis_cam: Any, tmp_path: Path) -> None:
        run = vis_cam("--method", *SIX, "RefineCAM", "--save-path", tmp_path / "out.png")
        assert "target layer of 6 methods: norm2 (" in run.out

    def test_layers_that_are_named_have_no_reason(self, vis_cam: Any, tmp_path: Path) -> None:
        run = vis_cam("--target-layers", "conv1", "relu", "--save-path", tmp_path / "out.png")
        assert run.code == 0, run.err
        assert "target layer: conv1 (Conv2d, grid 16x16)\n" in run.out
        assert "target layer: relu (ReLU, grid 16x16)\n" in run.out

    def test_attention_blocks(self, vis_cam: Any, tmp_path: Path) -> None:
        saved = ("--save-path", tmp_path / "out.png")
        run = vis_cam("--method", "LeGrad", "GradCAM", *saved, config="vit")
        assert "attention blocks of LeGrad: layers.0 to layers.1 (2)\n" in run.out
        assert "target layer of GradCAM: layers.1.ln1 (" in run.out
        run = vis_cam("--method", "LeGrad", "--target-layers", "layers.1", *saved, config="vit")
        assert "attention blocks: layers.1\n" in run.out

    def test_no_default_layer_is_looked_for_where_no_method_takes_one(
        self, vis_cam: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def never(*_: object) -> None:
            raise AssertionError

        monkeypatch.setattr("camkit.layers.target_layers.choose", never)
        run = vis_cam("--method", "LeGrad", "FullGrad", "--save-path", tmp_path / "out.png", config="vit")
        assert run.code == 0, run.err
        assert "target layer" not in run.out

    def test_the_part_of_several_outputs(self, vis_cam: Any, tiny: Any, tmp_path: Path) -> None:
        class Two(nn.Module):
            def __init__(self, model: nn.Module) -> None:
                super().__init__()
                self.model = model

            def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                logits = self.model(images)
                return logits, -logits

        def the_sum(output: Any) -> Any:
            return output[0] + output[1] / 2

        tiny["cnn"] = replace(tiny["cnn"], model=Two(tiny["cnn"].model))
        saved = ("--save-path", tmp_path / "out.png")
        assert "output: 0 (the model returns several; --output takes another: 1)\n" in vis_cam(*saved).out
        assert "output" not in vis_cam("--output", 1, *saved).out
        tiny["cnn"] = replace(tiny["cnn"], output=the_sum)
        expected = "output: the_sum (what the network predicts from; --output takes one of its parts)\n"
        assert expected in vis_cam(*saved).out

    def test_preview_prints_names_that_target_layers_takes(self, vis_cam: Any, tiny: Any) -> None:
        run = vis_cam("--preview-model", config="vit")
        assert (run.code, run.err) == (0, "")
        names = [line.split()[0] for line in run.out.splitlines()]
        assert names == [name for name, _ in tiny["vit"].model.named_modules() if name]
        assert "Conv2d(3, 8, kernel_size=(4, 4), stride=(4, 4))" in run.out


class TestSaveRaw:
    """Signed maps, and how they were made."""

    def test_maps_and_provenance(self, vis_cam: Any, tiny: Any, photo: str, tmp_path: Path) -> None:
        tiny["cnn"] = replace(tiny["cnn"], checkpoint=Origin("cnn.pth", "0123"))
        run = vis_cam(
            *(
                "--save-raw",
                tmp_path / "raw.npz",
                "--target-category",
                "espresso",
                3,
                "--method",
                "GradCAM",
                "EigenCAM",
            ),
            *("--target-layers", "norm1", "norm2", "--eigen-smooth", "--cfg-options", "depth=2"),
        )
        assert run.code == 0, run.err
        assert run.wrote == [tmp_path / "raw.npz"]
        maps, story = load_raw(tmp_path / "raw.npz")
        assert {name: array.shape for name, array in maps.items()} == {
            f"{method}/{layer}": (2, 16, 16) for method in ("GradCAM", "EigenCAM") for layer in ("norm1", "norm2")
        }
        assert all(array.min() < 0 < array.max() for array in maps.values())
        versions, scores, probabilities = (story.pop(key) for key in ("versions", "scores", "probabilities"))
        assert story == {
            "image": photo,
            "config": "cnn",
            "cfg_options": ["depth=2"],
            "checkpoint": {"source": "cnn.pth", "sha256": "0123"},
            "checkpoint_notes": [],
            "activation": "softmax",
            "methods": ["GradCAM", "EigenCAM"],
            "method_options": {"GradCAM": {}, "EigenCAM": {}},
            "layers": {"GradCAM": ["norm1", "norm2"], "EigenCAM": ["norm1", "norm2"]},
            "smoothing": ["EigenSmooth"],
            "num_extra_tokens": None,
            "output": "",
            "categories": [2, 3],
            "names": ["espresso", "cup"],
            "concepts": {},
            "input_size": [32, 32],
            "device": "cpu",
        }
        logits = tiny["cnn"].model(tiny["cnn"].prepare(photo).inputs)[0].detach()
        np.testing.assert_allclose(scores, logits[2:4].tolist(), rtol=1e-5)
        np.testing.assert_allclose(probabilities, logits.softmax(0)[2:4].tolist(), rtol=1e-5)
        assert {"camkit", "torch", "numpy", "python"} <= set(versions)
        assert versions["torch"] == version("torch")

    def test_options_reach_the_maps_and_the_provenance(self, vis_cam: Any, tmp_path: Path) -> None:
        made = {}
        for name, options in {"a": (), "b": ("num_samples=2", "std=0"), "c": ("std=0", "num_samples=1")}.items():
            words = ("--method-options", *options) if options else ()
            raw = tmp_path / f"{name}.npz"
            assert vis_cam("--method", "SmoothGradCAM++", "GradCAM", "--save-raw", raw, *words).code == 0
            maps, story = load_raw(raw)
            made[name] = maps["SmoothGradCAM++/norm2"]
            assert story["method_options"]["GradCAM"] == {}
        assert story["method_options"]["SmoothGradCAM++"] == {"numerator": 2, "num_samples": 1, "std": 0, "seed": 0}
        np.testing.assert_allclose(made["b"], made["c"], rtol=1e-4, atol=1e-6 * np.abs(made["c"]).max())
        assert np.abs(made["a"] - made["c"]).max() > 0.01 * np.abs(made["c"]).max()

    def test_a_batch_size_changes_no_map(self, vis_cam: Any, tmp_path: Path) -> None:
        for size in (1, 5):
            raw = ("--save-raw", tmp_path / f"{size}.npz")
            assert vis_cam("--method", "ScoreCAM", *raw, "--batch-size", size).code == 0
        first, second = (load_raw(tmp_path / f"{size}.npz")[0] for size in (1, 5))
        for name, array in first.items():
            np.testing.assert_allclose(array, second[name], rtol=1e-4, atol=1e-5)


class TestConcepts:
    """One picture, a colour per concept, and what each one is."""

    LINE = re.compile(r"concept (\d): \d+ .+ \(score -?\d+\.\d\d\)")

    def test_lines_and_provenance(self, vis_cam: Any, tmp_path: Path) -> None:
        files = ("--save-path", tmp_path / "out.png", "--save-raw", tmp_path / "raw.npz")
        run = vis_cam("--method", "DFF", "--method-options", "num_concepts=3", *files)
        assert run.code == 0, run.err
        assert [found[1] for line in run.out.splitlines() if (found := self.LINE.fullmatch(line))] == ["1", "2", "3"]
        assert "explained" not in run.out
        maps, story = load_raw(tmp_path / "raw.npz")
        assert [array.shape for array in maps.values()] == [(3, 16, 16)]
        assert (story["categories"], story["scores"], story["probabilities"]) == ([], [], [])
        (found,) = story["concepts"].values()
        for number, concept in enumerate(found, 1):
            line = f"concept {number}: {concept['category']} {concept['name']} (score {concept['score']:.2f})"
            assert line in run.out.splitlines()

    def test_beside_other_methods(self, vis_cam: Any, tmp_path: Path) -> None:
        asked = ("--method", "DFF", "GradCAM", "--target-category", 2, 3)
        run = vis_cam(*asked, "--save-path", tmp_path / "out.png")
        assert sorted(path.name for path in run.wrote) == ["out-DFF.png", "out-GradCAM-2.png", "out-GradCAM-3.png"]
        assert "explained: 2 " in run.out

    @pytest.mark.parametrize("methods", [["DFF"], ["DFF", "GradCAM"]])
    def test_the_grid_has_their_labels_beside_them(self, methods: list[str], vis_cam: Any, tmp_path: Path) -> None:
        """In pictures as wide as text."""
        large = ("--original-size", "--method", *methods)
        vis_cam(*large, "--save-path", tmp_path / "out.png")
        run = vis_cam(*large, "--grid", "--save-path", tmp_path / "grid.png")
        assert run.code == 0, run.err
        page = pixels(tmp_path / "grid.png")
        picture = pixels(tmp_path / ("out.png" if len(methods) == 1 else "out-DFF.png"))
        same_picture(page[BAND : BAND + 90, BAND : BAND + 120], picture)
        labels = page[BAND : BAND + 90, BAND + 120 + GAP :][:, :120]
        assert (labels == 255).all(2).mean() > 0.5, "text on white"
        assert labels.min() < 128


ATTENTION = tuple(name for name, method in METHODS.items() if method.family == "attention")
GUIDED = ("GuidedBackprop", "GuidedGradCAM")
ON = {
    "cnn": tuple(name for name in METHODS if name not in ATTENTION),
    "vit": tuple(name for name in METHODS if name not in (*GUIDED, "CAM")),
}


@pytest.mark.parametrize(("config", "method"), [(config, method) for config, some in ON.items() for method in some])
def test_every_method_draws_and_writes(config: str, method: str, vis_cam: Any, tmp_path: Path) -> None:
    few = [word for word in ("top_k=2", "num_samples=2") if word.partition("=")[0] in METHODS[method].options]
    files = ("--save-path", tmp_path / "out.png", "--save-raw", tmp_path / "raw.npz")
    options = ("--method-options", *few) if few else ()
    run = vis_cam("--method", method, *files, "--target-category", 2, 3, *options, config=config)
    assert run.code == 0, run.err
    assert ("target layer: " in run.out) == METHODS[method].of_layers
    assert ("attention blocks: layers.0 to layers.1 (2)" in run.out) == (method in ATTENTION)
    assert "predicted: " in run.out
    assert all(line.startswith("camkit: warning: ") and "is empty" in line for line in run.err.splitlines()), run.err
    names = ["out.png"] if method == "DFF" else ["out-2.png", "out-3.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [*names, "raw.npz"]
    assert all(pixels(tmp_path / name).shape == (32, 32, 3) for name in names)
    maps, story = load_raw(tmp_path / "raw.npz")
    assert {name.partition("/")[0] for name in maps} <= {method, f"{method}.pixels"}
    assert all(len(array) == (4 if method == "DFF" else 2) for array in maps.values())
    assert (f"{method}.pixels" in maps) == (method in GUIDED)
    assert story["method_options"][method].keys() == METHODS[method].options.keys()
    assert story["categories"] == ([] if method == "DFF" else [2, 3])


class TestMistakes:
    """One line, exit code 2 for usage and 1 for the rest, and nothing written."""

    @pytest.mark.parametrize(
        ("code", "message", "flags"),
        [
            (2, "no method 'GradCAN'; closest: GradCAM", ("--method", "GradCAN")),
            (2, "no method 'LayrCAM'; closest: LayerCAM", ("--method", "GradCAM", "LayrCAM")),
            (2, "no method 'LayrCAM'; closest: LayerCAM", ("--method=GradCAM", "LayrCAM")),
            (2, "--method names one twice: GradCAM GradCAM", ("--method", "GradCAM", "gradcam")),
            (2, "argument --method: expected one argument; see camkit vis-cam --help", ("--method",)),
            (2, "--method-options takes NAME=VALUE, got 'oops'", ("--method-options", "oops")),
            (
                2,
                "--method-options names one twice: seed=1 seed=2",
                ("--method-options", "seed=1", "--method-options", "seed=2"),
            ),
            (2, "no method has the option 'num_samples'.*: none", ("--method-options", "num_samples=2")),
            (
                2,
                "no method has the option 'topk'; closest: top_k; options of ScoreCAM: top_k=None",
                ("--method", "ScoreCAM", "--method-options", "topk=2"),
            ),
            (2, "the option top_k of ScoreCAM .*, got 0", ("--method", "ScoreCAM", "--method-options", "top_k=0")),
            (2, "num_concepts is 1000, and the layer", ("--method", "DFF", "--method-options", "num_concepts=1000")),
            (2, "--batch-size: takes a whole number of at least 1, got 0;", ("--batch-size", "0")),
            (2, "--batch-size: takes a whole number of at least 1, got two;", ("--batch-size", "two")),
            (2, "no colour map 'jett'; closest: jet", ("--colormap", "jett")),
            (2, "--alpha is the heat's share, 0 to 1, got 2", ("--alpha", "2")),
            (2, "--num-extra-tokens: counts tokens, got -1", ("--num-extra-tokens=-1",)),
            (2, "no class 'expresso' .*; closest: espresso", ("--target-category", "expresso")),
            (2, r"category 5 is outside 0\.\.4", ("--target-category", "3", "5")),
            (2, r"category -1 is outside 0\.\.4", ("--target-category", "-1")),
            (2, "--target-category names one twice: 3 cup", ("--target-category", "3", "cup")),
            (2, "no layer 'norm3'; closest: norm.*camkit layers CONFIG", ("--target-layers", "norm3")),
            (1, r"layer 'head' gives \(1, 5\), which has no spatial positions", ("--target-layers", "head")),
            (1, "this network has no attention at all", ("--method", "LeGrad")),
            (1, "CAM needs a head of pooling and one linear layer", ("--method", "CAM", "--target-layers", "conv1")),
            (2, "FullGrad looks at the whole network", ("--method", "FullGrad", "--target-layers", "conv1")),
            (2, "RefineCAM multiplies .* several layers", ("--method", "RefineCAM", "--target-layers", "conv1")),
            (2, "FullGrad has no weighted channels", ("--method", "FullGrad", "--eigen-smooth")),
            (2, "DFF finds other concepts in every view", ("--method", "DFF", "--aug-smooth")),
            (2, "the model's output has no part 'aux'", ("--output", "aux")),
            (1, "can't write '/proc/raw.npz'", ("--save-raw", "/proc/raw.npz")),
            (2, r"its extension must be one of \.npz", ("--save-raw", "raw.json")),
        ],
    )
    def test_of_flags(self, code: int, message: str, flags: Any, vis_cam: Any, tmp_path: Path) -> None:
        refused(vis_cam("--save-path", tmp_path / "out.png", *flags), code, message)
        assert list(tmp_path.iterdir()) == []

    def test_paths(self, vis_cam: Any, tmp_path: Path) -> None:
        refused(vis_cam("--save-path", tmp_path / "out.gif"), 2, r".*out\.gif.*its extension must be one of \.png")
        refused(vis_cam("--save-path", "/proc/out.png"), 1, r"can't write '/proc/out\.png'")
        (tmp_path / "folder.png").mkdir()
        refused(vis_cam("--save-path", tmp_path / "folder.png"), 1, r".*folder\.png': is a folder")
        assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]

    @pytest.mark.usefixtures("tiny")
    def test_images(self, camkit: Camkit, tmp_path: Path) -> None:
        (tmp_path / "text.png").write_text("no picture")
        (tmp_path / "empty.png").touch()
        for image, message in {
            "/nowhere/cat.png": r"no image /nowhere/cat\.png",
            tmp_path / "text.png": r"can't read .*text\.png as an image",
            tmp_path / "empty.png": r".*empty\.png",
            tmp_path: ".* is a folder, not an image",
        }.items():
            refused(camkit("vis-cam", image, "cnn", "--save-path", tmp_path / "out.png"), 1, message)

    @pytest.mark.usefixtures("tiny")
    def test_layers_are_refused_before_the_image_is_read(self, camkit: Camkit, tmp_path: Path) -> None:
        flags = ("--target-layers", "norm3", "--save-path", tmp_path / "out.png")
        refused(camkit("vis-cam", "/nowhere/cat.png", "cnn", *flags), 2, "no layer 'norm3'")

    def test_an_unknown_framework(self, camkit: Camkit, photo: str, tmp_path: Path) -> None:
        run = camkit("vis-cam", photo, "tim:resnet18", "--save-path", tmp_path / "out.png")
        refused(run, 2, "no framework 'tim' in tim:resnet18; closest: timm; CONFIG is an MMPretrain config file")

    def test_no_display(self, vis_cam: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("matplotlib.get_backend", lambda: "agg")
        refused(vis_cam(), 1, "no display to show the picture on .*--save-path")

    @pytest.mark.parametrize("layer", [(), ("--target-layers", "layers.1.ln1")])
    def test_tokens_that_dont_fit(self, layer: Any, vis_cam: Any, tmp_path: Path) -> None:
        saved = ("--save-path", tmp_path / "out.png", *layer)
        for count in (0, 500):
            run = vis_cam(*saved, "--num-extra-tokens", count, config="vit")
            refused(run, 1, r".*L=65 tokens.*would fit: --num-extra-tokens 1 \(8x8\)")
        assert list(tmp_path.iterdir()) == []
        assert vis_cam(*saved, "--num-extra-tokens", 1, config="vit").code == 0

    def test_guided_methods_of_a_network_without_relus(self, vis_cam: Any, tmp_path: Path) -> None:
        run = vis_cam("--method", "GuidedGradCAM", "--save-path", tmp_path / "out.png", config="vit")
        refused(run, 2, ".*needs ReLUs")

    def test_nan(self, vis_cam: Any, tiny: Any, tmp_path: Path) -> None:
        nn.init.constant_(tiny["cnn"].model.norm2.weight, torch.nan)
        refused(vis_cam("--target-layers", "norm2", "--save-path", tmp_path / "out.png"), 1, ".*NaN")
        assert list(tmp_path.iterdir()) == []

    def test_a_score_that_depends_on_no_place(self, vis_cam: Any, tiny: Any, tmp_path: Path) -> None:
        nn.init.zeros_(tiny["cnn"].model.head.weight)
        run = vis_cam("--save-path", tmp_path / "out.png")
        refused(run, 1, ".*the score depends on no place of any spatial layer .*check the weights of the head")


class TestWarnings:
    """Said on standard error; the exit code stays 0."""

    def test_a_checkpoint_that_fits_in_part(self, vis_cam: Any, tiny: Any, tmp_path: Path) -> None:
        tiny["cnn"] = replace(tiny["cnn"], load_warning="1 weight is missing")
        run = vis_cam("--save-path", tmp_path / "out.png")
        assert (run.code, run.err) == (0, "camkit: warning: 1 weight is missing\n")

    def test_an_empty_map(self, vis_cam: Any, tiny: Any, tmp_path: Path) -> None:
        nn.init.zeros_(tiny["cnn"].model.head.weight)
        run = vis_cam("--target-layers", "norm2", "--save-path", tmp_path / "out.png")
        assert run.code == 0
        expected = "camkit: warning: GradCAM: the map of image 0, target 0 is empty: the gradient in 'norm2' is all"
        assert run.err.startswith(expected), run.err
        assert len(run.err.splitlines()) == 1
