"""The command as tests call it, and two tiny models that need no framework."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from camkit.cli.main import main
from camkit.models.classifier import Classifier
from camkit.models.pillow import Normalisation, prepare
from camkit.models.prepared import Prepared
from tests.cli.running import CLASSES, Run
from tests.helpers.networks import SmallCNN, SmallViT, seeded
from tests.helpers.pictures import write_photo


@pytest.fixture
def camkit(capsys: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    """Run ``camkit`` with some words."""

    def call(*words: object) -> Run:
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:  # argparse's way out
            code = int(stop.code or 0)
        printed = capsys.readouterr()
        return Run(code, printed.out, printed.err)

    return call


@pytest.fixture
def photo(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A picture of 90 x 120 with smooth colours."""
    return write_photo(tmp_path_factory.mktemp("photo") / "photo.png")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> dict[str, Classifier]:
    """CONFIG ``cnn`` and ``vit`` load tiny seeded networks, whatever CHECKPOINT and the other flags are.

    They have five classes and see the middle 64 x 64 pixels of a picture, at 32 x 32. No map of the CNN is empty.
    """
    classifiers = {
        "cnn": _classifier(seeded(SmallCNN(), 11), "cnn"),
        "vit": _classifier(seeded(SmallViT(size=(32, 32), declared=True)), "vit"),
    }
    monkeypatch.setattr("camkit.models.load.load", lambda config, *_, **__: classifiers[config])
    return classifiers


def _classifier(model: Any, source: str) -> Classifier:
    device = torch.device("cpu")

    def prepared(path: str) -> Prepared:
        return prepare(path, _transform, Normalisation((0.5,) * 3, (0.25,) * 3), device)

    return Classifier(model, CLASSES, "softmax", source, None, None, device, prepared)


def _transform(image: Image.Image) -> Tensor:
    left, top = (image.width - 64) // 2, (image.height - 64) // 2
    crop = image.crop((left, top, left + 64, top + 64)).resize((32, 32), Image.Resampling.BOX)
    return (torch.from_numpy(np.array(crop)).permute(2, 0, 1) / 255 - 0.5) / 0.25
