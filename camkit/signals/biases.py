"""What the input and every bias contribute to a score."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod

import torch
from torch import Tensor, nn

from camkit.engine.listeners import Affine
from camkit.engine.record import record
from camkit.engine.scores import NO_CLASS
from camkit.engine.tensors import at_least_float32
from camkit.errors import LayerError, TokenGridError
from camkit.layers.feature_maps import FeatureMaps
from camkit.layers.survey import along_flat, is_flat
from camkit.layers.token_grid import misfit, token_grids
from camkit.typing import Activations


def bias_terms(features: FeatureMaps) -> Iterator[list[Tensor]]:
    """For one target after the other, what the input and every bias contribute: (1, B, C, *S) each.

    The input times its gradient comes first, then every bias times its gradient, in the order of execution. Biases of
    layers without places on the image (behind the pooling, as in the paper, in windows, inside torch's
    MultiheadAttention) are left out.

    Args:
        features: of a forward that recorded biases and a graph from the images on.

    Raises:
        LayerError: the score doesn't depend on the images, or the network works on turned ones.
    """
    forward = features.forward
    _require_upright(features)
    images = forward.images
    placed = [(each, lay_out) for path, each in forward.heard.affine if (lay_out := _layout(features, path, each))]
    leaves = [images, *(affine.edge for affine, _ in placed)]
    for target in range(forward.count):
        first, *others = forward.gradients_in(leaves, target)
        if first is None:
            raise LayerError("the score doesn't depend on the images: something on the way detaches them")
        terms = [(at_least_float32(images.detach()) * at_least_float32(first))[None]]
        for (affine, lay_out), gradient in zip(placed, others, strict=True):
            if gradient is not None:
                laid_out = at_least_float32(lay_out(gradient))
                bias = affine.bias.to(laid_out.dtype).view(-1, *[1] * (laid_out.ndim - 2))
                terms.append((bias * laid_out)[None])
        yield terms


def _require_upright(features: FeatureMaps) -> None:
    """Refuse networks that exchange the image's sides inside: their terms would lie across each other.

    Raises:
        LayerError: the last convolution's places are turned.
    """
    network, images = features.forward.network, features.forward.images.detach()
    shown = images if network.takes_whole_batches else images[:1]
    modules = [(name, module) for name, module in network.model.named_modules() if isinstance(module, nn.Conv2d)]

    def look() -> bool:
        layers = dict(modules[-1:])
        with record(network, shown, layers, NO_CLASS, copies=True) as forward:
            finder = features.finder.of_forward(forward)
            try:
                return any(layout.is_turned for name in forward.outputs for layout in finder.of(name).values())
            except LayerError:
                return False

    with network.borrowed() as cache, features.forward.autocast():
        if cache.remember(("turned", network.arguments), look):
            raise LayerError(
                "FullGrad adds up what all layers contribute, and this network exchanges the image's sides on the way: "
                "take a method of one layer, such as GradCAM"
            )


def _layout(features: FeatureMaps, path: tuple[str, ...], affine: Affine) -> Callable[[Tensor], Activations] | None:
    """How a tensor like an affine function's result is laid out; None where it has no places on the image."""
    images, shape, axis = features.forward.images, affine.shape, affine.axis
    size = tuple(images.shape[2:])
    if shape[0] != len(images):
        return None
    if len(shape) == images.ndim:
        grid = (*shape[1:axis], *shape[axis + 1 :])
        return None if prod(grid) < 2 or misfit(grid, size) == 2 else lambda tensor: tensor.movedim(axis, 1)
    if len(shape) == 3 and axis == 1 and is_flat(size):  # a signal's, in an image of one row
        places = along_flat(size, shape[2])
        return None if shape[2] < 2 else lambda tensor: torch.unflatten(tensor, 2, places)
    if len(shape) != 3 or axis != 2:
        return None
    try:
        (front, back), grid, _ = token_grids(path[-1], shape[1], size, features.finder.hints)[0]
    except TokenGridError:
        return None
    if prod(grid) < 2:
        return None
    return lambda tensor: torch.unflatten(tensor[:, front : shape[1] - back].mT, 2, grid)
