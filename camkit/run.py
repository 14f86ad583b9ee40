"""One forward and the backwards it needs: images to activations, gradients and scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from camkit.capture import is_float
from camkit.errors import LayerError, is_out_of_memory
from camkit.forward import Seen, Setup, forward
from camkit.layout import Layout
from camkit.outputs import Answer, answer
from camkit.shapes import Activations, Gradients, Images
from camkit.targets import Rows, Targets, rows, score

HALF_PRECISION_SCALE = 1024.0
"""Gradients of float16 networks are computed this much larger, as most of them lie below float16's normal range."""
BACKWARD_BYTES = 16 * 2**20
"""Several targets share a backward as long as their largest gradients take no more memory than this."""


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
        reach: float = 1.0,
    ) -> None:
        self.answer = found
        self._reach = reach
        self.chosen, self._scores = score(found.rows, wanted)
        self.scores = self._scores.detach()
        self.logits = found.rows.detach() if isinstance(found.rows, Tensor) else self.scores[:, :0]
        self.layouts = {name: layout for branches in layouts.values() for name, layout in branches.items()}
        self._branches = layouts
        self._outputs = outputs
        self.activations: dict[str, Activations] = self._laid_out({n: _detached(outputs[n]) for n in layouts})

    def gradients(self) -> Iterator[dict[str, Gradients]]:
        """The gradients of every image's score in every layer, for some of the targets after the other.

        Laid out like the activations, (T, B, C, *spatial) for the next T targets: as many as share a backward, which
        they do as long as the largest of their gradients, also behind the layers, fit in :data:`BACKWARD_BYTES`, and
        half as many where memory doesn't suffice.

        Raises:
            LayerError: a score doesn't depend on a layer.
        """
        kept = {name: [leaf for leaf in tree_leaves(self._outputs[name]) if is_float(leaf)] for name in self._branches}
        leaves = [leaf for layer in kept.values() for leaf in layer]
        if not self._scores.requires_grad:
            raise LayerError(f"no gradient reaches {_names(kept)}: the layer runs after the score, or under no_grad")
        count, first = self._scores.shape[1], 0
        largest = int(self._reach * sum(leaf.nbytes for leaf in leaves))
        together = max(1, BACKWARD_BYTES // largest)
        while first < count:
            targets = range(first, min(first + together, count))
            try:
                found = backward(self._scores, leaves, targets, retain=targets.stop < count)
            except RuntimeError as error:
                if not is_out_of_memory(error) or len(targets) == 1:
                    raise
                together = len(targets) // 2
                continue
            first = targets.stop
            of = {id(leaf): gradient for leaf, gradient in zip(leaves, found, strict=True)}
            unused = [name for name, layer in kept.items() if all(of[id(leaf)] is None for leaf in layer)]
            if unused:
                raise LayerError(f"the score doesn't depend on {_names(unused)}: choose a layer that runs before it")
            yield {
                name: laid_out_gradients(layout, self._outputs[layer], of, len(targets))
                for layer, branches in self._branches.items()
                for name, layout in branches.items()
            }

    def _laid_out(self, outputs: Mapping[str, Any]) -> dict[str, Activations]:
        return {
            name: layout(outputs[layer])
            for layer, branches in self._branches.items()
            for name, layout in branches.items()
        }


def backward(
    scores: Tensor, leaves: Sequence[Tensor], targets: range, *, retain: bool = False
) -> tuple[Tensor | None, ...]:
    """For each leaf the gradients of the scores (B, T) of ``targets``, (T, *leaf.shape); None where there are none."""
    scale = HALF_PRECISION_SCALE if scores.dtype == torch.float16 else 1.0
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
            # Some operations can't be batched over; one backward after the other gives the same.
            if is_out_of_memory(error):
                raise
    if found is None:
        last = len(targets) - 1
        by_target = [ask(each, batched=False, keep=retain or n < last) for n, each in enumerate(wanted)]
        found = tuple(None if of[0] is None else torch.stack(of) for of in zip(*by_target, strict=True))
    # Dividing copies, so it is left out where there is nothing to divide by.
    return found if scale == 1 else tuple(None if each is None else each.float() / scale for each in found)


def laid_out_gradients(layout: Layout, output: Any, of: Mapping[int, Tensor | None], count: int) -> Gradients:
    """Gradients of ``count`` targets in the leaves of a layer's ``output``, laid out.

    Args:
        layout: how.
        output: what the layer returned.
        of: a leaf's id to its gradients (T, *leaf.shape), None where the score doesn't depend on it.
        count: T.
    """
    leaves, structure = tree_flatten(output)
    floats = [index for index, leaf in enumerate(leaves) if is_float(leaf)]
    found = [of[id(leaves[index])] for index in floats]
    stacks = [
        torch.zeros_like(leaves[index]).expand(count, *leaves[index].shape) if gradient is None else gradient
        for index, gradient in zip(floats, found, strict=True)
    ]

    def laid_out(*gradients: Tensor) -> Activations:
        filled = dict(zip(floats, gradients, strict=True))
        return layout(tree_unflatten([filled.get(index, leaf) for index, leaf in enumerate(leaves)], structure))

    if count > 1 and layout.form != "custom":  # what users write may do anything, vmap takes a part of that
        return torch.vmap(laid_out)(*stacks)
    alone = [laid_out(*(stack[target] for stack in stacks)) for target in range(count)]
    return torch.stack(alone) if count > 1 else alone[0][None]


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
            yield Pass(found, seen.outputs, layouts, wanted, seen.reach)


def _layouts(seen: Seen, name: str) -> dict[str, Layout]:
    if name not in seen.outputs:
        raise LayerError(f"layer {name!r} doesn't run in this forward (or is called past its hooks)")
    return seen.layouts(name)


def _detached(output: Any) -> Any:
    return tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, output)


def _names(names: Any) -> str:
    return ", ".join(repr(name) for name in names)
