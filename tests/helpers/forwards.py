"""A network's layers in one recorded forward, as camkit's own flow goes from images to feature maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from camkit.engine.network import Network
from camkit.engine.record import record
from camkit.layers.default_layers import Choice, Question, choose
from camkit.layers.feature_maps import FeatureMaps
from camkit.layers.layout import Layout
from camkit.layers.target_layers import TargetLayers
from camkit.methods.needs import DefaultLayer, Recording
from camkit.typing import Layer

GRADIENTS = Recording(gradients=True)


def fast_path() -> bool:
    """Whether torch's switch for fused transformer layers is on; True where torch, before 2.3, has none."""
    switch = getattr(torch.backends, "mha", None)
    return not hasattr(switch, "get_fastpath_enabled") or bool(switch.get_fastpath_enabled())


@contextmanager
def feature_maps(
    model: nn.Module,
    layers: Layer | list[Any],
    images: Tensor,
    targets: Any = None,
    recording: Recording = GRADIENTS,
    *,
    num_extra_tokens: int | None = None,
    reshape_transform: Callable[[Any], Tensor] | None = None,
    **how: Any,
) -> Iterator[FeatureMaps]:
    """Layers of a forward of ``images``; no layers where the list is empty."""
    network = Network(model, **how)
    named = TargetLayers(
        network, layers or None, num_extra_tokens=num_extra_tokens, reshape_transform=reshape_transform
    )
    chosen = named.resolve(DefaultLayer.LAST_NORM, images, targets) if layers else []
    modules = {layer.name: layer.module for layer in chosen}
    with record(network, network.prepare(images), modules, targets, recording) as forward:
        yield named.lay_out(forward, chosen, {})


def layout(model: nn.Module, layer: str, images: Tensor, **how: Any) -> Layout:
    """How a layer with one feature tensor is laid out."""
    with feature_maps(model, layer, images, recording=Recording(), **how) as found:
        return found.layouts[layer]


def default_layer(
    model: nn.Module, images: Tensor, targets: Any = None, *, num_extra_tokens: int | None = None, **how: Any
) -> Choice:
    """The target layer where none is named, chosen anew."""
    question = Question(Network(model, **how), images, targets, num_extra_tokens)
    (found,) = choose(DefaultLayer.LAST_NORM, question).choices
    return found


def count_forwards(model: nn.Module) -> list[int]:
    """The number of images in every forward of the model from now on."""
    seen: list[int] = []
    model.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    return seen


def count_hooks(model: nn.Module) -> int:
    """How many hooks of any kind hang on the modules of a model."""
    kinds = [kind for kind in vars(model) if kind.endswith("_hooks")]
    assert "_forward_hooks" in kinds
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)
