"""Lay any layer output out as (batch, channels, *spatial)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from camkit.capture import is_float
from camkit.errors import LayerError
from camkit.layers import is_norm, split_branch
from camkit.tokens import Hints, as_text, misfit, token_grid

ReshapeTransform = Callable[[Any], Tensor]


@dataclass(frozen=True)
class Layout:
    """How one layer's output becomes (batch, channels, *spatial); the same for its activations and their gradient.

    Attributes:
        form: ``"channels first"``, ``"channels last"``, ``"tokens"`` or ``"custom"`` (the user's reshape_transform).
        shape: of the tensor that is laid out.
        grid: the spatial shape.
        extra_tokens: tokens in front of the grid, and behind it, that belong to no place (class, distillation,
            registers).
        transform: output of the layer to (batch, channels, *spatial).
    """

    form: str
    shape: tuple[int, ...]
    grid: tuple[int, ...]
    extra_tokens: tuple[int, int]
    transform: ReshapeTransform

    def __call__(self, output: Any) -> Tensor:
        """Lay ``output`` out; half precision becomes float32, in which the CAM maths runs."""
        tensor = self.transform(output)
        return tensor if tensor.dtype == torch.float64 else tensor.float()


def plan(
    name: str,
    module: nn.Module,
    output: Any,
    images: Tensor,
    hints: Hints | None = None,
    *,
    reshape_transform: ReshapeTransform | None = None,
) -> dict[str, Layout]:
    """Decide how to lay out what layer ``name`` returned for ``images``.

    Args:
        name: the layer's dotted name, for messages; ``name[1]`` means its second feature tensor alone.
        module: the layer; the length of a norm's weight tells where its channels are.
        output: what it returned: a tensor, or a tuple, list, dict or dataclass that holds feature tensors.
        images: the network's input, (B, C, H, W) or (B, C, D, H, W).
        hints: what is known of the network's tokens.
        reshape_transform: the user's own layout, ``output`` to (B, C, *spatial); it wins over everything else.

    Returns:
        ``{name: layout}``. Where the layer returns several feature tensors, as blocks with a convolutional and a
        transformer branch do, each has its own: ``{"name[0]": ..., "name[1]": ...}``.

    Raises:
        LayerError: no feature tensor, none with spatial positions, or one whose first dimension isn't the batch.
        TokenGridError: a token sequence that makes no grid.
    """
    if reshape_transform is not None:
        return {name: _custom(name, output, images, reshape_transform)}
    hints = hints or Hints()
    tensors = [(index, leaf) for index, leaf in enumerate(tree_leaves(output)) if is_float(leaf)]
    if not tensors:
        raise LayerError(f"layer {name!r} gives {type(output).__name__}, not a floating-point tensor: choose another")
    number = split_branch(name)[1]
    if number is not None:
        if number >= len(tensors):
            raise LayerError(f"layer {name!r} gives {len(tensors)} tensor{'s' * (len(tensors) > 1)}: [0] is the first")
        return {name: _plan(name, module, *tensors[number], images, hints)}
    if len(tensors) == 1:
        return {name: _plan(name, module, *tensors[0], images, hints)}
    return _branches(name, module, tensors, images, hints)


def _branches(
    name: str, module: nn.Module, tensors: Sequence[tuple[int, Tensor]], images: Tensor, hints: Hints
) -> dict[str, Layout]:
    """The layouts of those of several tensors that are feature maps; attention matrices and the like are left out."""
    found = {}
    size = tuple(images.shape[2:])
    for number, (index, tensor) in enumerate(tensors):
        is_matrix = tensor.ndim == 3 and tensor.shape[1] == tensor.shape[2]
        try:
            layout = _plan(f"{name}[{number}]", module, index, tensor, images, hints)
        except LayerError:
            continue
        if not is_matrix and misfit(layout.grid, size) < 2:
            found[f"{name}[{number}]"] = layout
    if not found:
        shapes = ", ".join(_shape(leaf) for _, leaf in tensors[:4])
        raise LayerError(
            f"layer {name!r} gives {len(tensors)} tensors ({shapes}), none of them a map of features: choose a layer "
            "inside it, or pick one with reshape_transform"
        )
    return found if len(found) > 1 else {name: next(iter(found.values()))}


def _plan(name: str, module: nn.Module, index: int, tensor: Tensor, images: Tensor, hints: Hints) -> Layout:
    """The layout of the tensor that is number ``index`` of the leaves of an output."""
    batch, size, shape = images.shape[0], tuple(images.shape[2:]), tuple(tensor.shape)

    def select(output: Any) -> Tensor:
        leaf: Tensor = tree_leaves(output)[index]
        return leaf

    if tensor.ndim < 3:
        raise LayerError(
            f"layer {name!r} gives {_shape(tensor)}, which has no spatial positions: choose a layer before pooling"
        )
    if tensor.shape[0] != batch:
        raise LayerError(
            f"layer {name!r} gives {_shape(tensor)} for a batch of {batch}: its first dimension isn't the batch "
            "(window partitions, or sequence first); choose the layer around it or pass reshape_transform"
        )
    axis = _channel_axis(module, tensor)
    if tensor.ndim == 3:
        along = 2 if axis == 1 else 1
        extra, grid = token_grid(name, tensor.shape[along], size, hints)
        layout = Layout("tokens", shape, grid, extra, lambda output: _to_grid(select(output), along, extra, grid))
        return _checked(name, layout)
    if tensor.ndim != images.ndim:
        raise LayerError(
            f"layer {name!r} gives {_shape(tensor)} for images {_shape(images)}: pass reshape_transform to lay it out "
            "as (batch, channels, *spatial)"
        )
    first, last = misfit(shape[2:], size), misfit(shape[1:-1], size)
    if axis == tensor.ndim - 1 or (axis is None and last < first):
        if axis is not None and last == 2:
            raise LayerError(
                f"layer {name!r} gives {_shape(tensor)}, {as_text(shape[1:-1])} places for a {as_text(size)} input: "
                "not its proportions (attention heads by tokens?); choose the layer around it or pass reshape_transform"
            )
        layout = Layout("channels last", shape, shape[1:-1], (0, 0), lambda output: select(output).movedim(-1, 1))
        return _checked(name, layout)
    return _checked(name, Layout("channels first", shape, shape[2:], (0, 0), select))


def _custom(name: str, output: Any, images: Tensor, given: ReshapeTransform) -> Layout:
    def transform(output: Any) -> Tensor:
        # On a copy: what was kept is not the user's to write to.
        return given(tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, output))

    laid_out = transform(output)
    if not is_float(laid_out) or laid_out.ndim != images.ndim or laid_out.shape[0] != images.shape[0]:
        got = _shape(laid_out) if isinstance(laid_out, Tensor) else type(laid_out).__name__
        raise LayerError(
            f"reshape_transform made {got} of layer {name!r}: it must return a float tensor "
            f"({images.shape[0]}, channels, *spatial), with as many spatial dimensions as the images"
        )
    return _checked(name, Layout("custom", tuple(laid_out.shape), tuple(laid_out.shape[2:]), (0, 0), transform))


def _checked(name: str, layout: Layout) -> Layout:
    if math.prod(layout.grid) < 2:
        raise LayerError(
            f"layer {name!r} has a single position (grid {as_text(layout.grid)}), so it can't show where: choose a "
            "layer before pooling"
        )
    return layout


def _channel_axis(module: nn.Module, tensor: Tensor) -> int | None:
    """The dimension of ``tensor`` that a norm layer has a weight for each entry of, None where that doesn't tell."""
    weight = getattr(module, "weight", None)
    if not is_norm(module) or not isinstance(weight, Tensor) or weight.ndim != 1:
        return None
    fitting = [axis for axis in (1, tensor.ndim - 1) if tensor.shape[axis] == len(weight)]
    if len(fitting) == 2 and type(module).forward is nn.LayerNorm.forward:  # LayerNorm2d and the like have their own
        return fitting[1]
    return fitting[0] if len(fitting) == 1 else None


def _to_grid(tokens: Tensor, along: int, extra: tuple[int, int], grid: Sequence[int]) -> Tensor:
    """(B, front + prod(grid) + back, C), or with these two exchanged, to (B, C, *grid)."""
    front, back = extra
    places = tokens.narrow(along, front, tokens.shape[along] - front - back).movedim(3 - along, 1)
    return places.reshape(*places.shape[:2], *grid)


def _shape(tensor: Tensor) -> str:
    return f"({', '.join(map(str, tensor.shape))})"
