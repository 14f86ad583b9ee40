"""One forward of a borrowed model, with what its layers returned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from camkit.capture import Capture, is_float, watching
from camkit.errors import CamkitError, ForwardError, UsageError, is_out_of_memory, reason
from camkit.layers import declared_extra_tokens
from camkit.layout import Layout, ReshapeTransform, plan
from camkit.memory import PerModel
from camkit.outputs import Output
from camkit.recording import LAYERS_ALONE, Heard, Recording, listening
from camkit.shapes import Images
from camkit.state import borrowed
from camkit.survey import Survey, survey
from camkit.tokens import Hints
from camkit.trial import Trial, trials

Progress = Callable[[int, int], None]
"""Told how many changed images, or activations, of how many went through the network."""


@dataclass(frozen=True)
class Setup:
    """How a model is called, and how what it returns is read.

    Attributes:
        num_extra_tokens: for token layers, how many tokens in front belong to no place; None finds out.
        reshape_transform: the user's own layout, see :func:`camkit.layout.plan`.
        output: which part of the model's output is explained, see :func:`camkit.outputs.answer`.
        forward_kwargs: keyword arguments of the model's forward.
        batch_size: how many changed images, or activations, go through the network at a time; None asks the memory.
        progress: told how many of how many are through.
    """

    num_extra_tokens: int | None = None
    reshape_transform: ReshapeTransform | None = None
    output: Output = None
    forward_kwargs: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int | None = None
    progress: Progress | None = None

    @property
    def needs_whole_batch(self) -> bool:
        """Whether keyword arguments may belong to the images one by one, so that one image can't be shown alone."""
        return any(isinstance(value, Tensor | list | tuple) for value in self.forward_kwargs.values())


class Seen:
    """What one forward returned, as long as the model is borrowed.

    Attributes:
        images: what the model got.
        output: what it returned.
        outputs: layer name to what the layer returned, in the order of execution; layers that didn't run are absent.
        reach: how many times as large as all of ``outputs`` the largest tensor behind them is, at least.
        largest: bytes of the largest tensor of an image.
        heard: what was recorded beside layers.
        model: the network.
        setup: how it is called and read.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, nn.Module],
        images: Images,
        setup: Setup,
        output: Any,
        outputs: Mapping[str, Any],
        habit: _Habit | None,
        heard: Heard,
    ) -> None:
        self.images = images
        self.reach = habit.reach if habit else 1.0
        self.largest = habit.largest if habit else 0
        self.heard = heard
        self.model = model
        self.setup = setup
        self.output = output
        self.outputs = outputs
        self.layers = layers
        self._known = _KNOWN.of(model)
        self._sample = images if setup.needs_whole_batch else images[:1]
        self._call = partial(_call, model, setup=setup)
        kind = images.device.type
        self.autocast = partial(
            torch.autocast, kind, enabled=torch.is_autocast_enabled(kind), dtype=torch.get_autocast_dtype(kind)
        )

    def call(self, images: Images) -> Any:
        """Run the network on other images, as it ran on these.

        Raises:
            ForwardError: it fails on them.
        """
        with self.autocast():
            return self._call(images)

    def hints(self) -> Hints:
        """What is known of the network's tokens."""
        return Hints(self.setup.num_extra_tokens, declared_extra_tokens(self.model), self._survey)

    def layouts(self, name: str) -> dict[str, Layout]:
        """How to lay out what layer ``name`` returned, see :func:`camkit.layout.plan`; remembered for the model."""
        output, given = self.outputs[name], self.setup.reshape_transform
        if given is not None:
            return plan(name, self.layers[name], output, self.images, reshape_transform=given)
        # A plan holds for every batch, as long as the first dimension is the batch.
        batch = len(self.images)
        shapes = tuple((leaf.shape[:1] == (batch,), leaf.shape[1:]) for leaf in tree_leaves(output) if is_float(leaf))
        key = (name, id(self.layers[name]), shapes, tuple(self.images.shape[1:]), self.setup.num_extra_tokens)
        if key not in self._known.layouts:
            tried = partial(self._trial, name)
            self._known.layouts[key] = plan(name, self.layers[name], output, self.images, self.hints(), tried)
        return self._known.layouts[key]

    def _survey(self) -> Survey:
        """What the network tells at this size of images; made once."""
        size = tuple(self._sample.shape[1:])
        if size not in self._known.surveys:
            self._known.surveys[size] = survey(self.model, self._sample, self._call)
        return self._known.surveys[size]

    @cached_property
    def _trials(self) -> dict[str, Trial]:
        ran = {name: self.layers[name] for name in self.outputs}
        try:
            return trials(ran, self._sample, self._call)
        except ForwardError:  # the network takes no noise
            return {}

    def _trial(self, name: str) -> Trial | None:
        return self._trials.get(name)


class _Known:
    """What is remembered of a model: plans, what it told at each size of images, how it treats outputs. No tensors."""

    def __init__(self) -> None:
        self.habits: dict[Any, _Habit] = {}
        self.layouts: dict[Any, dict[str, Layout]] = {}
        self.surveys: dict[tuple[int, ...], Survey] = {}


_KNOWN = PerModel(_Known)


@contextmanager
def forward(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    images: Images,
    setup: Setup,
    *,
    roots: bool,
    copies: bool = False,
    recording: Recording = LAYERS_ALONE,
) -> Iterator[Seen]:
    """Run ``model`` once, keep what ``layers`` return, and leave the model as it was.

    Args:
        model: the network, unwrapped.
        layers: name to module.
        images: a copy in the model's device and dtype is what it gets.
        setup: how the model is called and read.
        roots: whether gradients will be asked for.
        copies: keep copies of what the layers return. Otherwise that is what the first call does, and later ones if
            the model wrote to it.
        recording: what else is kept.

    Raises:
        UsageError: images of another rank.
        ForwardError: the model fails on the images.
    """
    habits = _KNOWN.of(model).habits
    with borrowed(model):
        given = as_input(model, images).detach()
        given = given.clone() if given.is_inference() else given  # which can't be saved for backward
        key = (roots, recording, tuple(given.shape[1:]), *((name, id(module)) for name, module in layers.items()))
        habit, ran = habits.get(key), None
        shown = given.clone()  # some networks normalise their input in place
        if habit and habit.leaves_alone and not copies:
            ran = _uncopied(model, Capture(layers, roots=roots, copies=False), shown, setup, recording)
            if ran is None:
                shown, habit = given.clone(), None
        if ran is None:
            with Capture(layers, roots=roots) as capture, _Largest(model, watch=not (habit or copies)) as largest:
                output, heard = _recorded(model, shown, setup, recording)
            ran = output, capture.outputs, heard
            if not habit and not copies:
                each = largest.bytes // len(given)
                habits[key] = habit = _Habit(capture.is_untouched(output), largest.beside(capture.outputs), each)
        output, outputs, heard = ran
        # What the network may have written to is no input any more, but the root of a graph nobody wrote to.
        seen = shown if recording.inputs else given
        yield Seen(model, layers, seen, setup, output, outputs, habit, heard)


def _recorded(model: nn.Module, images: Images, setup: Setup, recording: Recording) -> tuple[Any, Heard]:
    """The model's output, and what it called on the way."""
    if recording.inputs:
        images.requires_grad_()
    with listening(model, len(images), recording) as heard:
        # A copy of the root of the graph: some networks normalise their input in place.
        output = _call(model, images.clone() if recording.inputs else images, setup)
    return output, heard


@dataclass(frozen=True)
class _Habit:
    """What a model does with what certain layers return.

    Attributes:
        leaves_alone: it writes to none of it.
        reach: how many times as large as all of it the largest tensor behind is.
        largest: bytes of the largest tensor of an image.
    """

    leaves_alone: bool
    reach: float
    largest: int


class _Largest:
    """A context that looks for the largest tensor, and the largest of a graph, among what the modules return."""

    def __init__(self, model: nn.Module, *, watch: bool) -> None:
        self.bytes: int = 0
        self._in_graph: int = 0
        self._watching = watching(model, self._look) if watch else nullcontext()

    def __enter__(self) -> _Largest:
        self._watching.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._watching.__exit__(*error)

    def _look(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        for leaf in filter(is_float, tree_leaves(output)):
            self.bytes = max(self.bytes, leaf.nbytes)
            if leaf.requires_grad:
                self._in_graph = max(self._in_graph, leaf.nbytes)

    def beside(self, outputs: Mapping[str, Any]) -> float:
        """Its size in those of all ``outputs`` together, at least 1."""
        total: int = sum(leaf.nbytes for leaf in tree_leaves(dict(outputs)) if is_float(leaf))
        return max(1.0, self._in_graph / max(total, 1))


def _uncopied(
    model: nn.Module, capture: Capture, images: Images, setup: Setup, recording: Recording
) -> tuple[Any, Mapping[str, Any], Heard] | None:
    """The model's output and the layers', without copies of these; None where the model writes to them after all."""
    try:
        with capture:
            output, heard = _recorded(model, images, setup, recording)
    except ForwardError:  # writing to the root of a graph is an error; another one comes again
        return None
    return None if capture.is_overwritten else (output, capture.outputs, heard)


def as_input(model: nn.Module, images: Images) -> Images:
    """``images`` on the model's device and in its dtype.

    Raises:
        UsageError: not a tensor, not a floating-point one, an empty batch, or neither 4-D nor 5-D.
    """
    if not isinstance(images, Tensor):
        raise UsageError(f"images must be a torch.Tensor (B, C, H, W), got {type(images).__name__}")
    if images.ndim not in (4, 5):
        hint = "; add the batch dimension: images[None]" if images.ndim == 3 else ""
        raise UsageError(f"images must be (B, C, H, W) or (B, C, D, H, W), got {tuple(images.shape)}{hint}")
    if not images.is_floating_point():
        raise UsageError(f"images must be normalised floats as the model takes them, got {images.dtype}")
    if images.ndim == 5 and images.shape[2] == 3 and images.shape[1] not in (1, 3):
        raise UsageError(
            f"images {tuple(images.shape)} have their frames in front of the colours: camkit takes (B, C, D, H, W); "
            "wrap the model in a module that exchanges the two"
        )
    if 0 in images.shape:
        raise UsageError(f"images are empty: {tuple(images.shape)}")
    parameter = next((parameter for parameter in model.parameters() if parameter.is_floating_point()), None)
    return images if parameter is None else images.to(parameter.device, parameter.dtype)


def _call(model: nn.Module, images: Images, setup: Setup) -> Any:
    shape = tuple(images.shape)
    try:
        return model(images, **setup.forward_kwargs)
    except Exception as error:
        if isinstance(error, CamkitError) or is_out_of_memory(error):
            raise
        raise ForwardError(f"the model fails on images {shape}{_place(model, error)}: {reason(error)}") from error


def _place(model: nn.Module, error: Exception) -> str:
    """``" in layer 'backbone.conv1' (Conv2d)"``: the innermost module that was running."""
    names = {id(module): name for name, module in model.named_modules() if name}
    failed = None
    trace = error.__traceback__
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        failed = owner if id(owner) in names else failed
        trace = trace.tb_next
    return "" if failed is None else f" in layer {names[id(failed)]!r} ({type(failed).__name__})"
