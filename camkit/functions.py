"""What functions a network calls, whatever module calls them: attention, affine maps, rectifiers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from camkit.capture import rectify_gradient

_SOFTMAX = (functional.softmax, torch.softmax, Tensor.softmax)


class Listener(TorchFunctionMode):
    """A context in which :meth:`hear` gets every function of torch that is called, in this thread."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.multi_head_attention_forward:
            # What it calls is to be heard too; as it is, it would hand itself over again.
            with self:
                return _open(func)(*args, **kwargs)
        return self.hear(func, args, kwargs)

    def hear(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call ``function``, or something in its place."""
        raise NotImplementedError


def _open(function: Any) -> Any:
    """A copy of a function of torch that doesn't look whether somebody wants to have it instead."""
    opened = FunctionType(
        function.__code__,
        {**function.__globals__, "has_torch_function": lambda *_: False},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    opened.__kwdefaults__ = function.__kwdefaults__
    return opened


class AttentionListener(Listener):
    """Keeps the probabilities of every attention, whether it is computed step by step or in one kernel.

    Kept are those from tokens to the same tokens of an image, (batch, heads, tokens, tokens).

    Args:
        batch: the number of images.
        keep: gets them. The first ones are the root of a graph, if no graph leads to them.
    """

    def __init__(self, batch: int, keep: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.others = 0
        """How many attentions within windows or to other tokens there were."""
        self._batch = batch
        self._hand_on = keep

    def hear(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Keep what a softmax makes; take fused attention apart."""
        if function is functional.scaled_dot_product_attention:
            return self._attend(*args, **kwargs)
        made = function(*args, **kwargs)
        return self._keep(made) if function in _SOFTMAX else made

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,  # noqa: FBT001 (torch's own)
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """``scaled_dot_product_attention`` by its definition; dropout is off in evaluation mode."""
        if enable_gqa:
            key, value = (each.repeat_interleave(query.shape[-3] // each.shape[-3], -3) for each in (key, value))
        similarity = query @ key.mT * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
        if is_causal:
            future = torch.ones(similarity.shape[-2:], dtype=torch.bool, device=query.device).triu(1)
            similarity = similarity.masked_fill(future, -math.inf)
        if attn_mask is not None:
            blocked = attn_mask.dtype == torch.bool
            similarity = similarity.masked_fill(~attn_mask, -math.inf) if blocked else similarity + attn_mask
        nothing = similarity.isneginf().all(-1, keepdim=True)  # what may look at nothing gets nothing
        probabilities = similarity.masked_fill(nothing, 0).softmax(-1).masked_fill(nothing, 0)
        attended: Tensor = self._keep(probabilities) @ value
        return attended

    def _keep(self, made: Tensor) -> Tensor:
        if made.ndim < 3 or made.shape[-1] < 2:
            return made
        if made.ndim == 3 and made.shape[0] % self._batch == 0:  # heads and images in one dimension
            whole = torch.unflatten(made, 0, (self._batch, -1))
        else:
            whole = made
        if whole.ndim != 4 or whole.shape[0] != self._batch or whole.shape[-1] != whole.shape[-2]:
            self.others += 1
            return made
        own = whole if whole.requires_grad else whole.detach().requires_grad_()
        self._hand_on(own)
        return own.clone().view(made.shape)


@dataclass(frozen=True)
class Affine:
    """A call of an affine function.

    Attributes:
        bias: what it adds to each channel, (C,).
        edge: where in the graph its result is.
        shape: of the result.
        axis: the dimension of the channels there.
    """

    bias: Tensor
    edge: GradientEdge
    shape: tuple[int, ...]
    axis: int


class AffineListener(Listener):
    """Keeps what every convolution, linear layer and normalisation with a bias returns, as it returns it.

    Args:
        keep: gets them.
    """

    def __init__(self, keep: Callable[[Affine], None]) -> None:
        super().__init__()
        self._hand_on = keep

    def hear(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Keep what has a bias."""
        made = function(*args, **kwargs)
        place = _AFFINE.get(function)
        if place and isinstance(made, Tensor) and made.requires_grad:
            number, axis = place
            bias = args[number] if len(args) > number else kwargs.get("bias")
            if function is functional.batch_norm:
                bias = _batch_norm_bias(*args, **kwargs)
            if bias is not None and bias.ndim == 1:  # one per channel
                # The edge stays where it is when somebody writes to the tensor.
                edge = get_gradient_edge(made)
                self._hand_on(Affine(bias.detach(), edge, tuple(made.shape), axis % made.ndim))
        return made


def _batch_norm_bias(
    images: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,  # noqa: FBT001 (torch's own)
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    """What a batch norm with fixed statistics adds to each channel: bias - mean weight / deviation."""
    if running_mean is None or running_var is None:
        return bias
    shift = -running_mean * (running_var + eps).rsqrt()
    shift = shift if weight is None else shift * weight
    return shift if bias is None else bias + shift


# Function to the position of its bias and the dimension of the channels.
_AFFINE: dict[Any, tuple[int, int]] = {
    functional.conv1d: (2, 1),
    functional.conv2d: (2, 1),
    functional.conv3d: (2, 1),
    functional.conv_transpose2d: (2, 1),
    functional.conv_transpose3d: (2, 1),
    functional.linear: (2, -1),
    functional.batch_norm: (4, 1),
    functional.group_norm: (3, 1),
    functional.instance_norm: (4, 1),
    functional.layer_norm: (3, -1),
}


class GuidedListener(Listener):
    """Lets through the backward of every rectifier only what is positive (Springenberg et al. 2015, sec. 3.4).

    Rectifiers are ReLU and ReLU6, as modules or functions.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def hear(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Guide what a rectifier returns."""
        made = function(*args, **kwargs)
        lowest = kwargs.get("min_val", args[1] if len(args) > 1 else -1)
        if function in _RECTIFIERS or (function in _CLIPS and lowest == 0):
            self.count += 1
            rectify_gradient(made)  # of what the function wrote to in place, too
        return made


_RECTIFIERS = (functional.relu, torch.relu, Tensor.relu, torch.relu_, Tensor.relu_, functional.relu6)
_CLIPS = (functional.hardtanh, functional.hardtanh_)
