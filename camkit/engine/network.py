"""A model as camkit runs it: which part of its output counts, with which arguments, how much at a time."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from copy import copy
from enum import Enum
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from camkit.compat import hooked_transformers
from camkit.engine.cache import ModelCache
from camkit.engine.hooks import parse_name
from camkit.engine.model_state import borrowed
from camkit.errors import CamkitError, ForwardError, UsageError, is_out_of_memory, reason
from camkit.typing import Images, Output, Progress

_IMAGE_ARGUMENTS = (
    "pixel_values",
    "images",
    "image",
    "img",
    "imgs",
    "inputs",
    "x",
    "input_values",
    "pixel_values_videos",
)
"""What frameworks call the argument that takes the images."""


class Calls(NamedTuple):
    """What is known of a layer that runs several times in a forward.

    Attributes:
        runs: how many calls there were.
        shown: the number of the call that the bare name means.
        others: the numbers of those that could have been meant instead.
    """

    runs: int
    shown: int
    others: tuple[int, ...] = ()


_SHARED = (str, bytes, bool, int, float, complex, type(None), torch.dtype, torch.device, Enum, type, nn.Module)
"""Arguments of these types mean the same for every image."""


class Network:
    """A model, and how it is called and read.

    Args:
        model: the network; wrappers (``torch.compile``, DataParallel) are taken off.
        output: which part of its output is explained, see :func:`camkit.engine.outputs.pick_output`.
        forward_kwargs: keyword arguments of its forward.
        image_argument: the argument that takes the images; None for the first one.
        batch_size: how many perturbed images, or activations, run at a time; None asks the memory.
        progress: called with how many of how many are through.

    Raises:
        UsageError: no torch module, a TorchScript one, or a setting of the wrong kind.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        output: Output = None,
        forward_kwargs: Mapping[str, Any] | None = None,
        image_argument: str | None = None,
        batch_size: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1 or batch_size is True):
            raise UsageError(f"batch_size is a number of images, at least 1; got {batch_size!r}")
        if progress is not None and not callable(progress):
            raise UsageError(f"progress is called with how many of how many are through; got {progress!r}")
        self.model = unwrap(model)
        self.output = output
        self.forward_kwargs = dict(forward_kwargs or {})
        for name, value in self.forward_kwargs.items():
            if isinstance(value, Iterator):
                raise UsageError(
                    f"forward_kwargs[{name!r}] is a {type(value).__name__}, which can be read only once, and the model "
                    "may run more often: pass a list"
                )
        self.image_argument = image_argument
        self.batch_size = batch_size
        self.progress = progress
        self._found_whole = False

    def with_output(self, output: Output) -> Network:
        """The same network with another part of its output explained."""
        other = copy(self)
        other.output = output
        return other

    def prepare(self, images: Images) -> Images:
        """Check images, and bring them to the model's device and dtype.

        Args:
            images: (B, C, H, W), volumes (B, C, D, H, W), or signals (B, C, L) of a model without 2-D convolutions in
                front.

        Raises:
            UsageError: not a tensor, not a floating-point one, an empty batch, or another number of dimensions.
        """
        if not isinstance(images, Tensor):
            raise UsageError(f"images must be a torch.Tensor (B, C, H, W), got {type(images).__name__}")
        # Networks of images are not looked through for it in every call.
        first = None if images.ndim == 4 else self._first_convolution
        if images.ndim not in (4, 5) and not (images.ndim == 3 and (first is None or len(first.kernel_size) == 1)):
            hint = ""
            if images.ndim == 3 and first is not None:
                hint = f"; the first convolution is a {type(first).__name__}: add the batch dimension, images[None]"
            raise UsageError(
                f"images must be (B, C, H, W), volumes (B, C, D, H, W) or signals (B, C, L), got "
                f"{tuple(images.shape)}{hint}"
            )
        if not images.is_floating_point():
            raise UsageError(f"images must be normalised floats as the model takes them, got {images.dtype}")
        channels = None if first is None else first.in_channels
        if images.ndim == 5 and images.shape[2] == 3 and images.shape[1] not in (1, 3, channels):
            raise UsageError(
                f"images {tuple(images.shape)} have their frames in front of the colours: camkit takes (B, C, D, H, "
                "W); wrap the model in a module that exchanges the two"
            )
        if 0 in images.shape:
            raise UsageError(f"images are empty: {tuple(images.shape)}")
        parameter = next((each for each in self.model.parameters() if each.is_floating_point()), None)
        return images if parameter is None else images.to(parameter.device, parameter.dtype)

    @property
    def _first_convolution(self) -> _ConvNd | None:
        """The first one in the order of registration."""
        return next((each for each in self.model.modules() if isinstance(each, _ConvNd)), None)

    def borrowed(self) -> AbstractContextManager[ModelCache]:
        """Run the model in here; see :func:`camkit.engine.model_state.borrowed`."""
        return borrowed(self.model)

    def call(self, images: Images) -> Any:
        """Run the model as it is.

        Raises:
            ForwardError: it fails; the message names the innermost layer that was running.
        """
        shape = tuple(images.shape)
        try:
            with hooked_transformers(self.model):
                if self.image_argument is not None:
                    return self.model(**{self.image_argument: images}, **self.forward_kwargs)
                return self.model(images, **self.forward_kwargs)
        except Exception as error:
            if isinstance(error, CamkitError) or is_out_of_memory(error):
                raise
            where = _failing_layer(self.model, error)
            hint = _other_argument(self.model) if self.image_argument is None else ""
            raise ForwardError(f"the model fails on images {shape}{where}: {reason(error)}{hint}") from error

    @property
    def arguments(self) -> Hashable:
        """The keyword arguments as far as what is found out about the network may depend on them: kinds, not values."""
        given = tuple((name, _described(value)) for name, value in self.forward_kwargs.items())
        return self.image_argument, *given

    def shown_calls(self, names: Iterable[str], cache: ModelCache) -> dict[str, int]:
        """Of layers that run several times in a forward, the number of the call that each name means, where known."""
        found = {name: parse_name(name).call for name in names}
        for name, call in found.items():
            calls: Calls | None = cache.find(("calls", name, self.arguments)) if call is None else None
            found[name] = calls.shown if calls else call
        return {name: call for name, call in found.items() if call is not None}

    @property
    def kwargs_follow_batch(self) -> bool:
        """Whether keyword arguments may belong to the images one by one, so that no image can be shown alone.

        Whatever holds them: containers, dataclasses, objects. Only plain values, functions and modules can't.
        """
        return not _is_shared(self.forward_kwargs)

    @property
    def takes_whole_batches(self) -> bool:
        """Whether perturbed images can only be shown all together, one perturbation of each at a time.

        Networks whose arguments belong to the batch, that normalise by the batch's statistics, or that failed on
        another batch size.
        """
        if not (self._found_whole or self.kwargs_follow_batch):
            modules = self.model.modules()
            return any(isinstance(each, _BatchNorm) and each.running_mean is None for each in modules)
        return True

    def found_whole(self) -> None:
        """Note that the network fails on batches of other sizes; :mod:`camkit.engine.rerun` finds out."""
        self._found_whole = True


def _is_shared(value: Any) -> bool:
    """Whether an argument is the same for every image."""
    if isinstance(value, Mapping):
        return all(map(_is_shared, value.values()))
    return isinstance(value, _SHARED)


def _described(value: Any) -> Hashable:
    """An argument as far as default layers may depend on it: the kinds of tensors, not their values."""
    if isinstance(value, Tensor):
        return "tensor", value.ndim, value.dtype
    if isinstance(value, Mapping):
        return tuple((str(name), _described(each)) for name, each in value.items())
    if isinstance(value, list | tuple):
        return type(value), *map(_described, value)
    if isinstance(value, str | int | float | None | Enum | torch.dtype):
        return value
    return type(value).__qualname__


def unwrap(model: nn.Module) -> nn.Module:
    """The network itself, behind ``torch.compile``, DataParallel and DistributedDataParallel.

    Raises:
        UsageError: not a module, or a TorchScript module, which takes no hooks.
    """
    inner: Any = model
    while inner is not None:
        model = inner
        wrapped = "module" if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel) else "_orig_mod"
        inner = getattr(model, wrapped, None)
    if is_script(model):
        raise UsageError("a TorchScript module takes no hooks on its layers: pass the eager model it was made from")
    if not isinstance(model, nn.Module):
        raise UsageError(f"the model must be a torch.nn.Module, got {type(model).__name__}")
    return model


def _other_argument(model: nn.Module) -> str:
    """How to say which argument takes the images, where the first one seems to take something else."""
    names = [name for name in signature(model.forward).parameters if name not in ("self", "args", "kwargs")]
    known = [name for name in names[1:] if name in _IMAGE_ARGUMENTS]
    if not known or names[0] in _IMAGE_ARGUMENTS:
        return ""
    return f"; the first argument of its forward is {names[0]!r}: pass image_argument={known[0]!r}"


def is_script(model: object) -> bool:
    """Whether a module is TorchScript's."""
    from torch.jit import ScriptModule  # importing it takes a while

    return isinstance(model, ScriptModule)


def _failing_layer(model: nn.Module, error: Exception) -> str:
    """``" in layer 'backbone.conv1' (Conv2d)"``: the innermost module that was running."""
    names = {id(module): name for name, module in model.named_modules() if name}
    failed = None
    trace = error.__traceback__
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        failed = owner if id(owner) in names else failed
        trace = trace.tb_next
    return "" if failed is None else f" in layer {names[id(failed)]!r} ({type(failed).__name__})"
