"""The networks that camkit is compared on: MMPretrain's own configs, seeded weights, real photographs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from benchmarks.networks import normalised, randomise
from benchmarks.networks import photographs as photographs
from camkit.models.demo import LITE0_CONFIG, convert_lite0, find_weights


@dataclass(frozen=True)
class Spec:
    """Which network, and which of its layers a map is asked for at."""

    config: str  # a name MMPretrain knows
    default_layer: str  # what vis_cam documents for target_layers=None
    layers: tuple[str, ...]  # others that its documentation names
    pair: tuple[str, str]  # two layers at once, in the order in which they run
    categories: tuple[int, int] = (281, 238)  # one per photograph, each with some evidence for it in every layer above
    extra_tokens: int = 0
    size: int = 224
    seed: int = 20240  # another where this one leaves nothing of the map of the photograph's own class
    qk_gain: float = 1.0  # below 1 where the network scales its attention up and would look at one token alone


TRAINED = "lite0"

ZOO = {
    "resnet50": Spec(
        "resnet50_8xb32_in1k",
        "backbone.layer4.2.bn3",
        ("backbone.layer4.2", "backbone.layer4.2.conv1"),
        ("backbone.layer3.5", "backbone.layer4.2"),
    ),
    "mobilenet_v3": Spec(
        "mobilenet-v3-large_8xb128_in1k",
        "backbone.layer16.bn",
        ("backbone.layer16",),
        ("backbone.layer12", "backbone.layer16"),
    ),
    "swin_t": Spec(
        "swin-tiny_16xb64_in1k",
        "backbone.norm3",
        ("backbone.norm3",),
        ("backbone.stages.2.blocks.5.norm2", "backbone.norm3"),
    ),
    "vit_b_384": Spec(
        "vit-base-p16_in21k-pre_3rdparty_in1k-384px",
        "backbone.layers.11.ln1",
        ("backbone.layers.11.ln1",),
        ("backbone.layers.9.ln1", "backbone.layers.11.ln1"),
        extra_tokens=1,
        size=384,
    ),
    "t2t_vit_14": Spec(
        "t2t-vit-t-14_8xb64_in1k",
        "backbone.encoder.13.ln1",
        ("backbone.encoder.12.ln1",),
        ("backbone.encoder.10.ln1", "backbone.encoder.12.ln1"),
        extra_tokens=1,
        seed=20244,
        qk_gain=0.2,
    ),
    "deit_s": Spec(
        "deit-small_4xb256_in1k",
        "backbone.layers.11.ln1",
        ("backbone.layers.10.ln1",),
        ("backbone.layers.9.ln1", "backbone.layers.11.ln1"),
        extra_tokens=1,
    ),
    "deit_s_distilled": Spec(
        "deit-small-distilled_3rdparty_in1k",
        "backbone.layers.11.ln1",
        ("backbone.layers.10.ln1",),
        ("backbone.layers.9.ln1", "backbone.layers.11.ln1"),
        categories=(285, 238),
        extra_tokens=2,
        seed=20246,
    ),
    TRAINED: Spec(
        "tf_efficientnet_lite0",
        "model.bn2",
        ("model.blocks.6", "model.blocks.4"),
        ("model.blocks.4", "model.blocks.6"),
        categories=(282, 967),
    ),
}


@cache
def network(name: str) -> nn.Module:
    """The network, in eval mode, with the same weights in every session. It is shared: put back what you change."""
    with torch.random.fork_rng():
        torch.manual_seed(ZOO[name].seed)
        model = _trained_lite0() if name == TRAINED else _randomised(name)
    return model.eval()


def images(name: str, count: int) -> Tensor:
    """The first ``count`` photographs, ``(count, 3, size, size)``, normalised as the network expects."""
    return _normalised(network(name), name)[:count].contiguous()


def layer(name: str, dotted: str) -> nn.Module:
    """The module behind a dotted name."""
    return network(name).get_submodule(dotted)


def _normalised(model: nn.Module, name: str) -> Tensor:
    mean, std = model.get_buffer("data_preprocessor.mean"), model.get_buffer("data_preprocessor.std")
    return normalised(ZOO[name].size, mean, std)


def _trained_lite0() -> nn.Module:
    from mmengine.config import Config
    from mmpretrain import get_model

    model: nn.Module = get_model(Config.fromstring(LITE0_CONFIG, ".py"), pretrained=False)
    weights = torch.load(find_weights(), weights_only=True)
    missing, unexpected = model.load_state_dict(convert_lite0(weights), strict=False)
    assert not missing, missing
    assert not unexpected, unexpected
    return model


def _randomised(name: str) -> nn.Module:
    from mmpretrain import get_model

    model: nn.Module = get_model(ZOO[name].config, pretrained=False)
    for module in model.modules():
        randomise(module)
    # Layers that own loose parameters: class tokens, position embeddings, Swin's bias tables.
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith(("_token", "pos_embed", "relative_position_bias_table")):
            nn.init.normal_(parameter, std=0.5)
        if parameter_name.endswith("qkv.weight"):
            queries_and_keys = parameter.data[: 2 * parameter.shape[0] // 3]
            queries_and_keys *= ZOO[name].qk_gain
    _calibrate(model, _normalised(model, name))
    return model


@torch.no_grad()
def _calibrate(model: nn.Module, batch: Tensor) -> None:
    """Give every batch norm the photographs' own statistics, off by as much as a trained one's are."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    with _measuring(model.eval(), norms):
        model(batch)
    for norm in norms:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean += 0.2 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
        norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.8, 1.25)


@contextmanager
def _measuring(model: nn.Module, norms: list[nn.BatchNorm2d]) -> Iterator[None]:
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over all batches, here one
        norm.train()
    yield
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
