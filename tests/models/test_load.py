"""From CONFIG and CHECKPOINT to a classifier, for every framework, and to a picture on the command line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import camkit
from camkit.errors import CamkitError, CheckpointError, UsageError
from camkit.models.frameworks import FRAMEWORKS
from camkit.models.load import load
from camkit.models.settings import Preprocessing, Reading
from tests.helpers.pictures import read, write_photo
from tests.helpers.refusals import refusal
from tests.models.installed import installed


@pytest.mark.parametrize(
    ("config", "framework", "options"),
    [
        ("timm:resnet18", "timm", {"num_classes": 7}),
        ("torchvision:resnet18", "torchvision", {"num_classes": 7}),
        ("transformers:folder", "transformers", {"num_classes": 7}),
    ],
)
def test_the_framework_gets_what_was_asked(
    config: str, framework: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(f"camkit.models.{framework}.load", lambda *given, **how: asked.append((given, how)))
    reading, preprocessing = Reading(trust=True, weights="ema", seed=3), Preprocessing(mean=(0.5,))
    how = {"device": "cuda:1", "reading": reading, "preprocessing": preprocessing, "pretrained": False}
    load(config, "x.pth", cfg_options=["num_classes=7"], **how)  # type: ignore[arg-type]
    how |= {"options": options}
    assert asked == [((config.partition(":")[2], "x.pth"), how)]


@pytest.mark.parametrize(
    ("config", "options", "says"),
    [
        ("tim:resnet18", [], "no framework 'tim'"),
        ("timm:resnet18", ["num_classes"], "--cfg-options takes KEY=VALUE, got 'num_classes'"),
        ("torchvision:resnet18", ["a.b=3"], "--cfg-options takes KEY=VALUE, got 'a.b=3'"),
        ("resnet18_8xb32_in1k", ["model"], "--cfg-options takes KEY=VALUE, got 'model'"),
    ],
)
def test_wrong_usage_needs_no_framework(config: str, options: list[str], says: str) -> None:
    assert says in refusal(load, UsageError, config, "x.pth", cfg_options=options)


def test_mmpretrain_has_no_weights_of_its_own() -> None:
    message = refusal(load, UsageError, "resnet18_8xb32_in1k")
    assert message.startswith(
        "an MMPretrain config needs a CHECKPOINT: give its path or URL behind resnet18_8xb32_in1k"
    )
    assert "timm:NAME, torchvision:NAME or transformers:FOLDER" in message


@pytest.mark.parametrize("config", ["resnet18_8xb32_in1k", "timm:resnet18", "torchvision:resnet18", "transformers:x"])
def test_a_device_that_is_not_there(config: str) -> None:
    message = refusal(load, CamkitError, config, "x.pth", device="cuda:99")
    assert message.startswith("no device 'cuda:99' on this machine; available: cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photo, and a small model of each framework with random weights that mean something for every class."""
    timm, models, transformers = installed("timm"), installed("torchvision").models, installed("transformers")
    folder = tmp_path_factory.mktemp("load")
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


OTHERS = [name for name in FRAMEWORKS if name != "mmpretrain"]


@pytest.mark.frameworks
@pytest.mark.parametrize("framework", OTHERS)
def test_preprocessing_leaves_random_state_alone(framework: str, folder: Path, models_of: Any) -> None:
    classifier = load(*models_of[framework])
    before = torch.get_rng_state()
    first = classifier.prepare(folder / "photo.png").inputs
    assert torch.equal(before, torch.get_rng_state())
    torch.testing.assert_close(classifier.prepare(folder / "photo.png").inputs, first, rtol=0, atol=0)


@pytest.mark.frameworks
@pytest.mark.parametrize("framework", OTHERS)
def test_a_checkpoint_that_is_not_there(framework: str, models_of: Any) -> None:
    assert "no checkpoint none.pth" in refusal(load, CheckpointError, models_of[framework][0], "none.pth")


class Run:
    """One call of the command."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *words: object) -> None:
        from camkit.cli.main import main

        try:
            self.code = main([str(word) for word in words])
        except SystemExit as stop:
            self.code = int(stop.code or 0)
        self.out, self.err = capsys.readouterr()


@pytest.mark.frameworks
class TestCommandLine:
    """``camkit vis-cam`` with models of other frameworks than MMPretrain."""

    @pytest.mark.parametrize("framework", OTHERS)
    def test_from_end_to_end(
        self, framework: str, folder: Path, models_of: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        image = folder / "photo.png"
        flags = ("--save-path", tmp_path / "out.png", "--save-raw", tmp_path / "raw.npz", "--method", "LayerCAM")
        run = Run(capsys, "vis-cam", image, *models_of[framework], *flags)
        assert run.code == 0, run.err
        assert run.err == ""
        side = 64 if framework == "transformers" else 224
        assert read(tmp_path / "out.png").shape == (side, side, 3)
        assert re.search(r"^predicted: \d+ (.+) \(\d\.\d\d\)$", run.out, re.MULTILINE)
        _, story = camkit.load_raw(tmp_path / "raw.npz")
        assert story["config"].startswith(f"{framework}:")
        assert len(story["checkpoint"]["sha256"]) == 64
        assert framework in story["versions"]
        run = Run(capsys, "vis-cam", image, *models_of[framework], *flags, "--original-size")
        assert run.code == 0, run.err
        assert read(tmp_path / "out.png").shape == (90, 120, 3)

    def test_the_checkpoint_may_stand_behind_flags(
        self, folder: Path, models_of: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
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
    def test_names_of_layers_need_no_weights(self, config: str, capsys: pytest.CaptureFixture[str]) -> None:
        installed(config.partition(":")[0] if ":" in config else "mmpretrain")
        run = Run(capsys, "vis-cam", "none.png", config, "--preview-model")
        assert run.code == 0, run.err
        assert re.search(r"^(backbone\.)?layer4\.1\.conv2 ", run.out, re.MULTILINE)

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (["resnet18_8xb32_in1k"], "an MMPretrain config needs a CHECKPOINT"),
            (["tim:resnet18"], "no framework 'tim' in tim:resnet18; closest: timm; CONFIG is"),
            (["timm:resnt18", "x.pth"], "closest: resnet18"),
            (["torchvision:fcn_resnet50"], "labels pixels"),
            (["transformers:google/vit"], "hf download google/vit"),
        ],
    )
    def test_wrong_usage(
        self, words: list[str], says: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = Run(capsys, "vis-cam", folder / "photo.png", *words, "--save-path", tmp_path / "out.png")
        assert run.code == 2
        assert run.err.startswith("camkit: error: ")
        assert len(run.err.splitlines()) == 1
        assert says in run.err
        assert not (tmp_path / "out.png").exists()

    @pytest.mark.slow
    def test_the_console_is_quiet_in_a_process_of_its_own(self, folder: Path, models_of: Any, tmp_path: Path) -> None:
        for framework in OTHERS:
            command = [sys.executable, "-m", "camkit", "vis-cam", str(folder / "photo.png"), *models_of[framework]]
            command += ["--save-path", str(tmp_path / "out.png"), "--original-size"]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            told = [line.partition(":")[0] for line in done.stdout.splitlines()]
            assert told == ["target layer", "predicted", "wrote"]
            assert all("torchvision's compiled operators" in line for line in done.stderr.splitlines()), done.stderr
