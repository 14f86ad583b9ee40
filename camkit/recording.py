"""What is recorded of a forward beside the outputs of layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from camkit.capture import watching
from camkit.functions import Affine, AffineListener, AttentionListener


@dataclass(frozen=True)
class Recording:
    """What is recorded of a forward beside layers.

    Attributes:
        inputs: a graph that begins with the images.
        twice: a graph that can be differentiated twice.
        attention: the probabilities of every attention.
        biases: where in the graph biases were added.
    """

    inputs: bool = False
    twice: bool = False
    attention: bool = False
    biases: bool = False


LAYERS_ALONE = Recording()


@dataclass
class Heard:
    """What functions the network called, each with the names of the modules that were running, outermost first."""

    attention: list[tuple[tuple[str, ...], Tensor]] = field(default_factory=list)
    other_attention: int = 0
    affine: list[tuple[tuple[str, ...], Affine]] = field(default_factory=list)


@contextmanager
def listening(model: nn.Module, batch: int, recording: Recording) -> Iterator[Heard]:
    """A context around one forward of ``batch`` images, in which what is asked for is recorded.

    A graph that begins with the images is the caller's to begin.
    """
    heard = Heard()
    with ExitStack() as stack:
        if recording.twice:  # the fused kernels of attention have no second derivative
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        path: Sequence[str] = ()
        if recording.attention or recording.biases:
            path = stack.enter_context(_path(model))
        if recording.attention:
            attention = AttentionListener(batch, lambda kept: heard.attention.append((tuple(path), kept)))
            stack.enter_context(attention)
        if recording.biases:
            stack.enter_context(AffineListener(lambda kept: heard.affine.append((tuple(path), kept))))
        yield heard
        if recording.attention:
            heard.other_attention = attention.others


@contextmanager
def _path(model: nn.Module) -> Iterator[Sequence[str]]:
    """A context with the names of the modules that are running, outermost first; the model itself has none."""
    names = {id(module): name for name, module in model.named_modules()}
    path: list[str] = []

    def enter(module: nn.Module) -> None:
        path.append(names[id(module)])

    def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        while path.pop() != names[id(module)]:  # those that were left by an exception somebody caught
            pass

    with watching(model, leave, enter):
        yield path
