"""Listen to the functions of torch that a network calls, whatever module calls them: attention, biases, ReLUs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from camkit.compat import gradient_edge, require_gradient_edges
from camkit.engine.hooks import rectify_gradient

_SOFTMAX = (functional.softmax, torch.softmax, Tensor.softmax)


class Listener(TorchFunctionMode):
    """A context in which every call of a torch function, in this thread, goes through :meth:`hear`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.multi_head_attention_forward:
            # The functions it calls must be heard too; called as it is, it would end up here again.
            with self:
                return _open(func)(*args, **kwargs)
        return self.hear(func, args, kwargs)

    def hear(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call ``function``, or a replacement, and return the result."""
        raise NotImplementedError


def _open(function: Any) -> Any:
    """A copy of a torch function that skips its own check for ``__torch_function__`` overrides."""
    opened = FunctionType(
        function.__code__,
        {**function.__globals__, "has_torch_function": lambda *_: False},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    opened.__kwdefaults__ = function.__kwdefaults__
    return opened


class WriteListener(Listener):
    """Reports writes in place to what an operation returned.

    Args:
        operation: the operation's name, as autograd has it.
        report: called with the name of the function that writes.
    """

    def __init__(self, operation: str, report: Callable[[str], None]) -> None:
        super().__init__()
        self._operation = operation
        self._report = report

    def hear(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Look at what a function is about to write to."""
        name = getattr(function, "__name__", "")
        target = args[0] if args else None
        if isinstance(target, Tensor) and (name == "__setitem__" or name.rstrip("_") + "_" == name.lstrip("_")):
            made_by = target.grad_fn
            while made_by is not None and made_by.name().startswith(("Slice", "Select", "View", "As", "Copy")):
                made_by = made_by.next_functions[0][0] if made_by.next_functions else None
            if made_by is not None and made_by.name().startswith(self._operation):
                self._report("an assignment" if name == "__setitem__" else f"{name}()")
        return function(*args, **kwargs)


class AttentionListener(Listener):
    """Records attention probabilities, whether they are computed step by step or in a fused kernel.

    Recorded is self-attention over all tokens of an image, (batch, heads, tokens, tokens).

    Args:
        batch: the number of images.
        keep: called with the probabilities; where they are in no graph yet, they become the root of one.
    """

    def __init__(self, batch: int, keep: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.others = 0
        """How many attentions within windows or to other tokens there were."""
        self._batch = batch
        self._hand_on = keep

    def hear(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record what a softmax returns; compute fused attention step by step."""
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
        nothing = similarity.isneginf().all(-1, keepdim=True)  # a query that is masked everywhere gets zeros
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
    """A call of a convolution, linear layer or norm with a bias.

    Attributes:
        bias: what it adds to each channel, (C,).
        edge: the graph edge of its result.
        shape: of the result.
        axis: the result's dimension of channels.
    """

    bias: Tensor
    edge: Any
    shape: tuple[int, ...]
    axis: int


class AffineListener(Listener):
    """Records the calls of convolutions, linear layers and norms that have a bias.

    Args:
        keep: called with each.
    """

    def __init__(self, keep: Callable[[Affine], None]) -> None:
        super().__init__()
        require_gradient_edges("FullGrad")
        self._hand_on = keep

    def hear(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record calls with a bias."""
        made = function(*args, **kwargs)
        place = _AFFINE.get(function)
        if place and isinstance(made, Tensor) and made.requires_grad:
            number, axis = place
            bias = args[number] if len(args) > number else kwargs.get("bias")
            if function is functional.batch_norm:
                bias = _batch_norm_bias(*args, **kwargs)
            if bias is not None and bias.ndim == 1:  # one per channel
                # Unlike the tensor, the edge still means this result after an in-place operation.
                edge = gradient_edge(made)
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
    """The offset that a batch norm in evaluation adds to each channel: bias - mean weight / deviation."""
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
    """Clips gradients to positive values in the backward of every ReLU (Springenberg et al. 2015, sec. 3.4).

    ReLU6 counts too; as modules or functions.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def hear(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Clip the gradient in what a ReLU returns."""
        made = function(*args, **kwargs)
        lowest = kwargs.get("min_val", args[1] if len(args) > 1 else -1)
        if function in _RECTIFIERS or (function in _CLIPS and lowest == 0):
            self.count += 1
            rectify_gradient(made)  # of in-place ReLUs too
        return made


_RECTIFIERS = (functional.relu, torch.relu, Tensor.relu, torch.relu_, Tensor.relu_, functional.relu6)
_CLIPS = (functional.hardtanh, functional.hardtanh_)
