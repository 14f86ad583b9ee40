"""GradCAM by hand, with torch's own hooks and nothing of camkit: what any other way must agree with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def gradcam(
    model: nn.Module, layer: nn.Module, images: Tensor, score: Callable[[Any], Tensor], call: int = -1, **given: Any
) -> Tensor:
    """The signed map (B, *S) of what one of the layer's calls returned (B, C, *S), for a score of the output."""
    kept: list[Tensor] = []

    def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        if not output.requires_grad:
            output = output.detach().requires_grad_()
        output.retain_grad()
        kept.append(output)
        return output.clone()  # what runs behind may write to it

    handle = layer.register_forward_hook(hook)
    try:
        with torch.enable_grad():
            score(model(images.clone(), **given)).backward()
    finally:
        handle.remove()
        model.zero_grad(set_to_none=True)
    gradient = kept[call].grad
    assert gradient is not None
    return torch.einsum("bc,bc...->b...", gradient.flatten(2).mean(2), kept[call].detach())


def of_class(number: int) -> Callable[[Tensor], Tensor]:
    """The sum over images of a class's logits."""
    return lambda logits: logits[:, number].sum()
