"""From CONFIG and CHECKPOINT to a picture, for every framework: which adapter, bad images, and the command line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from camkit import load_raw
from camkit.adapters.framework import keyword_options
from camkit.adapters.loading import load
from camkit.adapters.photo import Normalisation, measure
from camkit.cli import main
from camkit.errors import CamkitError, UsageError
from tests.pictures import read, write_photo

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")
models = pytest.importorskip("torchvision.models")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photo and a small model of each framework with random weights that mean something for every class."""
    folder = tmp_path_factory.mktemp("loading")
    write_photo(folder / "photo.png")
    torch.manual_seed(0)
    torch.save(timm.create_model("vit_tiny_patch16_224").state_dict(), folder / "timm.pth")
    torch.save(models.resnet18().state_dict(), folder / "torchvision.pth")
    tiny = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.ViTConfig(image_size=64, id2label={0: "ant", 1: "bee", 2: "cat"}, **tiny)
    transformers.utils.logging.disable_progress_bar()
    transformers.ViTForImageClassification(config).save_pretrained(folder / "vit")
    transformers.utils.logging.enable_progress_bar()
    transformers.ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder / "vit")
    return folder


@pytest.fixture
def models_of(folder: Path) -> dict[str, tuple[str, ...]]:
    """Framework to CONFIG and CHECKPOINT."""
    return {
        "timm": ("timm:vit_tiny_patch16_224", str(folder / "timm.pth")),
        "torchvision": ("torchvision:resnet18", str(folder / "torchvision.pth")),
        "transformers": (f"transformers:{folder / 'vit'}",),
    }


FRAMEWORKS = ("timm", "torchvision", "transformers")


class Run:
    """One call of the command."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *words: object) -> None:
        try:
            self.code = main([str(word) for word in words])
        except SystemExit as stop:
            self.code = int(stop.code or 0)
        self.out, self.err = capsys.readouterr()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_command_from_end_to_end(
    framework: str, folder: Path, models_of: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = folder / "photo.png"
    flags = ("--save-path", tmp_path / "out.png", "--save-raw", tmp_path / "raw.npz", "--method", "LayerCAM")
    run = Run(capsys, "vis-cam", image, *models_of[framework], *flags)
    assert run.code == 0, run.err
    assert run.err == ""
    side = 64 if framework == "transformers" else 224
    assert read(tmp_path / "out.png").shape == (side, side, 3)
    name = re.search(r"^predicted: \d+ (.+) \(\d\.\d\d\)$", run.out, re.MULTILINE)
    assert name is not None
    _, story = load_raw(tmp_path / "raw.npz")
    assert story["config"].startswith(f"{framework}:")
    assert len(story["checkpoint"]["sha256"]) == 64
    assert framework in story["versions"]
    run = Run(capsys, "vis-cam", image, *models_of[framework], *flags, "--original-size")
    assert run.code == 0, run.err
    assert read(tmp_path / "out.png").shape == (90, 120, 3)


def test_the_checkpoint_may_stand_behind_flags(
    folder: Path, models_of: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, checkpoint = models_of["torchvision"]
    flags = ("--save-path", tmp_path / "out.png", "--method", "EigenCAM")
    for words in (
        (*flags, folder / "photo.png", config, checkpoint),
        (folder / "photo.png", config, *flags, checkpoint),
    ):
        run = Run(capsys, "vis-cam", *words)
        assert run.code == 0, run.err
        (tmp_path / "out.png").unlink()
    run = Run(capsys, "vis-cam", folder / "photo.png", config, checkpoint, "one too many")
    assert run.code == 2
    assert "unrecognized arguments: one too many" in run.err


@pytest.mark.parametrize("config", ["resnet18_8xb32_in1k", "timm:resnet18", "torchvision:resnet18"])
def test_names_of_layers_need_no_weights(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(capsys, "vis-cam", "none.png", config, "--preview-model")
    assert run.code == 0, run.err
    assert re.search(r"^(backbone\.)?layer4\.1\.conv2 ", run.out, re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["resnet18_8xb32_in1k"], "an MMPretrain config needs a CHECKPOINT"),
        (["tim:resnet18"], "no framework 'tim' in tim:resnet18; closest: timm; CONFIG is timm:NAME"),
        (["keras:resnet18", "x.h5"], "no framework 'keras' in keras:resnet18; CONFIG is timm:NAME"),
        (["timm:", "x.pth"], "timm: names no model"),
        (["timm:resnt18", "x.pth"], "closest: resnet18"),
        (["torchvision:fcn_resnet50"], "labels pixels"),
        (["transformers:google/vit"], "hf download google/vit"),
        (["timm:resnet18", "x.pth", "--cfg-options", "num_classes"], "--cfg-options takes KEY=VALUE"),
        (["torchvision:resnet18", "x.pth", "--cfg-options", "a.b=3"], "--cfg-options takes KEY=VALUE"),
    ],
)
def test_wrong_usage(
    words: list[str], says: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(capsys, "vis-cam", folder / "photo.png", *words, "--save-path", tmp_path / "out.png")
    assert run.code == 2
    assert run.err.startswith("camkit: error: ")
    assert len(run.err.splitlines()) == 1
    assert says in run.err
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(
    ("checkpoint", "says"), [("none.pth", "no checkpoint none.pth"), ("none.safetensors", "no checkpoint none")]
)
def test_checkpoints_that_are_none(
    framework: str, checkpoint: str, says: str, folder: Path, models_of: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(capsys, "vis-cam", folder / "photo.png", models_of[framework][0], checkpoint, "--save-path", "x.png")
    assert run.code == 1
    assert len(run.err.splitlines()) == 1
    assert says in run.err


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_images_that_are_none(framework: str, models_of: Any, tmp_path: Path) -> None:
    classifier = load(*models_of[framework])
    path = tmp_path / "bad.png"

    def refused(says: str) -> None:
        with pytest.raises(CamkitError, match=says) as caught:
            classifier.prepare(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)

    refused("no image")
    path.mkdir()
    refused("is a folder")
    path.rmdir()
    path.touch()
    refused("an empty file")
    path.write_text("hello\n" * 99)
    refused("as an image")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    refused("as an image")
    whole = Path(write_photo(tmp_path / "whole.png", 300, 400)).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused("as an image")
    Image.fromarray(np.linspace(0, 65535, 10000).reshape(100, 100).astype(np.uint16)).save(path)
    refused("more than eight bits")


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_images_of_every_kind(framework: str, models_of: Any, tmp_path: Path) -> None:
    """Grey, with transparency, with a palette, tiny, and turned by its EXIF orientation."""
    classifier = load(*models_of[framework])
    photo = Image.open(write_photo(tmp_path / "photo.png"))
    straight = classifier.prepare(tmp_path / "photo.png")
    for mode in ("L", "RGBA", "P", "LA"):
        photo.convert(mode).save(tmp_path / "other.png")
        assert classifier.prepare(tmp_path / "other.png").inputs.shape == straight.inputs.shape
    photo.resize((1, 1)).save(tmp_path / "other.png")
    assert classifier.prepare(tmp_path / "other.png").original.shape == (1, 1, 3)
    exif = Image.Exif()
    exif[0x0112] = 8  # to be turned by 90 degrees
    photo.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "turned.png", exif=exif)
    turned = classifier.prepare(tmp_path / "turned.png")
    np.testing.assert_array_equal(turned.original, straight.original)
    torch.testing.assert_close(turned.inputs, straight.inputs)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_preprocessing_leaves_random_state_alone(framework: str, folder: Path, models_of: Any) -> None:
    classifier = load(*models_of[framework])
    before = torch.get_rng_state()
    first = classifier.prepare(folder / "photo.png").inputs
    assert torch.equal(before, torch.get_rng_state())
    torch.testing.assert_close(classifier.prepare(folder / "photo.png").inputs, first, rtol=0, atol=0)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_device_that_is_not_there(framework: str, models_of: Any) -> None:
    with pytest.raises(CamkitError, match="no device 'cuda:99' on this machine; available: cpu"):
        load(*models_of[framework], device="cuda:99")


def test_a_file_may_have_a_colon_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "a:b.py").write_text("x = 1")
    with pytest.raises(UsageError, match="has no model"):
        load(str(tmp_path / "a:b.py"), "x.pth")


def test_options_as_keywords() -> None:
    given = ["num_classes=10", "act_layer=gelu", "a=True", "b=false", "c=[1, 2.5]", "d=none", "e=x=y", "f=", "g=1,2"]
    assert keyword_options(given) == {
        "num_classes": 10,
        "act_layer": "gelu",
        "a": True,
        "b": False,
        "c": [1, 2.5],
        "d": None,
        "e": "x=y",
        "f": "",
        "g": (1, 2),
    }
    for wrong in ("x", "=3", "a-b=1", ""):
        with pytest.raises(UsageError, match="KEY=VALUE"):
            keyword_options([wrong])


def test_normalisation_is_measured() -> None:
    def transform(image: Image.Image) -> torch.Tensor:
        colours = torch.from_numpy(np.array(image)).permute(2, 0, 1).double() / 255
        return ((colours - torch.tensor([0.4, 0.5, 0.6])[:, None, None]) / 0.25).flip(0)

    found = measure(transform)
    assert found.bgr
    assert found.mean == pytest.approx((0.6, 0.5, 0.4))
    assert found.std == pytest.approx((0.25,) * 3)
    red = Image.new("RGB", (5, 4), "red")
    np.testing.assert_array_equal(found.undo(transform(red)), np.broadcast_to([0, 0, 255], (4, 5, 3)))
    grey = Normalisation((0.5,), (0.5,)).undo(torch.zeros(1, 2, 2))
    np.testing.assert_array_equal(grey, np.full((2, 2, 3), 128))
    with pytest.raises(CamkitError, match="come out alike"):
        measure(lambda _: torch.zeros(3, 8, 8))


def test_console_is_quiet_in_a_process_of_its_own(folder: Path, models_of: Any, tmp_path: Path) -> None:
    for framework in FRAMEWORKS:
        command = [sys.executable, "-m", "camkit", "vis-cam", str(folder / "photo.png"), *models_of[framework]]
        command += ["--save-path", str(tmp_path / "out.png"), "--original-size"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
        assert [line.partition(":")[0] for line in done.stdout.splitlines()] == ["target layer", "predicted", "wrote"]
        assert all("torchvision's compiled operators" in line for line in done.stderr.splitlines()), done.stderr
