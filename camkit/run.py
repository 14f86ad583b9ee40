"""One forward and the backwards it needs: images to activations, gradients and scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from camkit.capture import is_float
from camkit.errors import LayerError, is_out_of_memory
from camkit.forward import Seen, Setup, forward
from camkit.layout import Layout
from camkit.outputs import Answer, answer
from camkit.shapes import Activations, Images
from camkit.targets import Rows, Targets, rows, score

HALF_PRECISION_SCALE = 1024.0
"""Gradients of float16 networks are computed this much larger, as most of them lie below float16's normal range."""
BACKWARD_BYTES = 64 * 2**20
"""Several targets share a backward as long as their gradients in the target layers take no more memory than this."""


class Pass:
    """What one forward left behind; gradients are computed as they are asked for.

    Attributes:
        activations: layer name to (B, C, *spatial), float32 (float64 for a float64 network). A layer with several
            feature tensors has a name for each: ``name[0]``, ``name[1]``.
        layouts: the same names to how the output was laid out.
        answer: the part of the model's output that is explained, part of the graph.
        logits: (B, K), detached; (B, 0) where the model returns no tensor.
        chosen: class indices (B, T), or the rows of targets as given where a score function is among them.
        scores: (B, T), detached.
    """

    def __init__(
        self,
        found: Answer,
        outputs: Mapping[str, Any],
        layouts: Mapping[str, Mapping[str, Layout]],
        wanted: Rows | None,
    ) -> None:
        self.answer = found
        self.chosen, self._scores = score(found.rows, wanted)
        self.scores = self._scores.detach()
        self.logits = found.rows.detach() if isinstance(found.rows, Tensor) else self.scores[:, :0]
        self.layouts = {name: layout for branches in layouts.values() for name, layout in branches.items()}
        self._branches = layouts
        self._outputs = outputs
        self.activations: dict[str, Activations] = self._laid_out({n: _detached(outputs[n]) for n in layouts})

    def gradients(self) -> Iterator[dict[str, Activations]]:
        """For one target after the other, the gradient of every image's score of it in every layer.

        Laid out like the activations. Several targets share a backward as long as their gradients fit in
        :data:`BACKWARD_BYTES`.

        Raises:
            LayerError: a score doesn't depend on a layer.
        """
        kept = {name: [leaf for leaf in tree_leaves(self._outputs[name]) if is_float(leaf)] for name in self._branches}
        leaves = [leaf for layer in kept.values() for leaf in layer]
        if not self._scores.requires_grad:
            raise LayerError(f"no gradient reaches {_names(kept)}: the layer runs after the score, or under no_grad")
        count = self._scores.shape[1]
        together = max(1, BACKWARD_BYTES // sum(leaf.numel() * leaf.element_size() for leaf in leaves))
        for first in range(0, count, together):
            targets = range(first, min(first + together, count))
            found = _backwards(self._scores, leaves, targets, retain=targets.stop < count)
            for gradients in found:
                of = {id(leaf): gradient for leaf, gradient in zip(leaves, gradients, strict=True)}
                unused = [name for name, layer in kept.items() if all(of[id(leaf)] is None for leaf in layer)]
                if unused:
                    raise LayerError(
                        f"the score doesn't depend on {_names(unused)}: choose a layer that runs before it"
                    )
                fill = partial(gradient_or_zero, of=of)
                yield self._laid_out({name: tree_map(fill, self._outputs[name]) for name in kept})

    def _laid_out(self, outputs: Mapping[str, Any]) -> dict[str, Activations]:
        return {
            name: layout(outputs[layer])
            for layer, branches in self._branches.items()
            for name, layout in branches.items()
        }


def backward(total: Tensor, leaves: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """Gradients of ``total`` in ``leaves``; None where it doesn't depend on one."""
    return next(iter(_backwards(total.reshape(1, 1), leaves, range(1), retain=False)))


def _backwards(
    scores: Tensor, leaves: Sequence[Tensor], targets: range, *, retain: bool
) -> Iterator[tuple[Tensor | None, ...]]:
    """Per target, the gradients of its scores (B, T) in the leaves."""
    scale = HALF_PRECISION_SCALE if scores.dtype == torch.float16 else 1.0
    wanted = torch.zeros(len(targets), *scores.shape, dtype=scores.dtype, device=scores.device)
    for index, target in enumerate(targets):
        wanted[index, :, target] = scale

    def ask(outputs: Tensor, *, batched: bool, keep: bool) -> tuple[Tensor | None, ...]:
        found = torch.autograd.grad(
            scores, leaves, outputs, retain_graph=keep, allow_unused=True, is_grads_batched=batched
        )
        # Dividing copies, so it is left out where there is nothing to divide by.
        return found if scale == 1 else tuple(None if each is None else each.float() / scale for each in found)

    if len(targets) > 1:
        try:
            found = ask(wanted, batched=True, keep=True)  # the graph is needed again where this fails
        except RuntimeError as error:
            # Some operations can't be batched over; one backward after the other gives the same.
            if is_out_of_memory(error):
                raise
        else:
            yield from (tuple(None if each is None else each[index] for each in found) for index in range(len(targets)))
            return
    for index in range(len(targets)):
        yield ask(wanted[index], batched=False, keep=retain or index < len(targets) - 1)


def gradient_or_zero(leaf: Any, of: Mapping[int, Tensor | None]) -> Any:
    """The gradient of a leaf of a layer's output, 0 where the score doesn't depend on it; other leaves themselves."""
    if not is_float(leaf):
        return leaf
    gradient = of[id(leaf)]
    return torch.zeros_like(leaf) if gradient is None else gradient


@contextmanager
def run(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    images: Images,
    targets: Targets = None,
    setup: Setup | None = None,
    *,
    gradients: bool = True,
) -> Iterator[Pass]:
    """Run ``model`` once, keep what ``layers`` return, and leave the model as it was.

    Args:
        model: the network, unwrapped.
        layers: name to target layer.
        images: (B, C, H, W) or (B, C, D, H, W); a copy in the model's device and dtype is what it gets.
        targets: see :func:`camkit.targets.rows`.
        setup: how the model is called and read.
        gradients: whether :meth:`Pass.gradients` will be called.

    Yields:
        The pass. Its gradients are to be taken inside the ``with`` block.

    Raises:
        UsageError: images of another rank, targets that don't match the batch, or an output without scores.
        LayerError: a layer that doesn't run or can't be laid out.
        ForwardError: the model fails on the images.
    """
    wanted = rows(targets, len(images))
    setup = setup or Setup()
    with forward(model, layers, images, setup, roots=gradients) as seen:
        layouts = {name: _layouts(seen, name) for name in layers}
        found = answer(seen.output, len(seen.images), setup.output)
        with torch.autocast(seen.images.device.type, enabled=False):
            yield Pass(found, seen.outputs, layouts, wanted)


def _layouts(seen: Seen, name: str) -> dict[str, Layout]:
    if name not in seen.outputs:
        raise LayerError(f"layer {name!r} doesn't run in this forward (or is called past its hooks)")
    return seen.layouts(name)


def _detached(output: Any) -> Any:
    return tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, output)


def _names(names: Any) -> str:
    return ", ".join(repr(name) for name in names)
