"""The networks that are timed, with seeded random weights.

MMPretrain's, torchvision's where MMPretrain isn't installed, and one of timm's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import Tensor, nn

from camkit.models.environment import quiet
from camkit.models.torchvision_shim import ensure_torchvision

Layout = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Source:
    """Where one framework has a network, and what its layers are called there.

    Attributes:
        name: the framework's name of the network.
        late: its last usual target layer.
        early: a layer behind which most of the network lies.
        four: four layers from early to late, for maps that are fused; () where none are timed.
        layout: from the layers' output to (B, C, H, W), for peers that have to be told; None where it is that.
    """

    name: str
    late: str
    early: str
    four: tuple[str, ...] = ()
    layout: Layout | None = None


@dataclass(frozen=True)
class Network:
    """One network under its common name."""

    title: str
    mmpretrain: Source | None
    torchvision: Source | None
    timm: Source | None = None

    @property
    def source(self) -> Source:
        """Where it comes from on this machine."""
        found = self.mmpretrain if self.mmpretrain and has_mmpretrain() else self.torchvision or self.timm
        if found is None:
            raise SystemExit(f"no framework has {self.title}")
        return found


def tokens(extra: int) -> Layout:
    """The layout of a token sequence on a square grid, with ``extra`` tokens in front of it."""

    def layout(output: Tensor) -> Tensor:
        places = output[:, extra:]
        side = round(places.shape[1] ** 0.5)
        return places.reshape(places.shape[0], side, side, -1).permute(0, 3, 1, 2)

    return layout


def channels_last(output: Tensor) -> Tensor:
    """The layout of (B, H, W, C)."""
    return output.permute(0, 3, 1, 2)


def _stages(prefix: str) -> tuple[str, ...]:
    return tuple(f"{prefix}{layer}" for layer in ("layer1.2", "layer2.3", "layer3.5", "layer4.2"))


NETWORKS = {
    "resnet50": Network(
        "ResNet-50",
        Source("resnet50_8xb32_in1k", "backbone.layer4.2", "backbone.layer1.2", _stages("backbone.")),
        Source("resnet50", "layer4.2", "layer1.2", _stages("")),
    ),
    "mobilenet": Network(
        "MobileNetV3-L",
        Source("mobilenet-v3-large_8xb128_in1k", "backbone.layer16", "backbone.layer3"),
        Source("mobilenet_v3_large", "features.16", "features.3"),
    ),
    "convnext": Network(
        "ConvNeXt-T",
        Source("convnext-tiny_32xb128_in1k", "backbone.stages.3.2", "backbone.stages.0.2"),
        Source("convnext_tiny", "features.7.2", "features.1.2"),
    ),
    "swin": Network(
        "Swin-T",
        Source("swin-tiny_16xb64_in1k", "backbone.norm3", "backbone.stages.0.blocks.1.norm2", layout=tokens(extra=0)),
        Source("swin_t", "norm", "features.1.1.norm2", layout=channels_last),
    ),
    "vit": Network(
        "ViT-B/16",
        Source(
            "vit-base-p16_32xb128-mae_in1k", "backbone.layers.11.ln1", "backbone.layers.2.ln1", layout=tokens(extra=1)
        ),
        Source(
            "vit_b_16",
            "encoder.layers.encoder_layer_11.ln_1",
            "encoder.layers.encoder_layer_2.ln_1",
            layout=tokens(extra=1),
        ),
    ),
    # Many small modules: what camkit adds to each of them shows here the most.
    "lite0": Network("EfficientNet-Lite0", None, None, Source("tf_efficientnet_lite0", "bn2", "blocks.1")),
    # For smoke tests and soaking: small enough that the engine's own work is what is left.
    "tiny": Network("tiny CNN", None, Source("tiny", "4", "1", ("0", "1", "3", "4"))),
}


def has_mmpretrain() -> bool:
    """Whether MMPretrain is installed."""
    return find_spec("mmpretrain") is not None


def build(name: str, device: str = "cpu") -> nn.Module:
    """The network ``name`` in eval mode.

    Raises:
        SystemExit: its logits hardly differ from class to class, so that no map of theirs would mean anything.
    """
    torch.manual_seed(0)
    with quiet():
        model = tiny() if name == "tiny" else _framework(NETWORKS[name])
    for module in model.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():  # as torchvision begins the head of its ViT
            nn.init.trunc_normal_(module.weight, std=0.02)
    _calibrate(model, images(name, 2))
    model = model.eval().to(device)
    with torch.inference_mode():
        spread = model(images(name, 1, device)).std().item()
    if not 1e-3 < spread < 1e3:
        raise SystemExit(f"{name}: the logits' spread is {spread:.1g}")
    return model


def images(name: str, count: int, device: str = "cpu", size: int | None = None) -> Tensor:
    """Seeded noise as bright as normalised photographs, (count, 3, size, size); 224 pixels, 32 for the tiny network."""
    side = size or (32 if name == "tiny" else 224)
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1)).to(device)


def tiny() -> nn.Module:
    """Two convolutions with norms."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 200),
    )


def _framework(network: Network) -> nn.Module:
    ensure_torchvision()
    model: Any
    if network.source is network.mmpretrain:
        from mmpretrain import get_model

        model = get_model(network.source.name, pretrained=False)
    elif network.source is network.timm:
        import timm

        model = timm.create_model(network.source.name)
    else:
        import torchvision

        model = torchvision.models.get_model(network.source.name, weights=None)
    return cast("nn.Module", model)


@torch.no_grad()
def _calibrate(model: nn.Module, batch: Tensor) -> None:
    """Give batch norms the statistics of a batch: with those of an untrained network the signal dies on its way."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    model(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval()
        norm.momentum = momentum
