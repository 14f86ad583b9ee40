"""Runs camkit for the classes of this package."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from camkit.cam import CAM
from camkit.compat import accelerators
from camkit.engine.network import Network
from camkit.engine.record import record
from camkit.engine.scores import NO_CLASS, require_finite
from camkit.engine.tensors import detached
from camkit.errors import UsageError
from camkit.integrations.pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from camkit.layers.target_layers import TargetLayers
from camkit.methods import Method
from camkit.methods.needs import DefaultLayer, Recording
from camkit.smoothing import AugSmooth, EigenSmooth
from camkit.typing import Layers, ReshapeTransform

Array = NDArray[np.float32]
LayerTensors = Sequence[tuple[Tensor, Tensor | None]]
"""Activations (B, C, *spatial) of each layer, and the gradients in them."""


class RememberingNetwork(Network):
    """A network that keeps what its model returned the first time."""

    outputs: Any = None

    def call(self, images: Tensor) -> Any:
        """See the base."""
        output = super().call(images)
        if self.outputs is None:
            self.outputs = detached(output)
        return output


@dataclass(frozen=True)
class Explained:
    """Finished maps (B, *size), what the model returned, and what the layers did."""

    maps: Array
    outputs: Any
    layers: LayerTensors


@dataclass(frozen=True)
class Recorded:
    """What a forward left: layers, images (with ``.grad`` if asked for), the model's outputs, one target per image."""

    layers: LayerTensors
    images: Tensor
    outputs: Any
    targets: list[Any]


def explained(
    model: nn.Module,
    method: Method,
    layers: Layers,
    images: Tensor,
    targets: Any,
    *,
    reshape_transform: ReshapeTransform | None,
    batch_size: int | None,
    eigen_smooth: bool,
    aug_smooth: bool,
) -> Explained:
    """Explain images by a method of camkit."""
    kept: list[tuple[Tensor, Tensor | None]] = []
    cam: CAM = CAM(model, _watched(method, kept), layers, reshape_transform=reshape_transform, batch_size=batch_size)
    network = RememberingNetwork(model, batch_size=batch_size)
    cam.network = cam.layers.network = network
    smooth = AugSmooth(EigenSmooth(cam, enabled=eigen_smooth), enabled=aug_smooth)
    explanation = smooth.explain(images, targets)
    count = len(explanation.raw)
    # The images as they are come first of all views; layers that were chosen anew come last.
    own = kept[:count] if aug_smooth else kept[-count:]
    return Explained(explanation.maps[:, 0].cpu().numpy(), network.outputs, own)


def _watched(method: Method, kept: list[tuple[Tensor, Tensor | None]]) -> Method:
    """The method, keeping the activations and gradients that it is called with."""
    if not method.of_layers:
        return method

    @wraps(method.function)
    def function(*signal: Any, **options: Any) -> Any:
        gradients = signal[1][0] if len(signal) > 1 and isinstance(signal[1], Tensor) else None
        kept.append((signal[0], gradients))
        return method.function(*signal, **options)

    return replace(method, function=function)


def recorded(
    model: nn.Module,
    layers: Layers,
    images: Tensor,
    targets: Any,
    *,
    reshape_transform: ReshapeTransform | None = None,
    gradients: bool = True,
    inputs: bool = False,
) -> Recorded:
    """Run a model once, and return what its target layers did.

    Args:
        model: the network.
        layers: its target layers.
        images: (B, C, *size).
        targets: of the images, as :class:`camkit.CAM` takes them.
        reshape_transform: the user's own layout.
        gradients: whether gradients are computed.
        inputs: whether the images' gradients are computed too.
    """
    network = RememberingNetwork(model)
    prepared = network.prepare(images)
    targets = NO_CLASS if targets is None and not gradients else targets
    chosen_layers = TargetLayers(network, layers, reshape_transform=reshape_transform)
    recording = Recording(gradients=gradients or inputs, inputs=inputs)
    with network.borrowed():
        chosen = chosen_layers.resolve(DefaultLayer.LAST_NORM, prepared, targets)
        modules = {each.name: each.module for each in chosen}
        while True:
            with record(network, prepared, modules, targets, recording) as forward:
                if chosen_layers.settle_calls(forward):  # a name means another call of its layer
                    continue
                features = chosen_layers.lay_out(forward, chosen, {})
                require_finite(forward.scores)
                found: dict[str, Tensor] = {}
                shown = prepared
                if inputs:
                    shown = prepared.detach().clone().requires_grad_()
                    shown.grad = forward.gradients_in([forward.images], 0)[0]
                if gradients:
                    found = {name: each[0] for name, each in next(features.gradients()).items()}
                rows = forward.chosen.tolist() if isinstance(forward.chosen, Tensor) else forward.chosen
                return Recorded(
                    [(each, found.get(name)) for name, each in features.activations.items()],
                    shown,
                    network.outputs,
                    [row[0] for row in rows],
                )


def outputs_of(model: nn.Module, images: Tensor) -> Any:
    """What a model returns for images, in evaluation mode, outside the graph."""
    network = Network(model)
    with network.borrowed(), torch.no_grad():
        return detached(network.call(network.prepare(images)))


def weighted_channels(method: Method, activations: Any, grads: Any) -> Array | None:
    """A method's weights by channel (B, C); None where it has none, or needs more than activations and gradients."""
    if method.reduction is None or grads is None:
        return None
    made = method.function(torch.as_tensor(activations), torch.as_tensor(grads)[None])
    if not isinstance(made, Tensor) or made.shape[3:].numel() > 1:
        return None
    return np.asarray(made.flatten(2)[0, :, :].numpy())


def as_targets(targets: Any, batch: int) -> Any:
    """Targets as camkit takes them: class indices in place of the targets that stand for them.

    Raises:
        UsageError: not one target per image.
    """
    given = targets.tolist() if isinstance(targets, Tensor | np.ndarray) else targets
    if not isinstance(given, Sequence):
        return given
    if any(isinstance(each, Sequence) for each in given):
        raise UsageError("targets are one per image: for several of one image repeat it, images.repeat(n, 1, 1, 1)")
    if len(given) != batch:
        raise UsageError(
            f"{len(given)} target{'s' * (len(given) != 1)} for {batch} image{'s' * (batch != 1)}: one per image; for "
            "several of one image repeat it, images.repeat(n, 1, 1, 1)"
        )
    return [_as_target(each) for each in given]


def _as_target(target: Any) -> Any:
    if type(target) is not ClassifierOutputTarget:
        return target
    try:
        category = operator.index(target.category)
    except TypeError:
        return target
    return category if category >= 0 else target  # which counts from the end


def device_of(model: nn.Module) -> torch.device:
    """Where a model's first parameter is."""
    return next((each.device for each in model.parameters()), torch.device("cpu"))


def on_cuda(model: nn.Module) -> nn.Module:
    """The model, on the GPU.

    Raises:
        UsageError: there is none.
    """
    if not torch.cuda.is_available():
        there = ", ".join(accelerators()) or "the CPU"
        raise UsageError(f"use_cuda=True needs a CUDA device, this machine has {there}: leave use_cuda out")
    return model.cuda()
