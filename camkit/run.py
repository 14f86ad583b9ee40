"""One forward and the backwards it needs: images to activations, gradients and scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from camkit.capture import is_float
from camkit.errors import LayerError, UsageError, is_out_of_memory
from camkit.forward import Seen, Setup, forward
from camkit.layout import Layout
from camkit.methods.requests import Objective
from camkit.outputs import Output, answer
from camkit.recording import LAYERS_ALONE, Recording
from camkit.shapes import Activations, Gradients, Images, Scores
from camkit.targets import Rows, Targets, rows, score

HALF_PRECISION_SCALE = 1024.0
"""Gradients of float16 networks are computed this much larger, as most of them lie below float16's normal range."""
BACKWARD_BYTES = 16 * 2**20
"""Several targets share a backward as long as their largest gradients take no more memory than this."""


class Pass:
    """What one forward left behind; gradients are computed as they are asked for.

    Attributes:
        seen: the forward.
        activations: layer name to (B, C, *spatial), float32 (float64 for a float64 network). A layer with several
            feature tensors has a name for each: ``name[0]``, ``name[1]``.
        layouts: the same names to how the output was laid out.
        answer: the part of the model's output that is explained, part of the graph.
        logits: (B, K), detached; (B, 0) where the model returns no tensor.
        chosen: class indices (B, T), or the rows of targets as given where a score function is among them.
        scores: (B, T), detached.
    """

    def __init__(self, seen: Seen, layouts: Mapping[str, Mapping[str, Layout]], wanted: Rows | None) -> None:
        self.seen = seen
        self.answer = answer(seen.output, len(seen.images), seen.setup.output)
        self.chosen, self._scores = score(self.answer.rows, wanted)
        self.scores = self._scores.detach()
        rows = self.answer.rows
        self.logits = rows.detach() if isinstance(rows, Tensor) else self.scores[:, :0]
        self.layouts = {name: layout for branches in layouts.values() for name, layout in branches.items()}
        self._branches = layouts
        self.activations: dict[str, Activations] = {
            name: layout(_detached(seen.outputs[layer]))
            for layer, branches in layouts.items()
            for name, layout in branches.items()
        }

    @cached_property
    def whole(self) -> bool:
        """Whether changed images can be shown only all together; what shows them may find out and set it."""
        return self.seen.setup.needs_whole_batch or _mixes_images(self.seen.model)

    @property
    def output(self) -> Output:
        """Which part of the model's output is explained; the same one for other numbers of images."""
        return self.seen.setup.output if self.seen.setup.output is not None else self.answer.name or None

    @property
    def count(self) -> int:
        """How many targets an image has."""
        return self._scores.shape[1]

    def gradients(self, objective: Objective | None = None, *, keep: bool = False) -> Iterator[dict[str, Gradients]]:
        """The gradients of every image's score in every layer, for some of the targets after the other.

        Laid out like the activations, (T, B, C, *spatial) for the next T targets: as many as share a backward, which
        they do as long as the largest of their gradients, also behind the layers, fit in :data:`BACKWARD_BYTES`, and
        half as many where memory doesn't suffice.

        Args:
            objective: explained in place of the scores.
            keep: whether there will be other gradients behind these.

        Raises:
            LayerError: a score doesn't depend on a layer.
        """
        kept, scores = self._connected(objective)
        leaves = [leaf for layer in kept.values() for leaf in layer]
        for targets, found in self._backwards(scores, leaves, keep=keep):
            of = {id(leaf): gradient for leaf, gradient in zip(leaves, found, strict=True)}
            unused = [name for name, layer in kept.items() if all(of[id(leaf)] is None for leaf in layer)]
            if unused:
                raise LayerError(f"the score doesn't depend on {_names(unused)}: choose a layer that runs before it")
            yield self._laid_out(of, len(targets))

    def curvature(self, objective: Objective | None = None) -> Iterator[dict[str, tuple[Gradients, Gradients]]]:
        """The gradients, and the Hessian times the activations, (1, B, C, *spatial) for one target after the other.

        The forward must have been recorded to be differentiated twice. Layers are taken one by one: what a layer's
        activations do by way of a later target layer is part of its own Hessian alone.

        Raises:
            LayerError: a score doesn't depend on a layer.
        """
        kept, scores = self._connected(objective)
        for target in range(self.count):
            first: dict[int, Tensor | None] = {}
            second: dict[int, Tensor | None] = {}
            for name, leaves in kept.items():
                total = scores[:, target].sum() * _scale(scores)
                found = torch.autograd.grad(total, leaves, create_graph=True, allow_unused=True)
                if all(gradient is None for gradient in found):
                    raise LayerError(f"the score doesn't depend on {name!r}: choose a layer that runs before it")
                curved = [
                    (gradient, leaf)
                    for gradient, leaf in zip(found, leaves, strict=True)
                    if gradient is not None and gradient.requires_grad
                ]
                along: Sequence[Tensor | None] = (None,) * len(leaves)
                if curved:  # otherwise the score is linear in the layer
                    gradients, directions = zip(*((g, leaf.detach()) for g, leaf in curved), strict=True)
                    along = torch.autograd.grad(gradients, leaves, directions, retain_graph=True, allow_unused=True)
                for leaf, gradient, product in zip(leaves, found, along, strict=True):
                    first[id(leaf)] = _stacked(gradient, _scale(scores))
                    second[id(leaf)] = _stacked(product, _scale(scores))
            gradients_of, products_of = self._laid_out(first, 1), self._laid_out(second, 1)
            yield {name: (gradients_of[name], products_of[name]) for name in gradients_of}

    def gradients_of(self, leaves: Sequence[Any], target: int, scores: Tensor | None = None) -> list[Tensor | None]:
        """The gradients of one target's ``scores`` (B, T), by default the pass's own, in tensors or edges."""
        scores = self._scores if scores is None else scores
        if not scores.requires_grad:
            return [None] * len(leaves)
        wanted = range(target, target + 1)
        return [None if g is None else g[0] for g in backward(scores, leaves, wanted, retain=True)]

    def rows_of(self, images: Images) -> Any:
        """What the network returns for other images: a row for each."""
        return answer(self.seen.call(images), len(images), self.output).rows

    def scores_of(self, images: Images, image: int | None) -> Scores:
        """What images (n, ...) score, (n, T): all made of one of those explained, or one of each where it is None."""
        return self.scores_in(self.rows_of(images), image)

    def scores_in(self, rows: Any, image: int | None) -> Scores:
        """The scores (n, T) in n rows of an output, for the targets of one image, or each for those of its own."""
        chosen: Any = self.chosen if image is None else self.chosen[image : image + 1]
        if isinstance(chosen, Tensor):
            return score(rows, chosen if image is None else chosen.expand(len(rows), -1))[1]
        return score(rows, [list(row) for row in (chosen if image is None else chosen * len(rows))])[1]

    def numbers_in(self, rows: Any, image: int | None) -> Tensor:
        """What rows of an output are compared by: themselves, or the scores in them, where they are no tensor."""
        return rows if isinstance(rows, Tensor) else self.scores_in(rows, image)

    @property
    def layer_names(self) -> list[str]:
        """The target layers, as they were asked for."""
        return list(self._branches)

    def layer_of(self, name: str) -> str:
        """The target layer, as it was asked for, that has the branch ``name``."""
        return next(layer for layer, branches in self._branches.items() if name in branches)

    def _connected(self, objective: Objective | None) -> tuple[dict[str, list[Tensor]], Tensor]:
        """What the layers returned, and the scores (B, T) that are explained, which a graph leads to."""
        outputs = self.seen.outputs
        kept = {name: [leaf for leaf in tree_leaves(outputs[name]) if is_float(leaf)] for name in self._branches}
        scores = self._scores_by(objective)
        if not scores.requires_grad:
            raise LayerError(f"no gradient reaches {_names(kept)}: the layer runs after the score, or under no_grad")
        return kept, scores

    def _scores_by(self, objective: Objective | None) -> Tensor:
        if objective is None:
            return self._scores
        rows = self.answer.rows
        if not isinstance(self.chosen, Tensor) or not isinstance(rows, Tensor) or rows.ndim != 2:
            raise UsageError(
                f"{objective.name} compares the scores of classes: targets must be class indices of a model that "
                f"returns logits (batch, classes); {objective.instead} takes any"
            )
        return objective(rows, self.chosen)

    def _backwards(
        self, scores: Tensor, leaves: Sequence[Tensor], *, keep: bool
    ) -> Iterator[tuple[range, tuple[Tensor | None, ...]]]:
        count, first = scores.shape[1], 0
        largest = int(self.seen.reach * sum(leaf.nbytes for leaf in leaves))
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
            yield targets, found

    def _laid_out(self, of: Mapping[int, Tensor | None], count: int) -> dict[str, Gradients]:
        return {
            name: laid_out_gradients(layout, self.seen.outputs[layer], of, count)
            for layer, branches in self._branches.items()
            for name, layout in branches.items()
        }


def _mixes_images(model: nn.Module) -> bool:
    """Whether what the network makes of an image depends on the others, as it normalises by the batch's statistics."""
    return any(isinstance(each, _BatchNorm) and each.running_mean is None for each in model.modules())


def _scale(scores: Tensor) -> float:
    return HALF_PRECISION_SCALE if scores.dtype == torch.float16 else 1.0


def _stacked(gradient: Tensor | None, scale: float) -> Tensor | None:
    """A detached gradient as that of a single target."""
    if gradient is None:
        return None
    return (gradient.detach() if scale == 1 else gradient.detach().float() / scale)[None]


def backward(
    scores: Tensor, leaves: Sequence[Any], targets: range, *, retain: bool = False
) -> tuple[Tensor | None, ...]:
    """For each leaf the gradients of the scores (B, T) of ``targets``, (T, *leaf.shape); None where there are none.

    Leaves are tensors of the graph, or its edges.
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
    recording: Recording = LAYERS_ALONE,
    beside: Mapping[str, nn.Module] | None = None,
) -> Iterator[Pass]:
    """Run ``model`` once, keep what ``layers`` return, and leave the model as it was.

    Args:
        model: the network, unwrapped.
        layers: name to target layer.
        images: (B, C, H, W) or (B, C, D, H, W); a copy in the model's device and dtype is what it gets.
        targets: see :func:`camkit.targets.rows`.
        setup: how the model is called and read.
        gradients: whether :meth:`Pass.gradients` will be called.
        recording: what else is kept of the forward.
        beside: further layers whose outputs are kept, as they are.

    Yields:
        The pass. Its gradients are to be taken inside the ``with`` block.

    Raises:
        UsageError: images of another rank, targets that don't match the batch, or an output without scores.
        LayerError: a layer that doesn't run or can't be laid out.
        ForwardError: the model fails on the images.
    """
    wanted = rows(targets, len(images))
    setup = setup or Setup()
    kept = {**layers, **(beside or {})}
    with forward(model, kept, images, setup, roots=gradients, recording=recording) as seen:
        layouts = {name: _layouts(seen, name) for name in layers}
        with torch.autocast(seen.images.device.type, enabled=False):
            yield Pass(seen, layouts, wanted)


def _layouts(seen: Seen, name: str) -> dict[str, Layout]:
    if name not in seen.outputs:
        raise LayerError(f"layer {name!r} doesn't run in this forward (or is called past its hooks)")
    return seen.layouts(name)


def _detached(output: Any) -> Any:
    return tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, output)


def _names(names: Any) -> str:
    return ", ".join(repr(name) for name in names)
