"""Lay any layer output out as (batch, channels, *spatial)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from camkit.capture import is_float
from camkit.errors import LayerError, TokenGridError

ReshapeTransform = Callable[[Any], Tensor]
MAX_EXTRA_TOKENS = 8
"""The most class, distillation and register tokens looked for when nobody says how many there are."""


@dataclass(frozen=True)
class Layout:
    """How one layer's output becomes (batch, channels, *spatial); the same for its activations and their gradient.

    Attributes:
        form: ``"channels first"``, ``"channels last"``, ``"tokens"`` or ``"custom"`` (the user's reshape_transform).
        grid: the spatial shape.
        extra_tokens: tokens in front of the grid that belong to no place (class, distillation, registers).
        transform: output of the layer to (batch, channels, *spatial).
    """

    form: str
    grid: tuple[int, ...]
    extra_tokens: int
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
    *,
    num_extra_tokens: int | None = None,
    declared_extra_tokens: int | None = None,
    reshape_transform: ReshapeTransform | None = None,
) -> Layout:
    """Decide how to lay out what layer ``name`` returned for ``images``.

    Args:
        name: the layer's dotted name, for messages.
        module: the layer; a LayerNorm over the last dimension marks a channels-last output.
        output: what it returned: a tensor, or a tuple, list or dict that holds one feature tensor.
        images: the network's input, (B, C, H, W) or (B, C, D, H, W).
        num_extra_tokens: how many tokens in front of the grid to drop; None finds out.
        declared_extra_tokens: how many the network says it has, tried first when ``num_extra_tokens`` is None.
        reshape_transform: the user's own layout, ``output`` to (B, C, *spatial); it wins over everything else.

    Raises:
        LayerError: no feature tensor, several, one without spatial positions, or one whose first dimension isn't the
            batch.
        TokenGridError: a token sequence that makes no grid.
    """
    if reshape_transform is not None:
        return _custom(name, output, images, reshape_transform)
    index, tensor = _feature_tensor(name, output)
    batch, size = images.shape[0], tuple(images.shape[2:])

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
    if tensor.ndim == 3:
        extra, grid = _token_grid(name, tensor.shape[1], size, num_extra_tokens, declared_extra_tokens)
        return _checked(name, Layout("tokens", grid, extra, lambda output: _to_grid(select(output), extra, grid)))
    if tensor.ndim != images.ndim:
        raise LayerError(
            f"layer {name!r} gives {_shape(tensor)} for images {_shape(images)}: pass reshape_transform to lay it out "
            "as (batch, channels, *spatial)"
        )
    if _is_channels_last(module, tensor, size):
        grid = tuple(tensor.shape[1:-1])
        return _checked(name, Layout("channels last", grid, 0, lambda output: select(output).movedim(-1, 1)))
    return _checked(name, Layout("channels first", tuple(tensor.shape[2:]), 0, select))


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
    return _checked(name, Layout("custom", tuple(laid_out.shape[2:]), 0, transform))


def _checked(name: str, layout: Layout) -> Layout:
    if math.prod(layout.grid) < 2:
        raise LayerError(
            f"layer {name!r} has a single position (grid {_grid(layout.grid)}), so it can't show where: choose a layer "
            "before pooling"
        )
    return layout


def _feature_tensor(name: str, output: Any) -> tuple[int, Tensor]:
    """The one floating-point tensor in ``output`` and its place among the leaves."""
    candidates = [(index, leaf) for index, leaf in enumerate(tree_leaves(output)) if is_float(leaf)]
    if not candidates:
        raise LayerError(f"layer {name!r} gives {type(output).__name__}, not a floating-point tensor: choose another")
    if len(candidates) > 1:
        shapes = ", ".join(_shape(leaf) for _, leaf in candidates[:4])
        raise LayerError(
            f"layer {name!r} gives {len(candidates)} tensors ({shapes}): choose a layer inside it, or pick one with "
            "reshape_transform"
        )
    return candidates[0]


def _is_channels_last(module: nn.Module, tensor: Tensor, size: Sequence[int]) -> bool:
    """Whether the last dimension holds the channels of ``tensor``, whose rank is the images'."""
    if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1:
        return tensor.shape[-1] == module.normalized_shape[0]
    first, last = tuple(tensor.shape[2:]), tuple(tensor.shape[1:-1])
    return _misfit(last, size) < _misfit(first, size)


def _misfit(grid: Sequence[int], size: Sequence[int]) -> int:
    """How badly ``grid`` is ``size`` divided by one stride: 0 exactly, 1 up to the rounding of one cell, 2 not."""
    pairs = list(zip(grid, size, strict=True))
    if any(cells > length for cells, length in pairs):
        return 2
    if len({Fraction(length, cells) for cells, length in pairs}) == 1:
        return 0
    lower = max(length / (cells + 1) for cells, length in pairs)
    upper = min(length / max(cells - 1, 0.5) for cells, length in pairs)
    return 1 if lower <= upper else 2


def _to_grid(tokens: Tensor, extra: int, grid: Sequence[int]) -> Tensor:
    """(B, extra + prod(grid), C) to (B, C, *grid)."""
    places = tokens[:, extra:].movedim(-1, 1)
    return places.reshape(*places.shape[:2], *grid)


def _token_grid(
    name: str, length: int, size: Sequence[int], given: int | None, declared: int | None
) -> tuple[int, tuple[int, ...]]:
    """The number of extra tokens and the grid of the rest, for a sequence of ``length`` tokens."""
    fits: dict[int, tuple[int, ...]] = {}
    # A grid that divides the input exactly goes before one that needs rounding, whatever is left over.
    for exactly in (True, False):
        for extra in range(min(MAX_EXTRA_TOKENS, length - 2) + 1):
            grid = _grid_of(length - extra, tuple(size), exactly=exactly)
            if grid:
                fits.setdefault(extra, grid)
    if given is not None:
        tokens = length - given
        grid = _grid_of(tokens, tuple(size), exactly=True) or _grid_of(tokens, tuple(size), exactly=False)
        if not grid:
            raise _no_grid(name, length, size, given, fits)
        return given, grid
    for count in [*([] if declared is None else [declared]), *fits]:
        if count in fits:
            return count, fits[count]
    raise _no_grid(name, length, size, declared, fits)


def _grid_of(tokens: int, size: tuple[int, ...], *, exactly: bool) -> tuple[int, ...] | None:
    """The grid of ``tokens`` cells that ``size`` gives when divided by a whole stride, exactly or rounded."""
    if tokens < 1:
        return None
    grid = _grids(size, exactly=exactly).get(tokens)
    if grid is None and not exactly and len(set(size)) == 1:
        side = round(tokens ** (1 / len(size)))
        return (side,) * len(size) if side ** len(size) == tokens else None
    return grid


@lru_cache(maxsize=64)
def _grids(size: tuple[int, ...], *, exactly: bool) -> dict[int, tuple[int, ...]]:
    """Number of cells to grid, the smallest stride first. Remembered: it is asked for on every call of a CAM."""
    found: dict[int, tuple[int, ...]] = {}
    for stride in range(1, max(size) + 1):
        if exactly and any(length % stride for length in size):
            continue
        for rounded in (tuple(length // stride for length in size), tuple(-(-length // stride) for length in size)):
            found.setdefault(math.prod(rounded), rounded)
    return found


def _no_grid(
    name: str, length: int, size: Sequence[int], extra: int | None, fits: dict[int, tuple[int, ...]]
) -> TokenGridError:
    asked = f" without {extra} extra tokens" if extra else ""
    would = " or ".join(f"--num-extra-tokens {count} ({_grid(grid)})" for count, grid in fits.items())
    return TokenGridError(
        f"layer {name!r} gives L={length} tokens, which{asked} make no grid for a {_grid(size)} input; "
        + (f"would fit: {would}" if would else "no number of extra tokens would fit: pass reshape_transform")
    )


def _shape(tensor: Tensor) -> str:
    return f"({', '.join(map(str, tensor.shape))})"


def _grid(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))
