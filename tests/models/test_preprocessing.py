"""Mean, standard deviation and input size: by flag, from the file's training arguments, else the framework's."""

from __future__ import annotations

import re
from argparse import Namespace
from typing import Any

import pytest
import torch

from camkit.errors import UsageError
from camkit.models.load import load
from camkit.models.settings import Preprocessing
from tests.helpers.refusals import refusal
from tests.models.loading import VIT, VIT_OPTIONS, Loader, assert_same

pytestmark = [pytest.mark.frameworks, pytest.mark.filterwarnings("ignore::camkit.errors.EmptyMapWarning")]


def test_what_timms_training_was_told(loader: Loader, timm: Any, photo: str) -> None:
    from PIL import Image

    model = timm.create_model("resnet10t", num_classes=3)
    args = {
        "mean": [0.1, 0.2, 0.3],
        "std": [0.5],
        "input_size": [3, 64, 96],
        "crop_pct": 1.0,
        "interpolation": "bilinear",
    }
    for given in (args, Namespace(**args)):
        classifier = loader("timm:resnet10t", {"state_dict": model.state_dict(), "args": given})
        (note,) = classifier.notes
        assert note.startswith("preprocessing as in its training: size 64x96, mean 0.1 0.2 0.3, std 0.5 0.5 0.5, ")
        assert note.endswith("interpolation bilinear, crop_pct 1.0")
        transform = timm.data.create_transform(**timm.data.resolve_data_config(args, model=model))
        inputs = classifier.prepare(photo).inputs
        assert inputs.shape == (1, 3, 64, 96)
        torch.testing.assert_close(inputs[0], transform(Image.open(photo)), rtol=0, atol=1e-6)
        assert_same(classifier, model, "layer4", inputs)


@pytest.mark.parametrize(
    "args", [{"mean": "x", "std": [1, 2], "input_size": "big"}, {"mean": None}, "text", {"crop_pct": 7}]
)
def test_arguments_that_mean_nothing_to_timm(args: object, loader: Loader, timm: Any) -> None:
    state = timm.create_model("resnet10t").state_dict()
    assert loader("timm:resnet10t", {"state_dict": state, "args": args}).notes == ()


@pytest.mark.parametrize("config", ["timm:resnet10t", "torchvision:resnet18"])
def test_flags_come_first(config: str, loader: Loader, timm: Any, models: Any, photo: str) -> None:
    model = timm.create_model("resnet10t") if "timm" in config else models.resnet18()
    content = {"state_dict": model.state_dict(), "args": {"mean": [0.9] * 3, "input_size": [3, 32, 32]}}
    wanted = Preprocessing(mean=(0.5,), std=(0.25, 0.25, 0.5), input_size=(64,))
    prepared = loader(config, content, preprocessing=wanted).prepare(photo)
    assert prepared.inputs.shape == (1, 3, 64, 64)
    shown = torch.from_numpy(prepared.picture).permute(2, 0, 1).float() / 255
    expected = (shown - 0.5) / torch.tensor([0.25, 0.25, 0.5])[:, None, None]
    torch.testing.assert_close(prepared.inputs[0], expected, rtol=0, atol=1e-5)


def test_a_size_that_is_not_square(loader: Loader, timm: Any, photo: str) -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=(96, 160), num_classes=3, **VIT)
    for options, wanted in ((["img_size=(96,160)"], Preprocessing()), ([], Preprocessing(input_size=(96, 160)))):
        classifier = loader(
            "timm:vit_tiny_patch16_224", model.state_dict(), *VIT_OPTIONS, *options, preprocessing=wanted
        )
        assert classifier.model.patch_embed.grid_size == (6, 10)  # type: ignore[union-attr]
        inputs = classifier.prepare(photo).inputs
        assert inputs.shape == (1, 3, 96, 160)
        assert_same(classifier, model, "patch_embed.proj", inputs)


def test_position_embeddings_that_timm_resamples_are_said(loader: Loader, timm: Any) -> None:
    state = timm.create_model("vit_tiny_patch16_224", img_size=96, num_classes=3, **VIT).state_dict()
    notes = loader("timm:vit_tiny_patch16_224", state, *VIT_OPTIONS).notes
    assert notes == ("resampled to the model's size by its framework: pos_embed (1, 37, 48) to (1, 197, 48)",)


@pytest.mark.parametrize("name", ["inception_v3", "googlenet"])
def test_transform_input_is_said_and_can_be_set(name: str, loader: Loader, models: Any) -> None:
    layer = "Mixed_5d.branch1x1" if name == "inception_v3" else "inception5b.branch1"
    images = torch.randn(1, 3, 96, 96)
    for transform_input in (False, True):
        model = models.get_model(name, init_weights=False, num_classes=3, transform_input=transform_input)
        options = ["transform_input=True"] if transform_input else []
        classifier = loader(f"torchvision:{name}", model.state_dict(), *options)
        assert classifier.notes[0].startswith(f"transform_input={transform_input}")
        assert_same(classifier, model, layer, images)


@pytest.mark.parametrize(
    ("config", "wanted", "says"),
    [
        ("torchvision:resnet18", Preprocessing(input_size=(64, 96)), "crop squares"),
        ("torchvision:resnet18", Preprocessing(input_size=(1, 64, 64)), "three channels"),
        ("timm:resnet18", Preprocessing(input_size=(5, 64, 64)), "in_chans=5 can't be prepared"),
        ("transformers:x", Preprocessing(mean=(0.5,)), "--mean is for timm and torchvision"),
        ("resnet18_8xb32_in1k", Preprocessing(input_size=(64,)), "--input-size is for timm and torchvision"),
    ],
)
def test_what_cannot_be_had(config: str, wanted: Preprocessing, says: str) -> None:
    assert says in refusal(load, UsageError, config, pretrained=False, preprocessing=wanted)


@pytest.mark.parametrize(
    "wrong", [{"mean": (1.0, 2.0)}, {"std": (0.0,)}, {"input_size": (0, 3)}, {"input_size": (1, 2, 3, 4)}]
)
def test_values_that_are_none(wrong: dict[str, Any]) -> None:
    refusal(Preprocessing, UsageError, **wrong)


@pytest.mark.parametrize("config", ["timm:resnet10t", "torchvision:resnet18"])
def test_several_labels_at_once(config: str, loader: Loader, timm: Any, models: Any) -> None:
    model = timm.create_model("resnet10t", num_classes=3) if "timm" in config else models.resnet18(num_classes=3)
    logits = torch.tensor([2.0, 0.0, -1.0])
    assert loader(config, model.state_dict()).probability(logits, 0) == pytest.approx(float(logits.softmax(0)[0]))
    classifier = loader(config, model.state_dict(), activation="sigmoid")
    assert classifier.probability(logits, 0) == pytest.approx(float(logits.sigmoid()[0]))


@pytest.mark.parametrize("numbers", [(123.675, 116.28, 103.53), (-0.1,), (float("nan"),), (float("inf"),)])
def test_numbers_of_other_colours_are_refused(numbers: tuple[float, ...]) -> None:
    for flag in ("mean", "std"):
        message = refusal(Preprocessing, UsageError, **{flag: numbers})
        assert re.search(f"--{flag} is of colours in 0 to 1, got .*; divide numbers for 0 to 255 by 255", message)


def test_torchvisions_script_is_followed_whatever_the_network(loader: Loader, models: Any, photo: str) -> None:
    """Its evaluation preset, with the script's own defaults: not what the network's published weights use."""
    from PIL import Image
    from torchvision.transforms import functional

    model = models.efficientnet_b0(num_classes=3)
    asked: list[tuple[dict[str, str], str]] = [({}, "bilinear"), ({"interpolation": "bicubic"}, "bicubic")]
    for told, mode in asked:
        args = Namespace(val_crop_size=64, val_resize_size=72, **told)
        made = loader("torchvision:efficientnet_b0", {"model": model.state_dict(), "args": args}).prepare(photo).inputs
        with Image.open(photo) as image:
            small = functional.resize(image.convert("RGB"), [72], functional.InterpolationMode(mode))
        expected = functional.to_tensor(functional.center_crop(small, [64, 64]))
        expected = functional.normalize(expected, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        torch.testing.assert_close(made[0], expected)
