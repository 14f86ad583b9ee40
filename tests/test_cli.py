"""The command line, end to end on real files: the documented examples, what goes beyond them, and bad input."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from camkit import load_raw
from camkit.cli import main
from camkit.methods import METHODS, find_method
from camkit.render import Picture
from tests import zoo
from tests.kinds import SIX
from tests.pictures import read
from tests.reference import cloning, energy_sign, reference_maps

CONFIGS = {name: spec.config for name, spec in zoo.ZOO.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photograph, and what the tests write."""
    folder = tmp_path_factory.mktemp("cli")
    cv2.imwrite(str(folder / "cat.png"), zoo.photographs()[0][:, :, ::-1])
    return folder


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Any:
    """Network name to a checkpoint file of its seeded weights, as OpenMMLab writes them."""

    def write(name: str) -> str:
        path = folder / f"{name}.pth"
        if not path.exists():
            torch.save({"meta": {"epoch": 1}, "state_dict": zoo.network(name).state_dict()}, path)
        return str(path)

    return write


class Run:
    """One call of the command: its exit code and what it printed."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err
        self.wrote = [Path(path) for path in re.findall(r"^wrote: (.+)$", out, re.MULTILINE)]


@pytest.fixture
def camkit(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*words: object) -> Run:
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:  # argparse's way out
            code = int(stop.code or 0)
        printed = capsys.readouterr()
        return Run(code, printed.out, printed.err)

    return call


def original_tool(
    name: str, image: Path, method: str, layers: Sequence[str], category: int, *, eigen: bool, aug: bool
) -> Picture:
    """The picture that MMPretrain's tool makes: its own pipeline, the reference's map, its formula."""
    from mmcv.transforms import Compose
    from mmengine.dataset import default_collate
    from mmengine.registry import DefaultScope
    from mmpretrain.apis.model import ModelHub
    from mmpretrain.registry import TRANSFORMS

    config = ModelHub.get(CONFIGS[name]).config
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        pipeline = Compose([TRANSFORMS.build(step) for step in config.test_dataloader.dataset.pipeline])
    data = pipeline({"img_path": str(image)})
    source = data["inputs"].numpy().transpose(1, 2, 0)
    model: Any = zoo.network(name)
    inputs = model.data_preprocessor(default_collate([data]), False)["inputs"]
    with energy_sign():
        heat = reference_maps(
            model,
            inputs,
            method,
            layers,
            [category],
            layout=cloning(zoo.ZOO[name].extra_tokens),
            eigen_smooth=eigen,
            aug_smooth=aug,
        )[0]
    mixed = 0.5 * np.float32(cv2.applyColorMap((255 * heat).astype(np.uint8), cv2.COLORMAP_JET)) / 255 + 0.5 * (
        np.float32(source) / 255
    )
    return np.asarray(np.uint8(255 * (mixed / mixed.max())))


EXAMPLES = {
    **{f"resnet50 {method}": ("resnet50", ["--method", method]) for method in SIX},
    "resnet50 category 238": ("resnet50", ["--target-layers", "backbone.layer4.2", "--target-category", "238"]),
    "resnet50 category 281": ("resnet50", ["--target-layers", "backbone.layer4.2", "--target-category", "281"]),
    "mobilenet": ("mobilenet_v3", ["--target-layers", "backbone.layer16", "--method", "LayerCAM"]),
    "mobilenet smooth": (
        "mobilenet_v3",
        ["--target-layers", "backbone.layer16", "--method", "layercam", "--eigen-smooth", "--aug-smooth"],
    ),
    "mobilenet smooth, other spelling": (
        "mobilenet_v3",
        ["--target-layers", "backbone.layer16", "--method", "LAYERCAM", "--eigen_smooth", "--aug_smooth"],
    ),
    "swin": ("swin_t", ["--vit-like"]),
    "vit": ("vit_b_384", ["--vit-like", "--target-layers", "backbone.layers.11.ln1"]),
    "t2t": ("t2t_vit_14", ["--vit-like", "--target-layers", "backbone.encoder.12.ln1"]),
}


@pytest.mark.parametrize("example", EXAMPLES)
def test_documented_examples(example: str, folder: Path, checkpoint: Any, camkit: Any) -> None:
    name, flags = EXAMPLES[example]
    saved = folder / f"{example.replace(' ', '_').replace(',', '')}.png"
    run = camkit("vis-cam", folder / "cat.png", CONFIGS[name], checkpoint(name), "--save-path", saved, *flags)
    assert run.code == 0, run.err
    assert run.wrote == [saved]
    assert "predicted: " in run.out
    named = "--target-layers" in flags
    layers = [flags[flags.index("--target-layers") + 1] if named else zoo.ZOO[name].default_layer]
    assert f"target layer: {layers[0]} (" in run.out
    # The original decides anew for every augmented view what the top class is; camkit once, on the image as it is.
    predicted = re.search(r"predicted: (\d+)", run.out)
    assert predicted is not None
    category = int(flags[-1]) if "--target-category" in flags else int(predicted[1])
    method = next((m for m in SIX if m.lower() in [flag.lower() for flag in flags]), "GradCAM")
    expected = original_tool(
        name,
        folder / "cat.png",
        method,
        layers,
        category,
        eigen="smooth" in example,
        aug="smooth" in example,
    )
    made = read(saved)
    assert made.shape == expected.shape
    assert np.abs(made.astype(int) - expected).mean() < 1
    # The comparison means something: the picture isn't the photograph alone.
    assert made.astype(int).std(axis=2).mean() > 20


class TestBeyondTheOriginal:
    """What the original doesn't do, on MobileNetV3."""

    @pytest.fixture
    def vis_cam(self, folder: Path, checkpoint: Any, camkit: Any) -> Any:
        arguments = ("vis-cam", folder / "cat.png", CONFIGS["mobilenet_v3"], checkpoint("mobilenet_v3"))
        return lambda *flags: camkit(*arguments, *flags)

    def test_several_categories_and_methods_are_several_pictures(self, vis_cam: Any, tmp_path: Path) -> None:
        run = vis_cam(
            "--save-path", tmp_path / "out.jpg", "--target-category", 281, 238, "--method", "gradcam", "LayerCAM"
        )
        assert run.code == 0, run.err
        names = [f"out-{m}-{c}.jpg" for m in ("GradCAM", "LayerCAM") for c in (281, 238)]
        assert [path.name for path in run.wrote] == names
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
        assert re.search(r"^explained: 281 tabby.* \(0\.\d\d\), 238 .* \(0\.\d\d\)$", run.out, re.MULTILINE)

    def test_only_what_differs_is_in_the_names(self, vis_cam: Any, tmp_path: Path) -> None:
        run = vis_cam("--save-path", tmp_path / "out.png", "--target-category", 281, 238)
        assert [path.name for path in run.wrote] == ["out-281.png", "out-238.png"]
        run = vis_cam("--save-path", tmp_path / "out.png", "--method", "GradCAM++", "--method", "EigenCAM")
        assert [path.name for path in run.wrote] == ["out-GradCAM++.png", "out-EigenCAM.png"]

    def test_each_picture_is_the_one_asked_for_alone(self, vis_cam: Any, tmp_path: Path) -> None:
        vis_cam("--save-path", tmp_path / "both.png", "--target-category", 281, 238)
        vis_cam("--save-path", tmp_path / "alone.png", "--target-category", 238)
        both, alone = (read(tmp_path / name) for name in ("both-238.png", "alone.png"))
        other = read(tmp_path / "both-281.png")
        assert np.abs(both.astype(int) - alone).mean() < 0.1
        assert np.abs(other.astype(int) - alone).mean() > 5

    def test_grid_is_one_picture(self, vis_cam: Any, tmp_path: Path) -> None:
        run = vis_cam("--grid", "--save-path", tmp_path / "grid.png", "--target-category", 281, 238, "--method", *SIX)
        assert run.code == 0, run.err
        assert run.wrote == [tmp_path / "grid.png"]
        page = read(tmp_path / "grid.png")
        assert page.shape[0] > 6 * 224
        assert 2 * 224 < page.shape[1] < 3 * 224

    def test_methods_may_stand_in_front(self, folder: Path, checkpoint: Any, camkit: Any, tmp_path: Path) -> None:
        positional = (folder / "cat.png", CONFIGS["mobilenet_v3"], checkpoint("mobilenet_v3"))
        run = camkit("vis-cam", "--method", "LayerCAM", "gradcam", *positional, "--save-path", tmp_path / "out.png")
        assert run.code == 0, run.err
        assert [path.name for path in run.wrote] == ["out-LayerCAM.png", "out-GradCAM.png"]

    def test_raw_maps_and_provenance(self, vis_cam: Any, tmp_path: Path, checkpoint: Any) -> None:
        from hashlib import sha256

        run = vis_cam(
            *("--save-raw", tmp_path / "raw.npz", "--target-category", 281, 238, "--method", "GradCAM", "EigenCAM"),
            *("--target-layers", "backbone.layer12", "backbone.layer16", "--eigen-smooth"),
        )
        assert run.code == 0, run.err
        assert run.wrote == [tmp_path / "raw.npz"]
        maps, story = load_raw(tmp_path / "raw.npz")
        assert {name: array.shape for name, array in maps.items()} == {
            f"{method}/{layer}": (2, side, side)
            for method in ("GradCAM", "EigenCAM")
            for layer, side in (("backbone.layer12", 14), ("backbone.layer16", 7))
        }
        assert all(array.min() < 0 < array.max() for array in maps.values())
        digest = sha256(Path(checkpoint("mobilenet_v3")).read_bytes()).hexdigest()
        assert story["checkpoint"] == {"source": checkpoint("mobilenet_v3"), "sha256": digest}
        assert story["methods"] == ["GradCAM", "EigenCAM"]
        layers = ["backbone.layer12", "backbone.layer16"]
        assert story["layers"] == {"GradCAM": layers, "EigenCAM": layers}
        assert story["method_options"] == {"GradCAM": {}, "EigenCAM": {}}
        assert story["concepts"] == {}
        assert story["smoothing"] == ["EigenSmooth"]
        assert story["categories"] == [281, 238]
        assert len(story["names"]) == len(story["scores"]) == len(story["probabilities"]) == 2
        assert story["input_size"] == [224, 224]
        assert story["versions"]["torch"] == torch.__version__
        assert {"camkit", "mmpretrain", "mmengine", "numpy", "python"} <= set(story["versions"])

    def test_original_size(self, vis_cam: Any, tmp_path: Path) -> None:
        vis_cam("--save-path", tmp_path / "whole.png", "--original-size")
        vis_cam("--save-path", tmp_path / "seen.png")
        whole, seen = (read(tmp_path / name) for name in ("whole.png", "seen.png"))
        photo = zoo.photographs()[0][:, :, ::-1]
        assert whole.shape == photo.shape == (300, 451, 3)
        # Short side 300 became 256, the middle 224 of 384 x 256 were seen.
        scale = 300 / 256
        left, top, side = round((384 - 224) / 2 * scale), round((256 - 224) / 2 * scale), round(224 * scale)
        crop = cv2.resize(whole[top : top + side, left : left + side], (224, 224), interpolation=cv2.INTER_AREA)
        assert np.abs(crop.astype(int) - seen).mean() < 4
        # Beside it stands the photograph, darker by one factor.
        outside = whole[:, : left - 3].astype(float).mean() / photo[:, : left - 3].mean()
        assert np.abs(whole[:, : left - 3] - outside * photo[:, : left - 3]).max() <= 2

    def test_colormap_and_alpha(self, vis_cam: Any, tmp_path: Path) -> None:
        vis_cam("--save-path", tmp_path / "jet.png")
        vis_cam("--save-path", tmp_path / "faint.png", "--colormap", "viridis", "--alpha", 0)
        jet, faint = (read(tmp_path / name) for name in ("jet.png", "faint.png"))
        assert np.abs(jet.astype(int) - faint).mean() > 20
        # Short side to 256, the middle 224, scaled to the full range: the photograph without heat.
        resized = Image.fromarray(zoo.photographs()[0]).resize((384, 256), Image.Resampling.BILINEAR)
        photo = np.asarray(resized)[16:240, 80:304, ::-1].astype(float)
        assert np.abs(faint - photo * 255 / photo.max()).mean() < 2

    def test_preview_prints_names_that_target_layers_takes(self, vis_cam: Any, camkit: Any) -> None:
        run = vis_cam("--preview-model")
        assert run.code == 0, run.err
        names = [line.split()[0] for line in run.out.splitlines()]
        expected = [name for name, _ in zoo.network("mobilenet_v3").named_modules() if name]
        assert names == expected
        assert "backbone.layer16.conv" in names
        assert "BatchNorm2d(960" in run.out

    def test_cfg_options(self, vis_cam: Any, tmp_path: Path) -> None:
        crop = "test_dataloader.dataset.pipeline.2.crop_size=192"
        run = vis_cam("--save-path", tmp_path / "small.png", "--cfg-options", crop)
        assert run.code == 0, run.err
        small = read(tmp_path / "small.png")
        assert small.shape == (192, 192, 3)

    @pytest.mark.parametrize("given", [0, 500])
    def test_num_extra_tokens_that_dont_fit_are_not_passed_over(
        self, folder: Path, checkpoint: Any, camkit: Any, tmp_path: Path, given: int
    ) -> None:
        arguments = ("vis-cam", folder / "cat.png", CONFIGS["deit_s"], checkpoint("deit_s"))
        run = camkit(*arguments, "--save-path", tmp_path / "out.png", "--num-extra-tokens", given)
        assert run.code == 1
        assert "would fit: --num-extra-tokens 1 (14x14)" in run.err
        assert list(tmp_path.iterdir()) == []

    def test_num_extra_tokens_zero_is_zero(self, folder: Path, checkpoint: Any, camkit: Any, tmp_path: Path) -> None:
        arguments = ("vis-cam", folder / "cat.png", CONFIGS["deit_s"], checkpoint("deit_s"))
        layer = ("--target-layers", "backbone.layers.11.ln1", "--save-path", tmp_path / "out.png")
        run = camkit(*arguments, *layer, "--num-extra-tokens", 0)
        assert run.code == 1
        assert "L=197 tokens" in run.err
        assert "would fit: --num-extra-tokens 1 (14x14)" in run.err
        assert camkit(*arguments, *layer, "--num-extra-tokens", 1).code == 0


class TestBadInput:
    """One clear line, exit code 2 for usage and 1 for the rest, nothing half-written."""

    @pytest.fixture
    def fails(self, folder: Path, checkpoint: Any, camkit: Any, tmp_path: Path) -> Any:
        def call(code: int, message: str, *flags: object, **positional: object) -> None:
            given = {
                "img": folder / "cat.png",
                "config": CONFIGS["mobilenet_v3"],
                "checkpoint": checkpoint("mobilenet_v3"),
            } | positional
            before = sorted(tmp_path.rglob("*"))
            save = () if "--save-path" in flags else ("--save-path", tmp_path / "out.png")
            run = camkit("vis-cam", *given.values(), *save, *flags)
            assert run.code == code, run.err
            lines = run.err.splitlines()
            assert len(lines) == 1, run.err
            assert lines[0].startswith("camkit: error: ")
            assert re.search(message, lines[0]), lines[0]
            assert sorted(tmp_path.rglob("*")) == before

        return call

    def test_image(self, fails: Any, tmp_path: Path) -> None:
        fails(1, r"no image /nowhere/cat\.png", img="/nowhere/cat.png")
        (tmp_path / "text.png").write_text("no picture")
        (tmp_path / "empty.png").touch()
        (tmp_path / "cut.jpg").write_bytes(cv2.imencode(".jpg", zoo.photographs()[0])[1].tobytes()[:300])
        fails(1, r"can't read .*text\.png as an image", img=tmp_path / "text.png")
        fails(1, r"empty\.png is an empty file", img=tmp_path / "empty.png")
        fails(1, r"can't read .*cut\.jpg as an image", img=tmp_path / "cut.jpg")
        fails(1, "is a folder, not an image", img=tmp_path)

    def test_config(self, fails: Any, tmp_path: Path) -> None:
        fails(2, r"no model 'resnet51_8xb32_in1k'; closest: resnet\d+_8xb32_in1k", config="resnet51_8xb32_in1k")
        fails(2, r"no config file configs/resnet50\.py.*closest model names: resnet", config="configs/resnet50.py")
        (tmp_path / "empty.py").touch()
        fails(2, "has no model", config=tmp_path / "empty.py")
        fails(2, "--cfg-options takes KEY=VALUE, got 'oops'", "--cfg-options", "oops")

    def test_layers(self, fails: Any) -> None:
        fails(
            2,
            r"no layer 'backbone\.layer17'; closest: backbone\.layer\d+, .*camkit layers CONFIG",
            "--target-layers",
            "backbone.layer17",
        )
        fails(1, r"layer 'neck' gives \(1, 960\), which has no spatial positions", "--target-layers", "neck")
        fails(1, "layer 'data_preprocessor' doesn't run", "--target-layers", "data_preprocessor")

    def test_methods_and_style(self, fails: Any) -> None:
        fails(2, r"no method 'GradCAN'; closest: GradCAM", "--method", "GradCAN")
        fails(2, r"no method 'LayrCAM'; closest: LayerCAM", "--method", "GradCAM", "LayrCAM")
        fails(2, r"no method 'LayrCAM'; closest: LayerCAM", "--method=GradCAM", "LayrCAM")
        fails(2, "--method names one twice", "--method", "GradCAM", "gradcam")
        fails(2, "argument --method: expected one argument; see camkit vis-cam --help", "--method")
        fails(2, "argument --target-category: invalid int value: 'cat'", "--target-category", "cat")
        fails(2, "no colour map 'jett'; closest: jet", "--colormap", "jett")
        fails(2, "--alpha is the heat's share", "--alpha", "2")
        fails(2, "--num-extra-tokens: counts tokens, got -1", "--num-extra-tokens=-1")

    def test_categories(self, fails: Any) -> None:
        fails(2, r"category 1000 is outside 0\.\.999", "--target-category", "3", "1000")
        fails(2, r"category -1 is outside 0\.\.999", "--target-category", "-1")
        fails(2, "--target-category names one twice: 3 3", "--target-category", "3", "3")

    def test_checkpoint(self, fails: Any, tmp_path: Path) -> None:
        fails(1, r"/nowhere\.pth", checkpoint="/nowhere.pth")
        (tmp_path / "text.pth").write_text("no checkpoint")
        fails(1, r"text\.pth", checkpoint=tmp_path / "text.pth")
        torch.save({"state_dict": {"other.weight": torch.zeros(3)}}, tmp_path / "other.pth")
        fails(1, r"none of .*other\.weight", checkpoint=tmp_path / "other.pth")
        torch.save({"state_dict": {"w": torch.zeros(3)}, "hook": nn.ReLU()}, tmp_path / "pickled.pth")
        fails(1, "--trust-checkpoint", checkpoint=tmp_path / "pickled.pth")

    def test_output(self, fails: Any, tmp_path: Path) -> None:
        fails(2, r"out\.gif.*its extension must be one of \.png", "--save-path", tmp_path / "out.gif")
        fails(2, r"its extension must be one of \.npz", "--save-raw", tmp_path / "raw.json")
        fails(1, r"can't write '/proc/out\.png'", "--save-path", "/proc/out.png")
        fails(1, r"can't write '/proc/raw\.npz'", "--save-raw", "/proc/raw.npz")
        (tmp_path / "folder.png").mkdir()
        fails(1, r"folder\.png': is a folder", "--save-path", tmp_path / "folder.png")

    def test_device(self, fails: Any) -> None:
        fails(1, "no device 'cuda:7' on this machine; available: cpu", "--device", "cuda:7")
        fails(1, "no device 'toaster'", "--device", "toaster")

    def test_no_display(self, folder: Path, checkpoint: Any, camkit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MPLBACKEND", "agg")
        run = camkit("vis-cam", folder / "cat.png", CONFIGS["mobilenet_v3"], checkpoint("mobilenet_v3"))
        assert run.code == 1
        assert run.err.startswith("camkit: error: no display to show the picture on")
        assert "--save-path" in run.err
        assert len(run.err.splitlines()) == 1

    def test_out_of_memory_says_what_to_lower(self, fails: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def exhausted(*_: object, **__: object) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB")

        monkeypatch.setattr("camkit.commands.job.explain", exhausted)
        fails(1, "out of memory: use a smaller input, a later target layer or another --device")

    def test_an_error_inside_the_model_is_one_line_too(self, fails: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def breaks(*_: object, **__: object) -> None:
            raise RuntimeError("shapes (3, 4) and (5, 6)\ndon't go together")

        monkeypatch.setattr("camkit.commands.job.explain", breaks)
        fails(1, r"RuntimeError: shapes \(3, 4\) and \(5, 6\) \(see where with --traceback\)")
        with pytest.raises(RuntimeError, match="don't go together"):
            fails(1, "", "--traceback")

    def test_words_that_argparse_refuses(self, camkit: Any) -> None:
        for words in ([], ["vis_cam"], ["vis-cam"], ["vis-cam", "a", "b", "c", "--aug"]):
            run = camkit(*words)
            assert run.code == 2
            lines = run.err.splitlines()
            assert len(lines) == 1, run.err
            assert re.match(r"camkit: error: .*; see camkit.* --help$", lines[0])


class TestWarnings:
    """Said on standard error; the exit code stays 0."""

    def test_a_checkpoint_that_fits_in_part(self, folder: Path, camkit: Any, tmp_path: Path) -> None:
        state_dict = dict(zoo.network("mobilenet_v3").state_dict())
        state_dict["head.layers.1.fc.weight"] = torch.zeros(10, 1280)
        del state_dict["backbone.layer0.conv.weight"]
        torch.save({"state_dict": state_dict}, tmp_path / "part.pth")
        saved = ("--save-path", tmp_path / "out.png")
        run = camkit("vis-cam", folder / "cat.png", CONFIGS["mobilenet_v3"], tmp_path / "part.pth", *saved)
        assert run.code == 0
        assert re.match(r"camkit: warning: .*1 .*missing.*backbone\.layer0\.conv\.weight", run.err), run.err
        assert len(run.err.splitlines()) == 1

    def test_a_map_without_evidence(self, folder: Path, camkit: Any, tmp_path: Path) -> None:
        state_dict = dict(zoo.network("mobilenet_v3").state_dict())
        state_dict["head.layers.1.fc.weight"] = torch.zeros_like(state_dict["head.layers.1.fc.weight"])
        torch.save({"state_dict": state_dict}, tmp_path / "dead.pth")
        arguments = ("vis-cam", folder / "cat.png", CONFIGS["mobilenet_v3"], tmp_path / "dead.pth")
        run = camkit(*arguments, "--save-path", tmp_path / "default.png")
        assert run.code == 1
        assert "the score depends on no place of any spatial layer (the last one is 'backbone." in run.err
        assert "check the weights of the head" in run.err
        run = camkit(*arguments, "--target-layers", "backbone.layer16", "--save-path", tmp_path / "out.png")
        assert run.code == 0
        expected = (
            "camkit: warning: GradCAM: the map of image 0, target 0 is empty: the gradient in 'backbone.layer16' is all"
        )
        assert run.err.startswith(expected), run.err

    def test_nan_is_an_error(self, folder: Path, camkit: Any, tmp_path: Path) -> None:
        state_dict = dict(zoo.network("mobilenet_v3").state_dict())
        state_dict["backbone.layer16.bn.weight"] = torch.full_like(state_dict["backbone.layer16.bn.weight"], torch.nan)
        torch.save({"state_dict": state_dict}, tmp_path / "nan.pth")
        saved = ("--target-layers", "backbone.layer16", "--save-path", tmp_path / "out.png")
        run = camkit("vis-cam", folder / "cat.png", CONFIGS["mobilenet_v3"], tmp_path / "nan.pth", *saved)
        assert run.code == 1
        assert "NaN" in run.err
        assert not (tmp_path / "out.png").exists()


def test_console_is_quiet_in_a_process_of_its_own(folder: Path, checkpoint: Any, tmp_path: Path) -> None:
    """No import warning, no init log of another package; the lines of camkit's own are these."""
    command = [sys.executable, "-m", "camkit", "vis-cam", str(folder / "cat.png"), CONFIGS["mobilenet_v3"]]
    command += [checkpoint("mobilenet_v3"), "--save-path", str(tmp_path / "out.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == ["target layer", "predicted", "wrote"]
    assert all("torchvision's compiled operators" in line for line in done.stderr.splitlines()), done.stderr


def test_demo_shows_the_cat_and_the_cup(camkit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMKIT_CACHE", str(tmp_path / "cache"))
    run = camkit("demo", "--out", tmp_path / "demo")
    assert run.code == 0, run.err
    assert {path.name for path in run.wrote} == {"input.png", "grid.png", "cat.png", "espresso.png"}
    assert all(path.stat().st_size > 10_000 for path in run.wrote)
    assert "predicted: 967 espresso" in run.out
    assert "282 tiger cat" in run.out
    # README shows these lines; confidences may round differently elsewhere.
    shown = (Path(__file__).parent.parent / "README.md").read_text().partition("```text\n")[2].partition("```")[0]
    told = run.out.replace(str(tmp_path / "demo"), "demo")
    assert re.sub(r"\(0\.\d\d\)", "", shown) == re.sub(r"\(0\.\d\d\)", "", told)
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["lite0.pth", "lite0.py"]


@pytest.mark.parametrize("method", [m for m in SIX if m != "EigenCAM"])
def test_the_demos_maps_lie_on_what_they_explain(method: str, tmp_path: Path) -> None:
    """The cat is the left half, the cup the right one. EigenCAM doesn't ask for a class."""
    from camkit.adapters import mmpretrain
    from camkit.commands import demo, job
    from camkit.save import save_picture

    config, weights = demo.build(tmp_path)
    classifier = mmpretrain.load(str(config), str(weights), cfg_options=demo.WHOLE_PICTURE)
    prepared = classifier.prepare(save_picture(tmp_path / "input.png", demo.photographs()))
    assert prepared.picture.shape == (224, 448, 3)
    layer, categories, methods = "model.bn2", list(demo.CATEGORIES.values()), [find_method(method)]
    (explanation,) = job.explain(classifier, prepared, methods, target_layers=[layer], categories=categories)
    top = explanation.logits[0].topk(2).indices.tolist()
    assert sorted(top) == [282, 967]
    for heat, half in zip(explanation.maps[0], ("left", "right"), strict=True):
        right = float(heat[:, 224:].sum() / heat.sum())
        assert (right if half == "right" else 1 - right) > 0.6
        assert (int(heat.amax(0).argmax()) >= 224) == (half == "right")


def test_methods_lists_the_registry(camkit: Any) -> None:
    lines = camkit("methods").out.splitlines()
    assert lines[0].split() == ["method", "family", "needs", "cost", "options", "paper"]
    assert [line.split()[0] for line in lines[2:-2]] == list(METHODS)
    (row,) = [line for line in lines if line.startswith("SS-CAM")]
    assert re.split(r"\s{2,}", row)[1:] == [
        "perturbation",
        "scores of masked images",
        "1 + num_samples C",
        "num_samples=35, std=2.0, seed=0, top_k=None",
        METHODS["SS-CAM"].paper,
    ]
    assert lines[-1].startswith("cost: ")


def test_methods_as_markdown(camkit: Any) -> None:
    table = camkit("methods", "--markdown").out.splitlines()
    assert len(table) == len(METHODS) + 2
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table]
    assert {len(row) for row in cells} == {7}, "a bar in a cell would end it"
    assert [row[0].strip() for row in cells[2:]] == list(METHODS)
    assert cells[1] == [" --- "] * 7


def test_output_that_nobody_reads_to_the_end_is_no_error(checkpoint: Any, tmp_path: Path) -> None:
    command = f"{sys.executable} -m camkit methods | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stderr == ""
