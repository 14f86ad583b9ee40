"""torchvision's classifiers: torchvision's own numbers, its weights' transforms, and models that are no classifiers."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from camkit.errors import CheckpointError, UsageError
from camkit.models import torchvision as ours
from camkit.models.torchvision import load
from tests.helpers.refusals import refusal
from tests.models.installed import installed

pytestmark = pytest.mark.frameworks

NETWORKS = ("resnet18", "mobilenet_v3_small", "squeezenet1_1", pytest.param("vit_b_16", marks=pytest.mark.slow))


@pytest.fixture(scope="module", autouse=True)
def models() -> Any:
    """torchvision's own models."""
    return installed("torchvision").models


def saved(path: Path, name: str, **how: Any) -> Any:
    """torchvision's own model with seeded weights, which are written too."""
    from safetensors.torch import save_file
    from torchvision import models

    torch.manual_seed(0)
    model = models.get_model(name, **how).eval()
    if path.suffix == ".safetensors":
        save_file(model.state_dict(), path)
    else:
        torch.save(model.state_dict(), path)
    return model


refused = partial(refusal, load)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_numbers_as_torchvision_itself(name: str, tmp_path: Path, photo: str, models: Any) -> None:
    path = tmp_path / ("net.safetensors" if name == "resnet18" else "net.pth")
    model = saved(path, name)
    classifier = load(name, str(path))
    assert classifier.load_warning is None
    assert classifier.source == f"torchvision:{name}"
    assert classifier.checkpoint is not None
    assert classifier.checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    prepared = classifier.prepare(photo)
    weights = models.get_model_weights(name).DEFAULT
    expected = weights.transforms()(Image.open(photo).convert("RGB"))[None]
    torch.testing.assert_close(prepared.inputs, expected, rtol=0, atol=1e-6)
    with torch.inference_mode():
        torch.testing.assert_close(classifier.model(prepared.inputs), model(expected))
    assert not classifier.model.training
    assert classifier.classes == tuple(weights.meta["categories"])
    assert classifier.name(281) == "tabby"


def test_every_classifier_has_weights_with_what_is_read_of_them(models: Any) -> None:
    for name in models.list_models(module=models):
        assert models.get_model_weights(name).DEFAULT.meta["categories"]
        for entry in models.get_model_weights(name):
            transform = entry.transforms()
            assert len(transform.mean) == len(transform.std) == 3
            assert len(entry.meta["categories"] or ()) == (0 if entry.name == "IMAGENET1K_FEATURES" else 1000)
            digits = entry.url.rpartition("-")[2].partition(".")[0]
            assert ours._recognise({entry.name: entry}, digits + "0" * 56) is entry


def test_the_picture_is_what_the_network_saw(tmp_path: Path, photo: str) -> None:
    saved(tmp_path / "net.pth", "resnet18")
    prepared = load("ResNet18", str(tmp_path / "net.pth")).prepare(photo)
    resized = Image.open(photo).resize((256 * 120 // 90, 256), Image.Resampling.BILINEAR)
    left, top = round((resized.width - 224) / 2), 16
    rgb = np.asarray(resized)[top : top + 224, left : left + 224]
    np.testing.assert_array_equal(prepared.picture, rgb)
    red, seen = prepared.to_original(prepared.picture[..., 0].astype(np.float32))
    assert red.shape == (90, 120)
    assert 0.5 < seen.mean() < 0.65
    assert np.abs(red - prepared.original[..., 0])[seen].max() < 4


def test_the_number_of_classes_is_the_checkpoints(tmp_path: Path) -> None:
    model = saved(tmp_path / "net.pth", "mobilenet_v3_small", num_classes=7)
    classifier = load("mobilenet_v3_small", str(tmp_path / "net.pth"))
    assert classifier.load_warning is None
    assert classifier.classes is None
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(classifier.model(image), model(image))
    message = refused(UsageError, "mobilenet_v3_small", str(tmp_path / "net.pth"), options={"num_classes": 10})
    assert "num_classes=10" in message
    assert "has 7 classes" in message


def test_official_files_are_known_by_their_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photo: str, models: Any
) -> None:
    """Another generation of weights has other transforms; Inception wants its input otherwise; ViT another size."""
    model = saved(tmp_path / "net.pth", "resnet50")
    digits = models.ResNet50_Weights.IMAGENET1K_V1.url.rpartition("-")[2].partition(".")[0]
    monkeypatch.setattr("camkit.models.checkpoint.hash_files", lambda *_: digits + "0" * 56)
    prepared = load("resnet50", str(tmp_path / "net.pth")).prepare(photo)
    expected = models.ResNet50_Weights.IMAGENET1K_V1.transforms()(Image.open(photo))[None]
    torch.testing.assert_close(prepared.inputs, expected, rtol=0, atol=1e-6)
    with torch.inference_mode():
        assert model(expected).shape == (1, 1000)
    assert ours._implied("inception_v3", models.Inception_V3_Weights.DEFAULT) == {"transform_input": True}
    assert ours._implied("vit_b_16", models.ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1) == {"image_size": 384}


def test_weights_may_be_chosen(tmp_path: Path, photo: str) -> None:
    saved(tmp_path / "net.pth", "resnet50")
    shapes = {}
    for wanted in ("IMAGENET1K_V1", "ResNet50_Weights.IMAGENET1K_V2", None):
        options = {"weights": wanted} if wanted else {}
        prepared = load("resnet50", str(tmp_path / "net.pth"), options=options).prepare(photo)
        shapes[wanted] = prepared.geometry.scale_y
    assert shapes["IMAGENET1K_V1"] == pytest.approx(90 / 256, rel=0.01)
    assert shapes["ResNet50_Weights.IMAGENET1K_V2"] == shapes[None] == pytest.approx(90 / 232, rel=0.01)
    assert "it has IMAGENET1K_V1, IMAGENET1K_V2" in refused(UsageError, "resnet50", None, options={"weights": "V9"})
    assert "has no weights" in refused(UsageError, "vgg16", None, options={"weights": "IMAGENET1K_FEATURES"})


def test_another_input_size(tmp_path: Path, photo: str) -> None:
    saved(tmp_path / "net.pth", "vit_b_32", image_size=96, num_classes=3)
    classifier = load("vit_b_32", str(tmp_path / "net.pth"), options={"image_size": 96})
    assert classifier.load_warning is None
    prepared = classifier.prepare(photo)
    assert prepared.inputs.shape == (1, 3, 96, 96)
    with torch.inference_mode():
        assert classifier.model(prepared.inputs).shape == (1, 3)


def test_names_in_old_densenet_files(tmp_path: Path) -> None:
    """The published files still have names such as denselayer1.norm.1.weight."""
    state_dict = saved(tmp_path / "net.pth", "densenet121").state_dict()
    old = {key.replace("norm1", "norm.1").replace("conv2", "conv.2"): value for key, value in state_dict.items()}
    assert old.keys() != state_dict.keys()
    torch.save(old, tmp_path / "old.pth")
    classifier = load("densenet121", str(tmp_path / "old.pth"))
    assert classifier.load_warning is None
    torch.testing.assert_close(classifier.model.state_dict(), state_dict, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("fcn_resnet50", "labels pixels"),
        ("maskrcnn_resnet50_fpn", "finds boxes"),
        ("r3d_18", "takes clips"),
        ("raft_small", "pairs of images"),
        ("quantized_resnet18", "take torchvision:resnet18"),
        ("resnet19", "closest: resnet18"),
        ("nothing like it", "torchvision.models.list_models()"),
    ],
)
def test_names_that_are_no_classifiers(name: str, says: str) -> None:
    message = refused(UsageError, name, None, pretrained=False)
    assert says in message
    assert name in message


@pytest.mark.parametrize("options", [{"nope": 1}, {"num_classes": "many"}])
@pytest.mark.parametrize("pretrained", [True, False])
def test_options_that_do_not_fit(options: dict[str, Any], pretrained: bool) -> None:
    message = refused(UsageError, "resnet18", None, options=options, pretrained=pretrained)
    assert f"--cfg-options {next(iter(options))}={next(iter(options.values()))} doesn't fit" in message


def test_structure_alone_needs_no_weights() -> None:
    classifier = load("resnet18", None, pretrained=False)
    assert classifier.checkpoint is None


class TestTorchvisionsOwnWeights:
    """They are loaded, or an error says why not; the model never has random weights unasked."""

    @pytest.fixture(autouse=True)
    def hub(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
        return tmp_path / "hub" / "checkpoints"

    def test_a_download_that_fails_says_what_to_do(
        self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        def nowhere(*_: object, **__: object) -> None:
            raise OSError("no network")

        monkeypatch.setattr("torch.hub.download_url_to_file", nowhere)
        message = refused(CheckpointError, "resnet18", None)
        assert "https://download.pytorch.org/models/resnet18-f37072fd.pth (no network)" in message
        assert "give the file as CHECKPOINT" in message
        assert capfd.readouterr() == ("", "")

    def test_they_are_taken_where_there_is_no_checkpoint(self, hub: Path, models: Any) -> None:
        model = saved(hub / "resnet18-f37072fd.pth", "resnet18")
        classifier = load("resnet18", None)
        torch.testing.assert_close(classifier.model.state_dict(), model.state_dict(), rtol=0, atol=0)
        assert classifier.checkpoint is not None
        assert classifier.checkpoint.source == models.ResNet18_Weights.DEFAULT.url
        digest = hashlib.sha256((hub / "resnet18-f37072fd.pth").read_bytes()).hexdigest()
        assert classifier.checkpoint.sha256 == digest

    def test_a_head_that_would_be_random_is_refused(self) -> None:
        message = refused(UsageError, "resnet18", None, options={"num_classes": 10})
        assert "num_classes=10 doesn't fit torchvision's weights" in message
        assert "give the CHECKPOINT" in message
