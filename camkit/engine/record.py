"""Run a network once and keep what its layers return."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from camkit.compat import autocast_state, plain_attention
from camkit.engine.forward import Forward, Heard
from camkit.engine.hooks import Capture, watching
from camkit.engine.listeners import AffineListener, AttentionListener, WriteListener
from camkit.engine.network import Network
from camkit.engine.scores import target_rows
from camkit.engine.tensors import floats
from camkit.errors import CamkitError, ForwardError, LayerError
from camkit.methods.needs import Recording
from camkit.typing import Images, Targets


@contextmanager
def record(
    network: Network,
    images: Images,
    layers: Mapping[str, nn.Module],
    targets: Targets = None,
    recording: Recording = Recording(),  # noqa: B008 (frozen)
    *,
    copies: bool = False,
) -> Iterator[Forward]:
    """Run a network once, keep what ``layers`` return, and leave the model as it was.

    The first time, what layers return is kept as copies; later without, unless the network was seen to write to it.

    Args:
        network: what runs.
        images: prepared, (B, C, *size).
        layers: name to module.
        targets: of the images.
        recording: what else is kept.
        copies: keep copies whatever was seen, and learn nothing: for layers that are looked at once.

    Yields:
        The forward; its gradients are to be taken inside the context.

    Raises:
        UsageError: targets that don't match the images.
        ForwardError: the model fails on the images.
    """
    wanted = target_rows(targets, len(images))
    kind = images.device.type
    enabled, dtype = autocast_state(kind)
    autocast = partial(torch.autocast, kind, enabled=enabled, dtype=dtype)
    with network.borrowed() as cache:
        given = images.detach()
        given = given.clone() if given.is_inference() else given  # which can't be saved for backward
        # Whether a network writes to a layer's output doesn't depend on the size of its images.
        calls = network.shown_calls(layers, cache)
        key = ("habit", recording, *((name, id(module), calls.get(name)) for name, module in layers.items()))
        habit: _Habit | None = cache.find(key)
        ran = None
        shown = given.clone()  # some networks normalise their input in place
        if habit and habit.leaves_alone and not copies:
            ran = _without_copies(network, layers, shown, recording, calls)
            if ran is None:
                shown, habit = given.clone(), None
        if ran is None:
            with (
                Capture(layers, roots=recording.gradients, calls=calls) as capture,
                _Largest(network.model, watch=not (habit or copies)) as largest,
            ):
                output, heard = _run(network, shown, recording)
            ran = output, capture, heard
            if not habit and not copies:
                habit = cache.keep(key, _habit(capture, output, largest, given))
        output, capture, heard = ran
        with torch.autocast(kind, enabled=False), _explained_writes(network, given, layers, calls, recording):
            yield Forward(
                network=network,
                # What the network may have written to is no input any more, but the root of a graph nobody wrote to.
                images=shown if recording.inputs else given,
                output=output,
                outputs=capture.outputs,
                counts=capture.counts,
                calls=calls,
                layers=layers,
                wanted=wanted,
                heard=heard,
                reach=habit.reach if habit else 1.0,
                row_bytes=int(habit.growth * given[0].nbytes) if habit else 0,
                autocast=autocast,
            )


def largest_row(network: Network, images: Images) -> int:
    """Bytes of the largest tensor that one image makes in a forward; found out once per size of images.

    Args:
        network: borrowed.
        images: prepared, (B, C, *size).

    Raises:
        ForwardError: the model fails on the images.
    """

    def measured() -> int:
        with _Largest(network.model, watch=True) as largest:
            network.call(images.clone())
        return max(largest.bytes, images.nbytes) // len(images)

    with network.borrowed() as cache, torch.no_grad():
        return cache.remember(("largest row", images.shape[1:], images.dtype, network.arguments), measured)


_WRITTEN = re.compile(r"modified by an inplace operation: .*which is output \d+ of (\w+?)(?:Backward\d*)?,")
"""What torch says where a backward needs what was written to since."""


@contextmanager
def _explained_writes(
    network: Network, images: Images, layers: Mapping[str, nn.Module], calls: Mapping[str, int], recording: Recording
) -> Iterator[None]:
    """A context in which the error of a backward through what the network wrote to says who wrote."""
    try:
        yield
    except RuntimeError as error:
        found = _WRITTEN.search(str(error))
        if isinstance(error, CamkitError) or found is None:
            raise
        written = f"the output of {found[1]}"
        writes: list[tuple[str, str]] = []
        with (
            Capture(layers, roots=True, calls=calls),
            _running_modules(network.model) as path,
            WriteListener(found[1], lambda name: writes.append((name, path[-1] if path else ""))),
        ):
            _run(network, images.clone(), recording)
        who = ""
        if writes:
            name, module = writes[-1]
            who = f", by {name} in {f'layer {module!r}' if module else 'the forward of the model'}"
        raise LayerError(
            f"behind the target layer the network writes in place to {written}{who}, which the gradient needs: let it "
            "make a new tensor there, or take a method without gradients, such as EigenCAM or ScoreCAM"
        ) from error


@dataclass(frozen=True)
class _Habit:
    """What a network does with what certain layers return.

    Attributes:
        leaves_alone: it writes to none of it.
        reach: see :class:`camkit.engine.forward.Forward`.
        growth: size of the largest tensor that an image makes over the image's own.
    """

    leaves_alone: bool
    reach: float
    growth: float


def _habit(capture: Capture, output: Any, largest: _Largest, images: Images) -> _Habit:
    return _Habit(capture.is_untouched(output), largest.over(capture.outputs), largest.bytes / images.nbytes)


def _without_copies(
    network: Network, layers: Mapping[str, nn.Module], images: Images, recording: Recording, calls: Mapping[str, int]
) -> tuple[Any, Capture, Heard] | None:
    """The output and the layers', without copies of these; None where the network writes to them after all."""
    capture = Capture(layers, roots=recording.gradients, copies=False, calls=calls)
    try:
        with capture:
            output, heard = _run(network, images, recording)
    except ForwardError:  # writing to the root of a graph is an error; another one comes again
        return None
    return None if capture.is_overwritten else (output, capture, heard)


def _run(network: Network, images: Images, recording: Recording) -> tuple[Any, Heard]:
    """The network's output, and the functions that it called on the way."""
    if recording.inputs:
        images.requires_grad_()
    with _listening(network.model, len(images), recording) as heard:
        # A copy of the root of the graph: some networks normalise their input in place.
        output = network.call(images.clone() if recording.inputs else images)
    return output, heard


@contextmanager
def _listening(model: nn.Module, batch: int, recording: Recording) -> Iterator[Heard]:
    """A context around one forward of ``batch`` images, in which the functions asked for are recorded."""
    heard = Heard()
    with ExitStack() as stack:
        if recording.twice:  # the fused kernels of attention have no second derivative
            stack.enter_context(plain_attention())
        path: Sequence[str] = ()
        if recording.attention or recording.biases:
            path = stack.enter_context(_running_modules(model))
        if recording.attention:
            attention = AttentionListener(batch, lambda kept: heard.attention.append((tuple(path), kept)))
            stack.enter_context(attention)
        if recording.biases:
            stack.enter_context(AffineListener(lambda kept: heard.affine.append((tuple(path), kept))))
        yield heard
        if recording.attention:
            heard.other_attention = attention.others


@contextmanager
def _running_modules(model: nn.Module) -> Iterator[Sequence[str]]:
    """A context with the names of the modules that are running, outermost first; the model itself is ``""``."""
    names = {id(module): name for name, module in model.named_modules()}
    path: list[str] = []

    def enter(module: nn.Module) -> None:
        path.append(names[id(module)])

    def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        while path.pop() != names[id(module)]:  # those that were left by an exception somebody caught
            pass

    with watching(model, leave, enter):
        yield path


class _Largest:
    """A context that looks for the largest tensor, and the largest in a graph, among what modules return."""

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
        for leaf in floats(output):
            self.bytes = max(self.bytes, leaf.nbytes)
            if leaf.requires_grad:
                self._in_graph = max(self._in_graph, leaf.nbytes)

    def over(self, outputs: Mapping[str, Any]) -> float:
        """Size of the largest tensor in the graph over that of all ``outputs``; at least 1."""
        total: int = sum(leaf.nbytes for leaf in floats(dict(outputs)))
        return max(1.0, self._in_graph / max(total, 1))
