"""Find layouts of a forward's layers, and reuse them: a layout found at one image size is a rule for the next."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from torch import Tensor

from camkit.compat import tree_leaves
from camkit.engine.forward import Forward
from camkit.engine.rerun import alone_or_whole
from camkit.engine.tensors import detached, floats
from camkit.errors import ForwardError, LayerError
from camkit.layers.layout import Layout, Looks, map_layout, plan, token_layout
from camkit.layers.locality import STRONG, Trial, trials
from camkit.layers.names import backbone_modules, declared_extra_tokens, is_norm
from camkit.layers.orientation import Orientation
from camkit.layers.survey import Grid, Survey, along_flat, is_flat, survey
from camkit.layers.token_grid import Hints, misfit
from camkit.typing import Images, ReshapeTransform


class LayoutFinder:
    """Lays out what the layers of one forward returned.

    Args:
        forward: its model is borrowed.
        num_extra_tokens: how many tokens in front of the grid belong to no place; None finds out.
        reshape_transform: the user's own layout.
    """

    def __init__(
        self,
        forward: Forward,
        num_extra_tokens: int | None = None,
        reshape_transform: ReshapeTransform | None = None,
    ) -> None:
        self._forward = forward
        self._num_extra_tokens = num_extra_tokens
        self._reshape_transform = reshape_transform
        self._size: Grid = tuple(forward.images.shape[2:])

    def of_forward(self, forward: Forward) -> LayoutFinder:
        """The same for another forward."""
        return LayoutFinder(forward, self._num_extra_tokens, self._reshape_transform)

    def of(self, name: str) -> dict[str, Layout]:
        """How to lay out what layer ``name`` returned, by branch, see :func:`camkit.layers.layout.plan`.

        Remembered for the model. Where a layout found at another image size applies, it takes arithmetic alone.

        Raises:
            LayerError: the layer doesn't run, or can't be laid out.
        """
        forward = self._forward
        if name not in forward.outputs:
            raise LayerError(f"layer {name!r} {_absent(forward.counts.get(name, 0))}")
        output, module = forward.outputs[name], forward.layers[name]
        if self._reshape_transform is not None:
            return plan(name, module, output, forward.images, reshape_transform=self._reshape_transform)
        leaves = floats(output)
        by_batch = tuple(leaf.shape[:1] == forward.images.shape[:1] for leaf in leaves)
        about = (
            name,
            forward.calls.get(name),
            forward.network.arguments,
            self._num_extra_tokens,
            by_batch,
            tuple(leaf.ndim for leaf in leaves),
            forward.images.ndim,
        )
        with forward.network.borrowed() as cache:
            rules: Mapping[str, Rule] | None = cache.find(("layout rule", *about))
            if rules is not None:
                here = {branch: rule.at(output, self._size) for branch, rule in rules.items()}
                if all(here.values()):
                    found = {branch: rule for branch, rule in here.items() if rule is not None}
                    if found != rules:
                        cache.keep(("layout rule", *about), found)
                    return {branch: rule.layout for branch, rule in found.items()}
            shapes = tuple(leaf.shape[1:] for leaf in leaves)
            turned = partial(self.orientation.of_layer, name), self._turned_in_front
            looks = Looks(*turned, partial(self._neighbours, name))
            find = partial(plan, name, module, output, forward.images, self.hints, partial(self._trial, name), looks)
            layouts = cache.remember(("layout", *about, shapes, self._size), find)
            if all(layout.is_sure for layout in layouts.values()):
                before = rules or {}
                rules = {branch: Rule.of(each, self._size, before.get(branch)) for branch, each in layouts.items()}
                cache.keep(("layout rule", *about), rules)
        return layouts

    @property
    def hints(self) -> Hints:
        """What is known of the network's tokens."""
        return Hints(self._num_extra_tokens, declared_extra_tokens(self._forward.network.model), self._survey)

    def _survey(self) -> Survey:
        network, call = self._forward.network, self._forward.call
        with network.borrowed() as cache:
            key = ("survey", network.arguments, tuple(self._forward.images.shape[1:]))
            find = partial(alone_or_whole, network, lambda image: survey(network.model, self._sample(image), call))
            return cache.remember(key, find)

    def _sample(self, image: int | None) -> Images:
        """The first image, or all of them."""
        return self._forward.images if image is None else self._forward.images[:1]

    @cached_property
    def _trials(self) -> dict[str, Trial]:
        forward, calls = self._forward, self._forward.calls
        ran = {**self.orientation.witnesses, **{name: forward.layers[name] for name in forward.outputs}}
        try:
            return alone_or_whole(
                self._forward.network,
                lambda image: trials(ran, self._sample(image), forward.call, calls),
            )
        except ForwardError:  # the network takes no noise
            return {}

    @cached_property
    def orientation(self) -> Orientation:
        """Whether the network exchanges the image's sides."""
        return Orientation(self._forward)

    def _turned_in_front(self) -> bool | None:
        """What the locality test of the network's first convolutions shows, the last of them first."""
        tests = [self._trials[name] for name in self._trials if name in self.orientation.witnesses]
        for test in reversed(tests):
            if isinstance(test.plain, Tensor) and test.plain.ndim == 4 and min(test.plain.shape[2:]) > 1:
                as_it_is, turned = test.verdict(detached), test.verdict(lambda plain: detached(plain).mT)
                if as_it_is != turned:
                    return bool(turned)
        return None

    def _neighbours(self, name: str, layout: Layout, is_own_weak: bool = False) -> bool | None:  # noqa: FBT001
        """What the nearest norm layer in front of a layer shows, among those with as many tokens.

        A sequence keeps its order from layer to layer. So places are places behind a layer where they are, and nothing
        behind one that has nothing to do with the image (learned queries, latents). Where none shows it clearly they
        vote: a layer's own weak verdict, which may be chance, can be outvoted; no verdict at all can't.
        """
        index = layout.index or 0

        def transform(leaf: Tensor) -> Tensor:
            return layout.transform([leaf] * (index + 1))

        votes = []
        for each, trial in reversed(self._up_to(name).items()):
            leaf = trial.plain
            if each != name and isinstance(leaf, Tensor) and leaf.shape[1:2] == layout.shape[1:2]:
                if trial.is_blind:
                    return False
                if trial.verdict(transform, STRONG):
                    return True
                votes.append(trial.verdict(transform))
        refuted = votes.count(False) > votes.count(True)
        if is_own_weak and refuted:
            return False
        return True if True in votes and not refuted else None

    def _up_to(self, name: str) -> dict[str, Trial]:
        """The locality test of the backbone's norm layers up to a layer, in the order of execution."""
        names = list(self._wide_trials)
        return {each: self._wide_trials[each] for each in names[: names.index(name) + 1]} if name in names else {}

    @cached_property
    def _wide_trials(self) -> Mapping[str, Trial]:
        """The locality test of the forward's layers and of the backbone's norm layers."""
        forward = self._forward
        modules = backbone_modules(forward.network.model)
        layers = {**{name: module for name, module in modules.items() if is_norm(module)}, **forward.layers}
        if set(layers) == set(forward.layers):
            return {name: trial for name, trial in self._trials.items() if name in layers}
        try:
            return alone_or_whole(
                forward.network, lambda image: trials(layers, self._sample(image), forward.call, forward.calls)
            )
        except ForwardError:  # the network takes no noise
            return {}

    def keeps_places(self, name: str) -> bool | None:
        """Whether what layer ``name`` returned follows the places of the images; None if that can't be told."""
        try:
            layouts, trial = self.of(name), self._trial(name)
        except LayerError:
            return False
        verdicts = [trial.verdict(layout.transform) for layout in layouts.values()] if trial else []
        return None if None in verdicts or not verdicts else all(verdicts)

    def _trial(self, name: str) -> Trial | None:
        return self._trials.get(name)


def _absent(count: int) -> str:
    if not count:
        return "doesn't run in this forward (or is called past its hooks)"
    return f"runs {count} times in this forward: its calls are @0 to @{count - 1}"


Strides = Mapping[int, range]
"""Whole strides, each with the offsets that it may have: a side of n pixels has (n + offset) // stride cells.

Convolutions and pools, and any number of them in a row, make grids so, whatever their kernels, padding and rounding.
"""


@dataclass(frozen=True)
class Rule:
    """A layout as it applies at other image sizes.

    A layer keeps its dimension of channels, its tokens without a place and its stride; what changes with the image is
    the grid, which must be what the stride gives.

    Attributes:
        layout: at the image size that was seen last.
        size: that image size.
        strides: those that explain the grids at all image sizes seen so far.
    """

    layout: Layout
    size: Grid
    strides: Strides

    @classmethod
    def of(cls, layout: Layout, size: Grid, before: Rule | None = None) -> Rule:
        """The rule behind a layout that was found for images of ``size``, and behind an earlier one."""
        every = {stride: range(-stride, stride) for stride in range(1, max(size) + 1)}
        known = before.strides if before else every
        return cls(layout, size, _explaining(known, size, layout.grid) or _explaining(every, size, layout.grid))

    def at(self, output: Any, size: Grid) -> Rule | None:
        """The rule at another image size, None where it doesn't apply for sure."""
        layout = self.layout
        if layout.index is None or layout.axis is None:
            return None
        leaf: Tensor = tree_leaves(output)[layout.index]
        shape = tuple(leaf.shape)
        if shape[1:] == layout.shape[1:] and size == self.size:
            return self
        if layout.form != "tokens":
            made = map_layout(shape, index=layout.index, axis=layout.axis)
            made = made.turned() if layout.is_turned else made
            strides = _explaining(self.strides, size, made.grid)
            fits = math.prod(made.grid) > 1 and (strides or misfit(made.grid, size) < 2)
            return Rule(replace(made, is_sure=layout.is_sure), size, strides or self.strides) if fits else None
        along = 3 - layout.axis
        places = shape[along] - sum(layout.extra_tokens)
        if is_flat(size):
            shown = along_flat(size, places)
            made = token_layout(
                shape, shown, layout.extra_tokens, index=layout.index, along=along, is_sure=layout.is_sure
            )
            return Rule(made, size, self.strides) if 1 < places <= max(size) else None
        fitting = {grid for grid in _grids(self.strides, size) if math.prod(grid) == places > 1 and min(grid) > 0}
        if len(fitting) != 1:
            return None
        (grid,) = fitting
        rows = (*grid[:-2], grid[-1], grid[-2]) if layout.is_turned else grid
        made = token_layout(shape, rows, layout.extra_tokens, index=layout.index, along=along, is_sure=layout.is_sure)
        made = made.turned() if layout.is_turned else made
        return Rule(made, size, _explaining(self.strides, size, grid))


def _explaining(strides: Strides, size: Grid, grid: Grid) -> Strides:
    """Those of the strides and offsets that make ``grid`` of images of ``size``."""
    found = {}
    for stride, offsets in strides.items():
        lowest = [cells * stride - side for cells, side in zip(grid, size, strict=True)]
        left = range(max(offsets.start, *lowest), min(offsets.stop, *(each + stride for each in lowest)))
        if left:
            found[stride] = left
    return found


def _grids(strides: Strides, size: Grid) -> set[Grid]:
    """The grids that strides make of images of ``size``."""
    return {
        tuple((side + offset) // stride for side in size) for stride, offsets in strides.items() for offset in offsets
    }
