"""Networks that nobody trained and that behave all the same: photographs, seeded weights, scales taken from data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

ENOUGH = 8
"""How many values per channel a mean and a variance are taken from; with fewer they would be the values themselves."""


@cache
def photographs() -> tuple[NDArray[np.uint8], ...]:
    """A cat and a cup, RGB."""
    from skimage import data

    return data.chelsea(), data.coffee()


def square(photo: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The middle square, at ``size`` pixels."""
    height, width = photo.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    middle = photo[top : top + side, left : left + side]
    return np.asarray(cv2.resize(middle, (size, size), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def normalised(size: int, mean: Tensor, std: Tensor) -> Tensor:
    """Both photographs, (2, 3, size, size); ``mean`` and ``std`` are (3, 1, 1), for pixels from 0 to 255."""
    pixels = torch.from_numpy(np.stack([square(photo, size) for photo in photographs()]))
    return (pixels.permute(0, 3, 1, 2).float() - mean) / std


def randomise(module: nn.Module) -> None:
    """Scales at which neither the signal nor its gradient dies or explodes."""
    match module:
        case _ConvNd():
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        case nn.Linear():
            nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)
        case _BatchNorm() if module.affine:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
        case nn.LayerNorm() | nn.GroupNorm() if module.weight is not None and module.bias is not None:
            nn.init.normal_(module.weight, mean=1.0, std=0.2)
            nn.init.normal_(module.bias, std=0.1)
        case _:
            return
    if isinstance(module, _ConvNd | nn.Linear) and module.bias is not None:
        nn.init.normal_(module.bias, std=0.1)


@torch.no_grad()
def enliven(model: nn.Module, image: Tensor, *, seed: int = 0, run: Callable[[Tensor], Any] | None = None) -> nn.Module:
    """Give ``model`` seeded weights with which ``image`` keeps ordinary activations and gradients in every layer.

    Weights are drawn per kind of layer; what a fresh network switches off (class tokens, position tables and biases at
    zero, layer scales near it) is switched on. Then the image runs once, and every layer is scaled as it returns (as
    Mishkin and Matas 2016 do, LSUV): convolutions and linear layers to unit variance around means near zero, batch
    norms to the statistics of what they get. One image alone, as over several of them the variance would be theirs:
    attention that nobody trained mixes the places of an image until they look alike, and only centring each layer on
    that image keeps them, and the signs of their evidence, apart.

    Args:
        model: changed in place.
        image: what runs.
        seed: of the weights.
        run: runs the model, where that takes more than the image.

    Returns:
        ``model``, in eval mode.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in model.modules():
            randomise(module)
        for parameter in model.parameters():
            _switch_on(parameter)
        _calibrate(model.eval(), partial(run or model, image))
    return model


def _switch_on(parameter: nn.Parameter) -> None:
    """Replace values that are the same everywhere and close to zero."""
    value = parameter.flatten()[0].item() if parameter.numel() else 1.0
    if not parameter.requires_grad or abs(value) > 0.2 or (parameter != value).any():
        return
    if value:
        nn.init.uniform_(parameter, 0.3, 1.0)
    else:
        nn.init.normal_(parameter, std=0.1 if parameter.numel() > 1 else 0.5)


def _calibrate(model: nn.Module, run: Callable[[], Any]) -> None:
    done = set()

    def adjust(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Tensor | None:
        # A layer that runs several times is set by its first call.
        if module in done:
            return None
        done.add(module)
        if isinstance(module, _BatchNorm):
            _set_statistics(module, args[0])
        else:
            _set_scale(module, output)
        # Past the hooks, which would come here again.
        forward: Callable[..., Tensor] = module.forward
        return forward(*args, **kwargs)

    layers = [module for module in model.modules() if isinstance(module, _ConvNd | nn.Linear | _BatchNorm)]
    handles = [layer.register_forward_hook(adjust, with_kwargs=True) for layer in layers]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()


def _set_scale(layer: nn.Module, output: Tensor) -> None:
    values = (output.movedim(1, -1) if isinstance(layer, _ConvNd) else output).flatten(0, -2)
    weight, bias = layer._parameters.get("weight"), layer._parameters.get("bias")
    mean = torch.zeros(())
    if bias is not None and len(values) >= ENOUGH:
        values = values - bias
        mean = values.mean(0)
    scale = (values - mean).square().mean().sqrt()
    if weight is None or not scale.isfinite() or scale == 0:
        return
    weight.div_(scale)
    if mean.ndim and bias is not None:
        bias.normal_(std=0.1).sub_(mean / scale)


def _set_statistics(norm: _BatchNorm, given: Tensor) -> None:
    """The given statistics, off by as much as a trained network's are."""
    if norm.running_mean is None or norm.running_var is None:
        return
    values = given.movedim(1, -1).flatten(0, -2)
    if len(values) >= ENOUGH:
        variance, mean = torch.var_mean(values, 0)
    else:
        variance, mean = values.square().mean(), torch.zeros(())
    # A dead channel has no variance to divide by.
    variance = variance.clamp(min=1e-2 * variance.mean().item() + 1e-6)
    norm.running_mean.copy_(mean + 0.2 * variance.sqrt() * torch.randn_like(norm.running_mean))
    norm.running_var.copy_(variance * torch.empty_like(norm.running_var).uniform_(0.8, 1.25))
