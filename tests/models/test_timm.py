"""timm's models: the numbers of timm itself, its names, and wrong names, options and weights."""

from __future__ import annotations

import json
import socket
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from camkit.errors import CamkitError, CheckpointError, UsageError
from camkit.models import demo
from camkit.models.timm import load
from tests.helpers.refusals import refusal
from tests.models.installed import installed

pytestmark = pytest.mark.frameworks


@pytest.fixture(scope="module", autouse=True)
def timm() -> Any:
    return installed("timm")


def saved(path: Path, name: str, **how: Any) -> Any:
    """timm's own model with seeded weights, which are written too."""
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = timm.create_model(name, **how).eval()
    if path.suffix == ".safetensors":
        save_file(model.state_dict(), path)
    else:
        torch.save({"state_dict": model.state_dict(), "epoch": 3}, path)
    return model


refused = partial(refusal, load)


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("resnet18", ".pth"),
        ("vit_tiny_patch16_224", ".safetensors"),
        pytest.param("swin_tiny_patch4_window7_224", ".pth", marks=pytest.mark.slow),
    ],
)
def test_the_same_numbers_as_timm_itself(name: str, suffix: str, tmp_path: Path, photo: str, timm: Any) -> None:
    path = tmp_path / f"net{suffix}"
    model = saved(path, name)
    classifier = load(name, str(path))
    assert classifier.load_warning is None
    assert classifier.source == f"timm:{name}"
    assert classifier.checkpoint is not None
    assert classifier.checkpoint.source == str(path)
    prepared = classifier.prepare(photo)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    expected = transform(Image.open(photo).convert("RGB"))[None]
    torch.testing.assert_close(prepared.inputs, expected, rtol=0, atol=1e-6)
    with torch.inference_mode():
        torch.testing.assert_close(classifier.model(prepared.inputs), model(expected))
    assert not classifier.model.training
    assert classifier.activation == "softmax"
    assert classifier.name(281) == "tabby, tabby cat"


def test_the_picture_is_what_the_network_saw(tmp_path: Path, photo: str) -> None:
    saved(tmp_path / "net.pth", "resnet18")
    prepared = load("resnet18", str(tmp_path / "net.pth")).prepare(photo)
    height = 235  # 224 / 0.95
    resized = Image.open(photo).resize((height * 120 // 90, height), Image.Resampling.BICUBIC)
    left, top = round((resized.width - 224) / 2), round((height - 224) / 2)
    rgb = np.asarray(resized)[top : top + 224, left : left + 224]
    assert prepared.picture.dtype == np.uint8
    np.testing.assert_array_equal(prepared.picture, rgb)
    np.testing.assert_array_equal(prepared.original, np.asarray(Image.open(photo)))
    red, seen = prepared.to_original(prepared.picture[..., 0].astype(np.float32))
    assert red.shape == (90, 120)
    assert 0.6 < seen.mean() < 0.75
    assert np.abs(red - prepared.original[..., 0])[seen].max() < 4


def test_trained_weights_find_the_cat(tmp_path: Path) -> None:
    """EfficientNet-Lite0's published weights under timm's own names and preprocessing."""
    from safetensors.torch import save_file
    from skimage import data

    weights = demo.convert_lite0(torch.load(demo.find_weights(), map_location="cpu", weights_only=True))
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, tmp_path / "lite0.safetensors")
    Image.fromarray(data.chelsea()).save(tmp_path / "cat.png")
    classifier = load("tf_efficientnet_lite0", str(tmp_path / "lite0.safetensors"))
    assert classifier.load_warning is None
    with torch.inference_mode():
        top = classifier.model(classifier.prepare(tmp_path / "cat.png").inputs)[0].topk(2).indices.tolist()
    assert {classifier.name(index) for index in top} == {"tiger cat", "Egyptian cat"}


def test_the_number_of_classes_is_the_checkpoints(tmp_path: Path) -> None:
    model = saved(tmp_path / "net.pth", "resnet18", num_classes=7)
    classifier = load("resnet18", str(tmp_path / "net.pth"))
    assert classifier.load_warning is None
    assert classifier.classes is None
    assert classifier.name(3) == "category 3"
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(classifier.model(image), model(image))
    same = load("resnet18", str(tmp_path / "net.pth"), options={"num_classes": 7})
    assert same.load_warning is None
    message = refused(UsageError, "resnet18", str(tmp_path / "net.pth"), options={"num_classes": 10})
    assert "--cfg-options num_classes=10" in message
    assert "has 7 classes" in message


def test_another_input_size_resizes_what_depends_on_it(tmp_path: Path, photo: str) -> None:
    """timm's own filter resamples position embeddings; the transform follows."""
    saved(tmp_path / "net.pth", "vit_tiny_patch16_224", num_classes=7)
    classifier = load("vit_tiny_patch16_224", str(tmp_path / "net.pth"), options={"img_size": 96})
    assert classifier.load_warning is None
    prepared = classifier.prepare(photo)
    assert prepared.inputs.shape == (1, 3, 96, 96)
    with torch.inference_mode():
        assert classifier.model(prepared.inputs).shape == (1, 7)


def test_a_part_of_a_checkpoint_is_refused(tmp_path: Path) -> None:
    model = saved(tmp_path / "net.pth", "resnet18")
    trunk = {key: value for key, value in model.state_dict().items() if not key.startswith("fc.")}
    torch.save(trunk, tmp_path / "trunk.pth")
    message = refused(CheckpointError, "resnet18", str(tmp_path / "trunk.pth"))
    assert "fc.weight (1000, 512) is missing; fc.bias (1000,) is missing" in message
    assert "--allow-partial" in message
    assert "fits none" in refused(CheckpointError, "vit_tiny_patch16_224", str(tmp_path / "net.pth"))


def test_structure_alone_needs_no_weights() -> None:
    classifier = load("resnet18", None, pretrained=False)
    assert classifier.checkpoint is None
    assert classifier.load_warning is None


def test_names_of_other_image_nets() -> None:
    classifier = load("convnext_atto", None, options={"num_classes": 11821}, pretrained=False)
    assert classifier.classes is not None
    assert len(classifier.classes) == 11821


def test_a_local_folder_brings_its_weights_and_names(tmp_path: Path, photo: str) -> None:
    """timm's own folder form, as its push to the hub writes it: nothing is fetched."""
    model = saved(tmp_path / "model.safetensors", "resnet18", num_classes=2)
    config = {"num_classes": 2, "input_size": [3, 64, 64], "mean": [0.5] * 3, "std": [0.25] * 3, "crop_pct": 1.0}
    described = {"pretrained_cfg": config, "label_names": ["a", "b"], "label_descriptions": {"a": "first", "b": "last"}}
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18", "num_classes": 2} | described))
    classifier = load(f"local-dir:{tmp_path}", None)
    assert classifier.classes == ("first", "last")
    assert classifier.checkpoint is not None
    assert classifier.checkpoint.source == f"local-dir:{tmp_path}"
    prepared = classifier.prepare(photo)
    assert prepared.inputs.shape == (1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(classifier.model(prepared.inputs), model(prepared.inputs))
    message = refused(UsageError, f"local-dir:{tmp_path}", None, options={"num_classes": 3})
    assert "num_classes=3 doesn't fit" in message


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resnt18", "closest: resnet18"),
        ("resnet18.nope", "resnet18.a1_in1k"),
        ("timm/resnet18.a1_in1k", "timm:hf-hub:OWNER/NAME"),
        ("nothing like it", "timm.list_models()"),
        ("vit_small_patch14_dinov2", "no classifier"),
    ],
)
def test_names_that_are_none(name: str, says: str) -> None:
    message = refused(UsageError, name, None, pretrained=False)
    assert says in message
    assert name in message


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"nope": 1}, "unexpected keyword argument 'nope'"),
        ({"num_classes": "many"}, "--cfg-options num_classes=many"),
        ({"pretrained": True}, "leave CHECKPOINT out"),
        ({"checkpoint_path": "x.pth"}, "as CHECKPOINT"),
        ({"in_chans": 4}, "three channels, or of one with in_chans=1"),
        ({"features_only": True}, "no classes"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], says: str) -> None:
    assert says in refused(UsageError, "resnet18", None, options=options, pretrained=False)


class TestTimmsOwnWeights:
    """They are loaded, or an error says why not; the model never has random weights unasked."""

    @pytest.fixture(autouse=True)
    def no_network(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        def nowhere(*_: object, **__: object) -> None:
            raise socket.gaierror(-2, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", nowhere)
        monkeypatch.setattr("camkit.models.timm.getproxies", dict)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    def test_a_download_that_fails_says_what_to_do(self, capfd: pytest.CaptureFixture[str]) -> None:
        from huggingface_hub import constants

        before = constants.HF_HUB_OFFLINE
        message = refused(CheckpointError, "resnet18", None)
        assert "https://huggingface.co/timm/resnet18.a1_in1k" in message
        assert "give the file as CHECKPOINT" in message
        assert capfd.readouterr() == ("", "")
        assert before == constants.HF_HUB_OFFLINE

    def test_a_hub_name_that_cannot_be_reached(self, tmp_path: Path) -> None:
        assert "hf-hub:timm/resnet18.a1_in1k" in refused(CheckpointError, "hf-hub:timm/resnet18.a1_in1k", None)
        saved(tmp_path / "net.pth", "resnet18")
        message = refused(CamkitError, "hf-hub:timm/resnet18.a1_in1k", str(tmp_path / "net.pth"))
        assert message.startswith("can't build timm's hf-hub:timm/resnet18.a1_in1k")
        assert "Config file not found" in refused(CheckpointError, f"local-dir:{tmp_path / 'none'}", None)

    def test_they_are_taken_where_there_is_no_checkpoint(self, monkeypatch: pytest.MonkeyPatch, timm: Any) -> None:
        model = timm.create_model("resnet18")
        monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: model.state_dict())
        classifier = load("resnet18.a1_in1k", None)
        torch.testing.assert_close(classifier.model.state_dict(), model.state_dict(), rtol=0, atol=0)
        assert classifier.checkpoint is not None
        assert classifier.checkpoint.source == "https://huggingface.co/timm/resnet18.a1_in1k"
        assert classifier.checkpoint.sha256 is None

    def test_a_head_that_would_be_random_is_refused(self) -> None:
        message = refused(UsageError, "resnet18", None, options={"num_classes": 10})
        assert "have 1000 classes, not num_classes=10; give the CHECKPOINT" in message

    def test_bad_options_are_not_blamed_on_the_weights(self) -> None:
        assert "unexpected keyword argument 'nope'" in refused(UsageError, "resnet18", None, options={"nope": 1})

    def test_architectures_without_weights(self) -> None:
        assert "timm has no weights for coatnet_0_224; give CHECKPOINT" in refused(
            CheckpointError, "coatnet_0_224", None
        )
