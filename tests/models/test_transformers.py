"""transformers' image classifiers from folders: its own numbers, processors and names, and folders without one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from camkit.errors import CamkitError, CheckpointError, UsageError
from camkit.models.checkpoint import read_checkpoint
from camkit.models.transformers import load
from tests.helpers.refusals import refusal
from tests.models.installed import installed

pytestmark = pytest.mark.frameworks

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 64,
    "patch_size": 16,
}
NAMES = {0: "ant", 1: "bee", 2: "cat"}


@pytest.fixture(scope="module", autouse=True)
def transformers() -> Any:
    transformers = installed("transformers")
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    return transformers


def write(folder: Path, **settings: Any) -> Any:
    """A tiny ViT with its processor, as users save them; the model."""
    import transformers

    torch.manual_seed(0)
    config = transformers.ViTConfig(**TINY, **({"id2label": NAMES} | settings))
    model = transformers.ViTForImageClassification(config).eval()
    model.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return model


def refused(kind: type[CamkitError], folder: object, checkpoint: str | None = None, **how: Any) -> str:
    return refusal(load, kind, str(folder), checkpoint, **how)


def test_the_same_numbers_as_transformers_itself(
    tmp_path: Path, photo: str, capfd: pytest.CaptureFixture[str], transformers: Any
) -> None:
    write(tmp_path / "vit")
    capfd.readouterr()
    transformers.utils.logging.enable_progress_bar()
    classifier = load(str(tmp_path / "vit"), None)
    prepared = classifier.prepare(photo)
    assert transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    assert capfd.readouterr() == ("", "")
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "vit")
    model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "vit")
    expected = processor(Image.open(photo).convert("RGB"), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(prepared.inputs, expected, rtol=0, atol=1e-6)
    with torch.inference_mode():
        torch.testing.assert_close(classifier.model(prepared.inputs).logits, model(expected).logits)
    assert not classifier.model.training
    assert classifier.classes == ("ant", "bee", "cat")
    assert classifier.activation == "softmax"
    assert classifier.load_warning is None
    weights = tmp_path / "vit" / "model.safetensors"
    assert classifier.checkpoint is not None
    assert classifier.checkpoint.source == str(weights)
    assert classifier.checkpoint.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_the_picture_is_what_the_network_saw(tmp_path: Path, photo: str) -> None:
    write(tmp_path / "vit")
    prepared = load(str(tmp_path / "vit"), None).prepare(photo)
    known = np.asarray(Image.open(photo).resize((64, 64), Image.Resampling.BILINEAR))
    assert prepared.picture.shape == (64, 64, 3)
    assert np.abs(prepared.picture.astype(int) - known).max() <= 1
    green, seen = prepared.to_original(prepared.picture[..., 1].astype(np.float32))
    assert green.shape == (90, 120)
    assert seen.all()
    assert np.abs(green - prepared.original[..., 1]).max() < 4


SQUARE = {"height": 64, "width": 64}
PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("ViTImageProcessor", {"size": SQUARE}),
    "ImageNet": ("ConvNextImageProcessor", {"size": {"shortest_edge": 64}, "crop_pct": 0.9}),
    "not normalised": ("ViTImageProcessor", {"size": SQUARE, "do_normalize": False}),
    "offset, twice": (
        "EfficientNetImageProcessor",
        {"size": SQUARE, "rescale_offset": True, "rescale_factor": 1 / 127.5, "include_top": True},
    ),
    "BGR": ("MobileViTImageProcessor", {"size": {"shortest_edge": 72}, "crop_size": SQUARE}),
}


@pytest.mark.parametrize("kind", PROCESSORS)
def test_every_way_to_normalise_is_undone(kind: str, tmp_path: Path, photo: str, transformers: Any) -> None:
    write(tmp_path / "vit")
    name, settings = PROCESSORS[kind]
    processor = getattr(transformers, name)(**settings)
    processor.save_pretrained(tmp_path / "vit")
    prepared = load(str(tmp_path / "vit"), None).prepare(photo)
    own = processor(Image.open(photo).convert("RGB"), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(prepared.inputs, own, rtol=0, atol=1e-6)
    back, seen = prepared.to_original(prepared.picture.mean(axis=2).astype(np.float32))
    assert np.abs(back - prepared.original.mean(axis=2))[seen].max() < 5
    # Channels are where they belong: to the right there is less red and more blue.
    red, green, blue = prepared.picture[:, -8:].mean(axis=(0, 1)) - prepared.picture[:, :8].mean(axis=(0, 1))
    assert red < -50
    assert abs(green) < 5
    assert blue > 50


def test_no_network_for_a_folder(tmp_path: Path, photo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    write(tmp_path / "vit")

    def nowhere(*_: object, **__: object) -> None:
        raise AssertionError("asked the network")

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    monkeypatch.setattr(socket.socket, "connect", nowhere)
    load(str(tmp_path / "vit"), None).prepare(photo)


@pytest.mark.parametrize("form", ["shards", "bin", "half"])
def test_other_forms_of_weights(form: str, tmp_path: Path) -> None:
    model = write(tmp_path / "vit")
    single = tmp_path / "vit" / "model.safetensors"
    if form == "shards":
        single.unlink()
        model.save_pretrained(tmp_path / "vit", max_shard_size="50KB")
        assert len(list((tmp_path / "vit").glob("model-*.safetensors"))) > 1
    elif form == "bin":
        torch.save(read_checkpoint(str(single)).state_dict, tmp_path / "vit" / "pytorch_model.bin")
        single.unlink()
    else:
        model.half().save_pretrained(tmp_path / "vit")
        model.float()
    (tmp_path / "vit" / "model.fp16.safetensors").write_bytes(b"a variant that nobody asked for")
    classifier = load(str(tmp_path / "vit"), None)
    assert classifier.load_warning is None
    assert next(classifier.model.parameters()).dtype == torch.float32
    torch.testing.assert_close(classifier.model.state_dict(), model.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("names", ["the file's", "the model's"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_checkpoints_beside_the_folder(names: str, suffix: str, tmp_path: Path) -> None:
    """What save_pretrained writes and what state_dict() says may have different names."""
    from safetensors.torch import save_file

    model = write(tmp_path / "trained", num_labels=5, id2label=None, label2id=None)
    write(tmp_path / "vit")
    path = tmp_path / f"net{suffix}"
    stored = read_checkpoint(str(tmp_path / "trained" / "model.safetensors")).state_dict
    tensors = dict(stored if names == "the file's" else model.state_dict())
    save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    classifier = load(str(tmp_path / "vit"), str(path))
    assert classifier.load_warning is None
    assert classifier.classes is None  # five classes, and three names
    torch.testing.assert_close(classifier.model.state_dict(), model.state_dict(), rtol=0, atol=0)
    assert "has 5 classes" in refused(UsageError, tmp_path / "vit", str(path), options={"num_classes": 10})


def test_labels_that_transformers_made_up(tmp_path: Path) -> None:
    write(tmp_path / "vit", id2label=None, label2id=None, num_labels=4)
    assert load(str(tmp_path / "vit"), None).classes is None


def test_several_labels_at_once_are_sigmoids(tmp_path: Path) -> None:
    write(tmp_path / "vit", problem_type="multi_label_classification")
    assert load(str(tmp_path / "vit"), None).activation == "sigmoid"


def test_settings_may_be_overridden(tmp_path: Path) -> None:
    write(tmp_path / "vit")
    classifier = load(str(tmp_path / "vit"), None, options={"num_classes": 9, "num_hidden_layers": 1}, pretrained=False)
    assert classifier.model.config.num_labels == 9  # type: ignore[union-attr]
    assert classifier.classes is None
    assert classifier.checkpoint is None
    assert len(list(classifier.model.vit.layers)) == 1  # type: ignore[union-attr, arg-type]
    message = refused(UsageError, tmp_path / "vit", options={"num_label": 9})
    assert "--cfg-options num_label=9 is no setting" in message
    assert "closest: num_labels" in message


def test_a_backbone_without_a_head_is_refused(tmp_path: Path) -> None:
    model = write(tmp_path / "vit")
    model.vit.save_pretrained(tmp_path / "vit")
    message = refused(CheckpointError, tmp_path / "vit")
    assert "classifier.weight (3, 32) is missing" in message
    assert "--allow-partial" in message


def test_folders_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "run" / "checkpoint-500")
    monkeypatch.chdir(tmp_path)
    message = refused(UsageError, "google/vit-base-patch16-224")
    assert "hf download google/vit-base-patch16-224 --local-dir vit-base-patch16-224" in message
    assert "closest: run;" in refused(UsageError, tmp_path / "runs")
    assert f"there is one in {tmp_path / 'run' / 'checkpoint-500'}" in refused(UsageError, tmp_path / "run")
    (tmp_path / "file").touch()
    assert "no folder" in refused(UsageError, tmp_path / "file")


def test_folders_that_lack_something(tmp_path: Path, photo: str) -> None:
    folder = tmp_path / "vit"
    write(folder)
    (folder / "preprocessor_config.json").unlink()
    message = refusal(load(str(folder), None).prepare, UsageError, photo)
    assert "no preprocessor_config.json" in message
    assert "copy that of the model" in message
    (folder / "preprocessor_config.json").write_text("{")
    message = refusal(load(str(folder), None).prepare, CamkitError, photo)
    assert message.startswith("can't load the image processor")
    (folder / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{broken")
    assert "damaged" in refused(CheckpointError, folder)
    (folder / "model.safetensors").unlink()
    assert "give CHECKPOINT" in refused(CheckpointError, folder)
    (folder / "config.json").write_text("{")
    assert "can't read" in refused(UsageError, folder)


def test_models_that_classify_no_images(tmp_path: Path, transformers: Any) -> None:
    transformers.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1).save_pretrained(
        tmp_path / "bert"
    )
    message = refused(UsageError, tmp_path / "bert", pretrained=False)
    assert "no image classifier" in message
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps({"model_type": "no-such"}))
    assert "can't read" in refused(UsageError, tmp_path / "other")


@pytest.mark.parametrize("kind", ["DeiTForImageClassification", "DeiTForImageClassificationWithTeacher"])
def test_of_several_heads_the_one_that_was_saved(kind: str, tmp_path: Path, transformers: Any) -> None:
    torch.manual_seed(0)
    model = getattr(transformers, kind)(transformers.DeiTConfig(**TINY, num_labels=4))
    model.save_pretrained(tmp_path)
    classifier = load(str(tmp_path), None)
    assert type(classifier.model).__name__ == kind
    assert classifier.load_warning is None
    torch.testing.assert_close(classifier.model.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_code_in_a_folder_is_not_run(tmp_path: Path) -> None:
    folder = tmp_path / "vit"
    write(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'pwned')!r}, 'w')")
    refused(UsageError, folder)
    assert not (tmp_path / "pwned").exists()
