"""One forward of a borrowed model, with what its layers returned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from camkit.capture import Capture
from camkit.errors import CamkitError, ForwardError, UsageError, is_out_of_memory, reason
from camkit.layers import declared_extra_tokens
from camkit.layout import Layout, ReshapeTransform, plan
from camkit.outputs import Output
from camkit.shapes import Images
from camkit.state import borrowed
from camkit.survey import Survey, survey
from camkit.tokens import Hints


@dataclass(frozen=True)
class Setup:
    """How a model is called, and how what it returns is read.

    Attributes:
        num_extra_tokens: for token layers, how many tokens in front belong to no place; None finds out.
        reshape_transform: the user's own layout, see :func:`camkit.layout.plan`.
        output: which part of the model's output is explained, see :func:`camkit.outputs.answer`.
        forward_kwargs: keyword arguments of the model's forward. Tensors with the batch first are taken apart like it
            where a part of the batch is looked at.
    """

    num_extra_tokens: int | None = None
    reshape_transform: ReshapeTransform | None = None
    output: Output = None
    forward_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def first_of(self, batch: int) -> Setup:
        """The same for the first image of a batch."""
        taken = {
            name: value[:1] if isinstance(value, Tensor) and value.ndim and len(value) == batch else value
            for name, value in self.forward_kwargs.items()
        }
        return replace(self, forward_kwargs=taken)


class Seen:
    """What one forward returned, as long as the model is borrowed.

    Attributes:
        images: what the model got.
        output: what it returned.
        outputs: layer name to what the layer returned, in the order of execution; layers that didn't run are absent.
    """

    def __init__(self, model: nn.Module, images: Images, setup: Setup, output: Any, outputs: Mapping[str, Any]) -> None:
        self.images = images
        self.output = output
        self.outputs = outputs
        self._setup = setup
        self._hints = Hints(
            setup.num_extra_tokens, declared_extra_tokens(model), partial(_surveyed, model, images, setup)
        )

    def layouts(self, name: str, module: nn.Module) -> dict[str, Layout]:
        """See :func:`camkit.layout.plan`."""
        given = self._setup.reshape_transform
        return plan(name, module, self.outputs[name], self.images, self._hints, reshape_transform=given)


@contextmanager
def forward(
    model: nn.Module, layers: Mapping[str, nn.Module], images: Images, setup: Setup, *, roots: bool
) -> Iterator[Seen]:
    """Run ``model`` once, keep what ``layers`` return, and leave the model as it was.

    Raises:
        UsageError: images of another rank.
        ForwardError: the model fails on the images.
    """
    with borrowed(model):
        # A copy: some networks normalise their input in place, and tensors made under inference mode can't be saved
        # for backward while their clones can.
        images = as_input(model, images).detach().clone()
        with Capture(layers, roots=roots) as capture:
            output = _call(model, images, setup)
        yield Seen(model, images, setup, output, capture.outputs)


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


_SURVEYS: WeakKeyDictionary[nn.Module, dict[tuple[int, ...], Survey]] = WeakKeyDictionary()


def _surveyed(model: nn.Module, images: Images, setup: Setup) -> Survey:
    """What a survey of the model at this size of images told, made once."""
    known = _SURVEYS.setdefault(model, {})
    size = tuple(images.shape[1:])
    if size not in known:
        known[size] = survey(model, images[:1], partial(_call, model, setup=setup.first_of(len(images))))
    return known[size]
