"""Lay any layer output out as (batch, channels, *spatial)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from camkit.compat import tree_flatten, tree_leaves, tree_map, tree_unflatten
from camkit.engine.hooks import parse_name
from camkit.engine.tensors import at_least_float32, detached, is_float
from camkit.errors import LayerError, SinglePositionError, TokenGridError
from camkit.layers.locality import STRONG, Trial
from camkit.layers.names import is_norm
from camkit.layers.survey import CHANNELS_FIRST, Extra, is_flat
from camkit.layers.token_grid import Hints, as_text, is_strided, misfit, token_grids
from camkit.typing import ReshapeTransform

FEW = 4
"""Grids with fewer cells along a side aren't refused for where they change: that may be chance."""


@dataclass(frozen=True)
class Layout:
    """How one layer's output, and the gradient in it, become (batch, channels, *spatial).

    Attributes:
        form: ``"channels first"``, ``"channels last"``, ``"tokens"`` or ``"custom"`` (the user's reshape_transform).
        shape: of the tensor that it was found for; other batches are laid out alike.
        grid: the spatial shape.
        extra_tokens: tokens in front of the grid, and behind it, that belong to no place (class, distillation,
            registers).
        transform: output of the layer to (batch, channels, *spatial).
        is_sure: False for the likeliest layout, where neither shape nor the locality test shows that it is right.
        index: which of the leaves of the output is laid out; None for a custom layout.
        axis: the dimension of the channels in that leaf; None for a custom layout.
        is_turned: whether the network works on the image with its last two dimensions exchanged.
    """

    form: str
    shape: tuple[int, ...]
    grid: tuple[int, ...]
    extra_tokens: tuple[int, int]
    transform: ReshapeTransform
    is_sure: bool = True
    index: int | None = None
    axis: int | None = None
    is_turned: bool = False

    def turned(self) -> Layout:
        """The layout for a network that exchanges the last two dimensions of the image."""
        grid = (*self.grid[:-2], self.grid[-1], self.grid[-2])
        return replace(self, grid=grid, transform=partial(_turned, transform=self.transform), is_turned=True)

    def turns(self, other: Layout) -> bool:
        """Whether this is another layout with its last two dimensions exchanged."""
        same = (self.grid, self.extra_tokens, self.axis) == (other.grid, other.extra_tokens, other.axis)
        return same and self.is_turned != other.is_turned

    def __call__(self, output: Any) -> Tensor:
        """Lay ``output`` out; half precision becomes float32, in which the CAM maths runs."""
        return at_least_float32(self.transform(output))


def plan(
    name: str,
    module: nn.Module,
    output: Any,
    images: Tensor,
    hints: Hints | None = None,
    trial: Callable[[], Trial | None] = lambda: None,
    looks: Looks | None = None,
    *,
    reshape_transform: ReshapeTransform | None = None,
) -> dict[str, Layout]:
    """Decide how to lay out what layer ``name`` returned for ``images``.

    Args:
        name: the layer's dotted name, for messages; ``name[1]`` means its second feature tensor alone.
        module: the layer; its type or the length of a norm's weight may tell where its channels are.
        output: what it returned: a tensor, or a tuple, list, dict or dataclass that holds feature tensors.
        images: the network's input, (B, C, H, W) or (B, C, D, H, W).
        hints: what is known of the network's tokens.
        trial: runs the locality test where the shape alone doesn't decide; returns None if it can't be run.
        looks: what else can be found out about a layout.
        reshape_transform: the user's own layout, ``output`` to (B, C, *spatial); it wins over everything else.

    Returns:
        ``{name: layout}``. Where the layer returns several feature tensors, as blocks with a convolutional and a
        transformer branch do, each has its own: ``{"name[0]": ..., "name[1]": ...}``.

    Raises:
        LayerError: no feature tensor, none with spatial positions, one whose first dimension isn't the batch, or one
            that doesn't follow the places of the image.
        TokenGridError: a token sequence that makes no grid.
    """
    if reshape_transform is not None:
        return {name: _custom(name, output, images, reshape_transform)}
    hints = hints or Hints()
    tensors = [(index, leaf) for index, leaf in enumerate(tree_leaves(output)) if is_float(leaf)]
    if not tensors:
        raise LayerError(f"layer {name!r} gives {type(output).__name__}, not a floating-point tensor: choose another")
    number = parse_name(name).branch
    context = _Context(module, images, hints, trial, looks or Looks())
    if number is not None:
        if number >= len(tensors):
            raise LayerError(f"layer {name!r} gives {len(tensors)} tensor{'s' * (len(tensors) > 1)}: [0] is the first")
        return {name: _plan(name, *tensors[number], context)}
    if len(tensors) == 1:
        return {name: _plan(name, *tensors[0], context)}
    return _branches(name, tensors, context)


@dataclass(frozen=True)
class Looks:
    """What is found out by looking at more than the layer.

    Attributes:
        is_turned: whether a layout is turned, by a quick look; None if it looks so, but may not be.
        is_turned_in_front: whether the network's first convolutions do, by the locality test; None likewise.
        neighbours: what layers of the same length in front show of a layout, and whether the layer's own verdict may be
            chance.
    """

    is_turned: Callable[[Layout], bool | None] = lambda layout: False
    is_turned_in_front: Callable[[], bool | None] = lambda: None
    neighbours: Callable[[Layout, bool], bool | None] = lambda layout, is_own_weak: None


@dataclass(frozen=True)
class _Context:
    """What the layouts of all of a layer's tensors depend on."""

    module: nn.Module
    images: Tensor
    hints: Hints
    trial: Callable[[], Trial | None]
    looks: Looks

    @property
    def size(self) -> tuple[int, ...]:
        return tuple(self.images.shape[2:])

    def choose(self, layouts: Sequence[Layout]) -> Layout | None:
        """The first layout that passes the locality test, by itself or, where that can't tell, by its neighbours.

        Else the first that neither decides about. It isn't sure where there are sequences of that length that have
        nothing to do with the image.
        """
        trial = self.trial()
        if trial is None:
            return layouts[0] if layouts else None
        verdicts = [self._verdict(trial, layout) for layout in layouts]
        if True not in verdicts and None in verdicts:
            pairs = zip(layouts, verdicts, strict=True)
            verdicts = [
                self.looks.neighbours(layout, False) if verdict is None else verdict for layout, verdict in pairs
            ]
        if True in verdicts:
            best = layouts[verdicts.index(True)]
            passed = [layout for layout, verdict in zip(layouts, verdicts, strict=True) if verdict]
            rivals = [each for each in passed if each.turns(best)]
            best = max([best, *rivals], key=trial.agreement)  # much mixing lets both pass
            return replace(best, is_sure=True)
        if None not in verdicts:
            return None
        left = layouts[verdicts.index(None)]
        return replace(left, is_sure=left.is_sure and not self._may_be_blind(left))

    def is_confirmed(self, layouts: Sequence[Layout]) -> bool:
        """Whether the locality test confirms one of the layouts beyond chance."""
        trial = self.trial()
        return trial is None or any(trial.verdict(layout, STRONG) for layout in layouts)

    def _verdict(self, trial: Trial, layout: Layout) -> bool | None:
        """The locality test's, if need be with the neighbours'."""
        found = trial.verdict(layout)
        if not found or layout.form != "tokens" or trial.verdict(layout, STRONG):
            return found
        others = self.looks.neighbours(layout, True)
        return False if others is False else found if others or not self._may_be_blind(layout) else None

    def clearly_refuted(self, layout: Layout) -> bool:
        """Whether the locality test speaks against a layout beyond chance, which few cells leave."""
        trial = self.trial()
        return min(layout.grid) >= FEW and trial is not None and trial.verdict(layout, STRONG) is False

    def _may_be_blind(self, layout: Layout) -> bool:
        """Whether there are sequences of that length that have nothing to do with the image."""
        return layout.form == "tokens" and layout.shape[3 - (layout.axis or 2)] in self.hints.survey().blind


def _branches(name: str, tensors: Sequence[tuple[int, Tensor]], context: _Context) -> dict[str, Layout]:
    """The layouts of those of several tensors that are feature maps; attention matrices and the like are left out."""
    found = {}
    for number, (index, tensor) in enumerate(tensors):
        is_matrix = tensor.ndim > 2 and tensor.shape[-1] == tensor.shape[-2] and tensor.ndim != context.images.ndim
        try:
            layout = _plan(f"{name}[{number}]", index, tensor, context)
        except LayerError:
            continue
        if not is_matrix and misfit(layout.grid, context.size) < 2:
            found[f"{name}[{number}]"] = layout
    if not found:
        shapes = ", ".join(_shape(leaf) for _, leaf in tensors[:4])
        raise LayerError(
            f"layer {name!r} gives {len(tensors)} tensors ({shapes}), none of them a map of features: choose a layer "
            "inside it, or pick one with reshape_transform"
        )
    return found if len(found) > 1 else {name: next(iter(found.values()))}


def _plan(name: str, index: int, tensor: Tensor, context: _Context) -> Layout:
    """The layout of the tensor that is number ``index`` of the leaves of an output."""
    batch, dimensions = context.images.shape[0], context.images.ndim
    if tensor.ndim < 3:
        raise LayerError(
            f"layer {name!r} gives {_shape(tensor)}, which has no spatial positions: choose a layer before pooling"
        )
    if tensor.shape[0] != batch:
        raise LayerError(
            f"layer {name!r} gives {_shape(tensor)} for a batch of {batch}: its first dimension isn't the batch "
            "(window partitions, or sequence first); choose the layer around it or pass reshape_transform"
        )
    if tensor.ndim == 3 and not (dimensions == 3 and _channel_axis(context.module, tensor) == 1):
        return _checked(name, _plan_tokens(name, index, tensor, context))
    if tensor.ndim != dimensions:
        raise LayerError(
            f"layer {name!r} gives {_shape(tensor)} for images {_shape(context.images)}: pass reshape_transform to lay "
            "it out as (batch, channels, *spatial)"
        )
    return _checked(name, _plan_map(name, index, tensor, context))


def _plan_tokens(name: str, index: int, tensor: Tensor, context: _Context) -> Layout:
    shape, axis = tuple(tensor.shape), _channel_axis(context.module, tensor)
    along = 2 if axis == 1 else 1
    layouts = _token_layouts(name, shape, index, along, context)
    if axis is None and is_flat(context.size):  # features of a signal, or its steps, may come first
        with suppress(TokenGridError):
            layouts += _token_layouts(name, shape, index, 3 - along, context)
        layouts.sort(key=lambda layout: misfit(layout.grid, context.size))
    turned = _turned_tokens(name, shape, index, along, context)
    if turned and not context.is_confirmed(layouts) and context.looks.is_turned_in_front():
        layouts = []
    chosen = context.choose([*layouts, *turned])
    if chosen is None:
        raise LayerError(
            f"layer {name!r} gives {_shape(tensor)}, and its {shape[along]} tokens don't follow the places of the "
            "image (reordered, pruned, or made of something else); choose another layer or pass reshape_transform"
        )
    return chosen


def _token_layouts(name: str, shape: tuple[int, ...], index: int, along: int, context: _Context) -> list[Layout]:
    """The readings of a sequence, the likeliest first."""
    readings = token_grids(name, shape[along], context.size, context.hints)
    if along == 2 and is_flat(context.size):  # a signal's features: only steps
        readings = [each for each in readings if not sum(each.extra)] or readings
    return [
        token_layout(shape, grid, extra, index=index, along=along, is_sure=is_exact)
        for extra, grid, is_exact in readings
    ]


def _turned_tokens(name: str, shape: tuple[int, ...], index: int, along: int, context: _Context) -> list[Layout]:
    """The readings of a sequence in a network that exchanges the sides of the image."""
    if len(context.size) < 2 or is_flat(context.size):
        return []
    size = (*context.size[:-2], context.size[-1], context.size[-2])
    try:
        readings = token_grids(name, shape[along], size, context.hints)
    except LayerError:
        return []
    return [
        token_layout(shape, grid, extra, index=index, along=along, is_sure=False).turned()
        for extra, grid, _ in readings
    ]


def _plan_map(name: str, index: int, tensor: Tensor, context: _Context) -> Layout:
    shape, size, axis = tuple(tensor.shape), context.size, _channel_axis(context.module, tensor)
    first, last = map_layout(shape, index=index, axis=1), map_layout(shape, index=index, axis=tensor.ndim - 1)
    if axis is not None:
        known = last if axis == tensor.ndim - 1 else first
        fits = misfit(known.grid, size) < 2 or (axis == 1 and not _is_rearranged(known.grid, context))
        chosen = known if fits else None
    elif is_strided(first.grid, size) and misfit(last.grid, size) == 2:
        chosen = first
    else:
        # Where the locality test decides nothing, as with uniform attention matrices, the sides must fit.
        either = sorted((first, last), key=lambda layout: misfit(layout.grid, size))
        chosen = context.choose([*either, *(each.turned() for each in either)])
        chosen = chosen if chosen and (chosen.is_sure or is_strided(chosen.grid, size)) else None
    if chosen is not None and not chosen.is_turned:
        looks_turned = context.looks.is_turned(chosen)
        if looks_turned is not False:
            likely = chosen.turned() if looks_turned and context.looks.is_turned_in_front() else chosen
            # Where neither way is confirmed, the first convolutions and the layer's type decide, unless the test speaks
            # clearly against it.
            kept = None if context.clearly_refuted(likely) else likely
            chosen = (kept if likely.is_turned else None) or context.choose([chosen, chosen.turned()]) or kept
    if chosen is None:
        raise LayerError(
            f"layer {name!r} gives {_shape(tensor)}, no map of a {as_text(size)} input (attention heads or matrices, "
            "tokens rearranged); choose the layer around it or pass reshape_transform"
        )
    return chosen


def _is_rearranged(grid: Sequence[int], context: _Context) -> bool:
    """Whether the network works on a grid of as many places as this one, which is out of proportion, that isn't."""
    seen = context.hints.survey()
    proportioned = [each for each in (*seen.grids, *seen.other_grids) if misfit(each, context.size) < 2]
    return any(math.prod(each) == math.prod(grid) for each in proportioned)


def _custom(name: str, output: Any, images: Tensor, given: ReshapeTransform) -> Layout:
    def transform(output: Any) -> Tensor:
        # On a copy: the captured tensors must not be written to.
        return given(tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, detached(output)))

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
        raise SinglePositionError(
            f"layer {name!r} has a single position (grid {as_text(layout.grid)}), so it can't show where: choose a "
            "layer before pooling",
            name,
        )
    return layout


def _channel_axis(module: nn.Module, tensor: Tensor) -> int | None:
    """The dimension of channels, if the layer's type or the length of a norm's weight shows it."""
    if isinstance(module, CHANNELS_FIRST):
        return 1
    weight = getattr(module, "weight", None)
    if not is_norm(module) or not isinstance(weight, Tensor) or weight.ndim != 1:
        return None
    fitting = [axis for axis in (1, tensor.ndim - 1) if tensor.shape[axis] == len(weight)]
    if len(fitting) == 2 and type(module).forward is nn.LayerNorm.forward:  # LayerNorm2d and the like have their own
        return fitting[1]
    return fitting[0] if len(fitting) == 1 else None


def map_layout(shape: tuple[int, ...], *, index: int, axis: int) -> Layout:
    """The layout of a map (B, C, *grid), ``axis`` 1, or (B, *grid, C)."""
    if axis == 1:
        return Layout("channels first", shape, shape[2:], (0, 0), partial(_leaf, index=index), index=index, axis=1)
    transform = partial(_channels_last, index=index)
    return Layout("channels last", shape, shape[1:-1], (0, 0), transform, index=index, axis=axis)


def token_layout(
    shape: tuple[int, ...], grid: tuple[int, ...], extra: Extra, *, index: int, along: int, is_sure: bool
) -> Layout:
    """The layout of tokens (B, N, C), ``along`` 1, or (B, C, N), ``along`` 2."""
    transform = partial(_tokens, index=index, along=along, extra=extra, grid=grid)
    return Layout("tokens", shape, grid, extra, transform, is_sure, index, 3 - along)


def channel_axes(layout: Layout, output: Any) -> list[tuple[int, int]] | None:
    """Where in a layer's output the channels of a layout are: (leaf, dimension), in the order of the channels.

    A user's own layout is tried out: numbers that differ along one dimension of the output and nowhere else must come
    back as numbers that differ by channel. So it may rearrange a tensor, or resize and concatenate several.

    Args:
        layout: any.
        output: of the layer.

    Returns:
        None where the layout mixes channels.
    """
    if layout.index is not None and layout.axis is not None:
        return [(layout.index, layout.axis)]
    leaves, structure = tree_flatten(output)
    where = [index for index, leaf in enumerate(leaves) if is_float(leaf)]

    def laid_out(filled: Sequence[Tensor]) -> Tensor:
        chosen = dict(zip(where, filled, strict=True))
        return layout.transform(tree_unflatten([chosen.get(i, leaf) for i, leaf in enumerate(leaves)], structure))

    ones = [torch.ones_like(leaves[index], dtype=torch.float32) for index in where]
    plain = laid_out(ones)
    count = plain.shape[1]
    factors = torch.arange(1, count + 1, dtype=torch.float32, device=plain.device)
    expected = plain * factors.view(-1, *[1] * (plain.ndim - 2))
    for axes in product(*(range(1, each.ndim) for each in ones)):
        sizes = [each.shape[axis] for each, axis in zip(ones, axes, strict=True)]
        if sum(sizes) != count:
            continue
        parts = zip(ones, torch.split(factors, sizes), axes, strict=True)
        made = laid_out([each * part.view(-1, *[1] * (each.ndim - axis - 1)) for each, part, axis in parts])
        if torch.allclose(made, expected):
            return list(zip(where, axes, strict=True))
    return None


def _turned(output: Any, transform: ReshapeTransform) -> Tensor:
    return transform(output).transpose(-1, -2)


def _leaf(output: Any, index: int) -> Tensor:
    leaf: Tensor = tree_leaves(output)[index]
    return leaf


def _channels_last(output: Any, index: int) -> Tensor:
    return _leaf(output, index).movedim(-1, 1)


def _tokens(output: Any, index: int, along: int, extra: Extra, grid: Sequence[int]) -> Tensor:
    """(B, front + prod(grid) + back, C), or with these two exchanged, to (B, C, *grid)."""
    tokens, (front, back) = _leaf(output, index), extra
    places = tokens.narrow(along, front, tokens.shape[along] - front - back).movedim(3 - along, 1)
    return places.reshape(*places.shape[:2], *grid)


def _shape(tensor: Tensor) -> str:
    return f"({', '.join(map(str, tensor.shape))})"
