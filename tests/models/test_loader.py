"""Loaders: preprocessing in two halves gives exactly what preparing one image gives."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from camkit.models import pillow
from camkit.models.classifier import Classifier
from camkit.models.loader import FloatLoader, PillowLoader, WholeLoader, choose_loader, described
from camkit.models.pillow import Normalisation

CPU = torch.device("cpu")
NORMALISATION = Normalisation((0.5,) * 3, (0.25,) * 3)


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    """Pictures of many kinds and sizes."""
    random = np.random.default_rng(0)
    colours = Image.fromarray(random.integers(0, 256, (90, 130, 3), dtype=np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    colours.save(tmp_path / "plain.png")
    colours.save(tmp_path / "turned.jpg", exif=turned)
    colours.resize((300, 500)).convert("L").save(tmp_path / "grey.png")
    colours.convert("CMYK").save(tmp_path / "cmyk.jpg")
    ImageOps.expand(colours, 200).save(tmp_path / "large.png")
    colours.resize((31, 17)).save(tmp_path / "small.png")
    return sorted(map(str, tmp_path.iterdir()))


def assert_exact(classifier: Classifier, images: list[str]) -> Any:
    """Check that the loader, in another process or not, gives what the classifier's own preparation does."""
    loader = classifier.loader()
    elsewhere = pickle.loads(pickle.dumps(loader))
    for path in images:
        try:
            expected = classifier.prepare(path)
        except Exception as error:  # noqa: BLE001 (the loader must refuse the same)
            with pytest.raises(type(error), match="."):
                loader.load(path)
            continue
        for each in (loader, elsewhere):
            pixels, size = each.load(path)
            assert torch.equal(loader.inputs(pixels[None]), expected.inputs)
            assert size == expected.original.shape[:2]
    return loader


@pytest.mark.frameworks
@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "tf_efficientnet_lite0"])
def test_timm(name: str, images: list[str]) -> None:
    from camkit.models.load import load

    loader = assert_exact(load(f"timm:{name}", pretrained=False), images)
    assert isinstance(loader, PillowLoader)
    assert loader.load(images[0]).pixels.dtype == torch.uint8


@pytest.mark.frameworks
@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0"])
def test_torchvision(name: str, images: list[str]) -> None:
    from camkit.models.load import load

    loader = assert_exact(load(f"torchvision:{name}", pretrained=False), images)
    assert isinstance(loader, PillowLoader)
    assert loader.load(images[0]).pixels.dtype == torch.uint8


@pytest.mark.frameworks
def test_transformers(tmp_path: Path, images: list[str]) -> None:
    import transformers

    from camkit.models.load import load

    folder = tmp_path / "model"
    config = transformers.ResNetConfig(hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], embedding_size=8, num_labels=3)
    transformers.ResNetForImageClassification(config).save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    loader = assert_exact(load(f"transformers:{folder}"), images)
    assert isinstance(loader, PillowLoader)


@pytest.mark.frameworks
def test_mmpretrain(images: list[str]) -> None:
    from camkit.models.load import load

    loader = assert_exact(load("resnet18_8xb32_in1k", pretrained=False), images)
    assert type(loader).__name__ == "PipelineLoader"
    assert loader.load(images[0]).pixels.dtype == torch.uint8


def halved(image: Image.Image) -> torch.Tensor:
    """A transform without a torchvision step."""
    values = np.array(image.resize((32, 32)))
    return (torch.from_numpy(values).permute(2, 0, 1) / 255 - 0.5) / 0.25


def test_a_transform_of_one_s_own_is_not_cut(images: list[str]) -> None:
    prepare = partial(pillow.prepare, transform=halved, normalisation=NORMALISATION, device=CPU)
    loader = assert_exact(Classifier(torch.nn.Identity(), None, "softmax", "x", None, None, CPU, prepare), images)
    assert isinstance(loader, FloatLoader)


def test_any_preparation_will_do(images: list[str]) -> None:
    def prepare(path: str) -> Any:
        return pillow.prepare(path, halved, NORMALISATION, CPU)

    loader = choose_loader(prepare, CPU)
    assert isinstance(loader, WholeLoader)
    for path in images:
        pixels, size = loader.load(path)
        assert torch.equal(loader.inputs(pixels[None]), prepare(path).inputs)
        assert size == prepare(path).original.shape[:2]


class Composed:
    """Looks like torchvision's Compose, and its last step does more than normalise."""

    def __init__(self, steps: list[Callable[..., Any]]) -> None:
        self.transforms = steps

    def __call__(self, image: Any) -> Any:
        for step in self.transforms:
            image = step(image)
        return image


class Normalize:
    """Not torchvision's: it squares, too."""

    mean, std = (0.5,), (0.25,)

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        return ((tensor - 0.5) / 0.25).square()


def test_what_a_loader_gives_is_tried_before_it_is_believed(images: list[str]) -> None:
    def to_tensor(image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.array(image.resize((32, 32)))).permute(2, 0, 1) / 255

    transform = Composed([to_tensor, Normalize()])
    prepare = partial(pillow.prepare, transform=transform, normalisation=NORMALISATION, device=CPU)
    assert isinstance(choose_loader(prepare, CPU), FloatLoader)


def test_texts_of_preprocessings_hold_no_addresses() -> None:
    assert " at 0x" not in described(Composed([halved]))
    assert described(partial(pillow.prepare, transform=halved)).endswith("test_loader.halved")
