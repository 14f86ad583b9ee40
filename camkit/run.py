"""One forward and the backwards it needs: images to activations, gradients and scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from camkit.capture import Capture, is_float
from camkit.errors import LayerError, UsageError
from camkit.layers import declared_extra_tokens
from camkit.layout import Layout, ReshapeTransform, plan
from camkit.shapes import Activations, Images
from camkit.state import borrowed
from camkit.targets import Target, Targets, logits_of, rows, score

HALF_PRECISION_SCALE = 1024.0
"""Gradients of float16 networks are computed this much larger, as most of them lie below float16's normal range."""


class Pass:
    """What one forward left behind; gradients are computed as they are asked for.

    Attributes:
        activations: layer name to (B, C, *spatial), float32 (float64 for a float64 network).
        layouts: layer name to how its output was laid out.
        logits: (B, K), detached.
        chosen: class indices (B, T), or the rows of targets as given where a score function is among them.
        scores: (B, T), detached.
    """

    def __init__(
        self,
        output: Any,
        outputs: Mapping[str, Any],
        layouts: dict[str, Layout],
        wanted: list[list[Target]] | None,
        batch: int,
    ) -> None:
        logits = logits_of(output)
        self.chosen, self._scores = score(logits, wanted, batch=batch)
        self.logits, self.scores = logits.detach(), self._scores.detach()
        self.layouts = layouts
        self._outputs = outputs
        self.activations: dict[str, Activations] = {
            name: layout(_detached(outputs[name])) for name, layout in layouts.items()
        }

    def gradients(self, target: int) -> dict[str, Activations]:
        """Gradient of every image's score number ``target`` in every layer, laid out like the activations.

        Raises:
            LayerError: the score doesn't depend on a layer.
        """
        kept = {name: [leaf for leaf in tree_leaves(self._outputs[name]) if is_float(leaf)] for name in self.layouts}
        leaves = [leaf for layer in kept.values() for leaf in layer]
        total = self._scores[:, target].sum()
        if not total.requires_grad:
            raise LayerError(f"no gradient reaches {_names(kept)}: the layer runs after the score, or under no_grad")
        found, scale = backward(total, leaves, retain=target < self._scores.shape[1] - 1)
        of = {id(leaf): gradient for leaf, gradient in zip(leaves, found, strict=True)}
        unused = [name for name, layer in kept.items() if all(of[id(leaf)] is None for leaf in layer)]
        if unused:
            raise LayerError(f"the score doesn't depend on {_names(unused)}: choose a layer that runs before it")
        laid_out = {
            name: layout(tree_map(lambda leaf: _gradient(leaf, of), self._outputs[name]))
            for name, layout in self.layouts.items()
        }
        # Dividing copies, so it is left out where there is nothing to divide by.
        return laid_out if scale == 1 else {name: gradient / scale for name, gradient in laid_out.items()}


def backward(
    total: Tensor, leaves: Sequence[Tensor], *, retain: bool = False
) -> tuple[tuple[Tensor | None, ...], float]:
    """Gradients of ``total`` in ``leaves`` (None: it doesn't depend on one), and the factor they are too large by."""
    scale = HALF_PRECISION_SCALE if total.dtype == torch.float16 else 1.0
    return torch.autograd.grad(
        total, leaves, torch.full_like(total, scale), retain_graph=retain, allow_unused=True
    ), scale


@contextmanager
def run(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    images: Images,
    targets: Targets = None,
    *,
    gradients: bool = True,
    num_extra_tokens: int | None = None,
    reshape_transform: ReshapeTransform | None = None,
) -> Iterator[Pass]:
    """Run ``model`` once, keep what ``layers`` return, and leave the model as it was.

    Args:
        model: the network, unwrapped.
        layers: name to target layer.
        images: (B, C, H, W) or (B, C, D, H, W); a copy in the model's device and dtype is what it gets.
        targets: see :func:`camkit.targets.rows`.
        gradients: whether :meth:`Pass.gradients` will be called.
        num_extra_tokens: see :func:`camkit.layout.plan`.
        reshape_transform: see :func:`camkit.layout.plan`.

    Yields:
        The pass. Its gradients are to be taken inside the ``with`` block.

    Raises:
        UsageError: images of another rank, or targets that don't match the batch.
        LayerError: a layer that doesn't run or can't be laid out.
    """
    wanted = rows(targets, len(images))
    with borrowed(model):
        # A copy: some networks normalise their input in place, and tensors made under inference mode can't be saved
        # for backward while their clones can.
        images = as_input(model, images).detach().clone()
        with Capture(layers, roots=gradients) as capture:
            output = model(images)
        layouts = {}
        for name, module in layers.items():
            if name not in capture.outputs:
                raise LayerError(f"layer {name!r} doesn't run in this forward (or is called past its hooks)")
            layouts[name] = plan(
                name,
                module,
                capture.outputs[name],
                images,
                num_extra_tokens=num_extra_tokens,
                declared_extra_tokens=declared_extra_tokens(model),
                reshape_transform=reshape_transform,
            )
        with torch.autocast(images.device.type, enabled=False):
            yield Pass(output, capture.outputs, layouts, wanted, len(images))


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


def _detached(output: Any) -> Any:
    return tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, output)


def _gradient(leaf: Any, of: Mapping[int, Tensor | None]) -> Any:
    if not is_float(leaf):
        return leaf
    gradient = of[id(leaf)]
    return torch.zeros_like(leaf) if gradient is None else gradient


def _names(names: Any) -> str:
    return ", ".join(repr(name) for name in names)
