"""Backwards from scores to what layers returned, or to other tensors of a recorded graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from camkit.errors import LayerError, is_out_of_memory
from camkit.typing import Scores

HALF_PRECISION_SCALE = 1024.0
"""Gradients of float16 networks are computed this much larger, as most of them lie below float16's normal range."""
BACKWARD_BYTES = 16 * 2**20
"""Several targets share a backward as long as their largest gradients take no more memory than this."""

Found = dict[int, Tensor | None]
"""The id of a leaf to the gradients (T, *leaf.shape) in it, None where the score doesn't depend on it."""


def backward(
    scores: Scores, leaves: Sequence[Any], targets: range, *, retain: bool = False
) -> tuple[Tensor | None, ...]:
    """Differentiate the scores (B, T) of some ``targets``.

    Args:
        scores: part of a graph.
        leaves: tensors of the graph, or its edges.
        targets: columns of ``scores``; they share one backward where torch can batch it, else they take turns.
        retain: whether the graph is needed again.

    Returns:
        For each leaf its gradients, (T, *leaf.shape); None where no score depends on it.
    """
    scale = _scale(scores)
    wanted = torch.zeros(len(targets), *scores.shape, dtype=scores.dtype, device=scores.device)
    for index, target in enumerate(targets):
        wanted[index, :, target] = scale

    def ask(outputs: Tensor, *, batched: bool, keep: bool) -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(
            scores, leaves, outputs, retain_graph=keep, allow_unused=True, is_grads_batched=batched
        )

    found = None
    if len(targets) > 1:
        try:
            found = ask(wanted, batched=True, keep=True)  # the graph is needed again where this fails
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise  # else vmap has no rule for some operation, and one backward after the other gives the same
    if found is None:
        last = len(targets) - 1
        by_target = [ask(each, batched=False, keep=retain or n < last) for n, each in enumerate(wanted)]
        found = tuple(None if of[0] is None else torch.stack(of) for of in zip(*by_target, strict=True))
    # Dividing copies, so it is left out where there is nothing to divide by.
    return found if scale == 1 else tuple(None if each is None else each.float() / scale for each in found)


def grouped_backwards(
    scores: Scores, layers: Mapping[str, Sequence[Tensor]], reach: float, *, keep: bool
) -> Iterator[tuple[int, Found]]:
    """Gradients of all targets' scores in the layers' outputs, for successive groups of targets.

    Targets share a backward as long as the largest of their gradients fit in :data:`BACKWARD_BYTES`; half as many do
    where memory doesn't suffice.

    Args:
        scores: (B, T), part of a graph that the layers' outputs are leaves of.
        layers: name to the tensors that the layer returned.
        reach: size of the largest downstream tensor over that of all the layers' outputs.
        keep: whether the graph is needed again afterwards.

    Yields:
        How many targets, and their gradients.

    Raises:
        LayerError: a score doesn't depend on a layer.
    """
    leaves = [leaf for kept in layers.values() for leaf in kept]
    count, first = scores.shape[1], 0
    largest = int(reach * sum(leaf.nbytes for leaf in leaves))
    together = max(1, BACKWARD_BYTES // largest)
    while first < count:
        targets = range(first, min(first + together, count))
        try:
            found = backward(scores, leaves, targets, retain=keep or targets.stop < count)
        except RuntimeError as error:
            if not is_out_of_memory(error) or len(targets) == 1:
                raise
            together = len(targets) // 2
            continue
        first = targets.stop
        by_leaf = {id(leaf): gradient for leaf, gradient in zip(leaves, found, strict=True)}
        unused = [name for name, kept in layers.items() if all(by_leaf[id(leaf)] is None for leaf in kept)]
        if unused:
            raise _independent(*unused)
        yield len(targets), by_leaf


def curvatures(scores: Scores, layers: Mapping[str, Sequence[Tensor]]) -> Iterator[tuple[Found, Found]]:
    """Gradients, and the Hessian times the activations, for one target after the other.

    Layers are taken one by one: what a layer's activations do by way of a later target layer is part of its own Hessian
    alone.

    Args:
        scores: (B, T), part of a graph that can be differentiated twice.
        layers: name to the tensors that the layer returned.

    Raises:
        LayerError: a score doesn't depend on a layer.
    """
    scale = _scale(scores)
    for target in range(scores.shape[1]):
        first: Found = {}
        second: Found = {}
        for name, leaves in layers.items():
            total = scores[:, target].sum() * scale
            found = torch.autograd.grad(total, leaves, create_graph=True, allow_unused=True)
            if all(gradient is None for gradient in found):
                raise _independent(name)
            curved = [
                (gradient, leaf)
                for gradient, leaf in zip(found, leaves, strict=True)
                if gradient is not None and gradient.requires_grad
            ]
            products: Sequence[Tensor | None] = (None,) * len(leaves)
            if curved:  # otherwise the score is linear in the layer
                gradients, directions = zip(*((g, leaf.detach()) for g, leaf in curved), strict=True)
                products = torch.autograd.grad(gradients, leaves, directions, retain_graph=True, allow_unused=True)
            for leaf, gradient, product in zip(leaves, found, products, strict=True):
                first[id(leaf)] = _of_one_target(gradient, scale)
                second[id(leaf)] = _of_one_target(product, scale)
        yield first, second


def _independent(*names: str) -> LayerError:
    listed = ", ".join(map(repr, names))
    return LayerError(f"the score doesn't depend on {listed}: choose a layer that runs before it")


def _scale(scores: Tensor) -> float:
    return HALF_PRECISION_SCALE if scores.dtype == torch.float16 else 1.0


def _of_one_target(gradient: Tensor | None, scale: float) -> Tensor | None:
    if gradient is None:
        return None
    return (gradient.detach() if scale == 1 else gradient.detach().float() / scale)[None]
