"""The target layers of one forward as feature maps: (B, C, *spatial), with their gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from camkit.compat import tree_flatten, tree_unflatten
from camkit.engine.forward import Forward
from camkit.engine.gradients import Found
from camkit.engine.tensors import detached, is_float
from camkit.layers.layout import Layout
from camkit.layers.layout_finder import LayoutFinder
from camkit.methods.needs import Objective
from camkit.typing import Activations, Gradients


class FeatureMaps:
    """What the target layers of a forward returned, laid out.

    A layer with several feature tensors has a branch for each: ``name[0]``, ``name[1]``.

    Args:
        forward: its model is borrowed.
        names: of the target layers.
        finder: of layouts.
        blocks: name to module of the attention blocks whose outputs were kept too.

    Attributes:
        activations: branch to (B, C, *spatial), float32 (float64 for a float64 network), detached.
        layouts: branch to how it was laid out.

    Raises:
        LayerError: a layer that doesn't run, or can't be laid out.
    """

    def __init__(
        self,
        forward: Forward,
        names: Iterable[str],
        finder: LayoutFinder,
        blocks: Mapping[str, nn.Module] | None = None,
    ) -> None:
        self.forward = forward
        self.finder = finder
        self.blocks = dict(blocks or {})
        self._branches = {name: finder.of(name) for name in names}
        self.layouts = {branch: layout for layouts in self._branches.values() for branch, layout in layouts.items()}
        self.activations: dict[str, Activations] = {
            branch: layout(detached(forward.outputs[name]))
            for name, layouts in self._branches.items()
            for branch, layout in layouts.items()
        }

    def of(self, forward: Forward) -> FeatureMaps:
        """The same target layers in another forward of the network."""
        return FeatureMaps(forward, self._branches, self.finder.of_forward(forward))

    @property
    def layers(self) -> dict[str, nn.Module]:
        """The target layers, as they were asked for."""
        return {name: self.forward.layers[name] for name in self._branches}

    def layer_of(self, branch: str) -> str:
        """The target layer that has a branch."""
        return next(name for name, layouts in self._branches.items() if branch in layouts)

    def gradients(self, objective: Objective | None = None, *, keep: bool = False) -> Iterator[dict[str, Gradients]]:
        """Gradients by branch, (T, B, C, *spatial), for successive groups of T targets.

        Args:
            objective: differentiated in place of the scores.
            keep: whether the graph is needed again afterwards.

        Raises:
            LayerError: a score doesn't depend on a layer.
        """
        for count, found in self.forward.gradients(self._branches, objective, keep=keep):
            yield self._laid_out(found, count)

    def curvatures(self, objective: Objective | None = None) -> Iterator[dict[str, tuple[Gradients, Gradients]]]:
        """By branch the gradients, and the Hessian times the activations, (1, B, C, *spatial), target by target."""
        for first, second in self.forward.curvatures(self._branches, objective):
            gradients, products = self._laid_out(first, 1), self._laid_out(second, 1)
            yield {branch: (gradients[branch], products[branch]) for branch in gradients}

    def _laid_out(self, found: Found, count: int) -> dict[str, Gradients]:
        return {
            branch: lay_out_gradients(layout, self.forward.outputs[name], found, count)
            for name, layouts in self._branches.items()
            for branch, layout in layouts.items()
        }


def lay_out_gradients(layout: Layout, output: Any, found: Found, count: int) -> Gradients:
    """Lay out the gradients of ``count`` targets in a layer's output, (count, B, C, *spatial).

    Args:
        layout: of the layer.
        output: what the layer returned.
        found: gradients by leaf; None counts as zero.
        count: T.
    """
    leaves, structure = tree_flatten(output)
    floats = [index for index, leaf in enumerate(leaves) if is_float(leaf)]
    gradients = [found[id(leaves[index])] for index in floats]
    stacks: Sequence[Tensor] = [
        torch.zeros_like(leaves[index]).expand(count, *leaves[index].shape) if gradient is None else gradient
        for index, gradient in zip(floats, gradients, strict=True)
    ]

    def lay_out(*gradients: Tensor) -> Activations:
        filled = dict(zip(floats, gradients, strict=True))
        return layout(tree_unflatten([filled.get(index, leaf) for index, leaf in enumerate(leaves)], structure))

    if count > 1 and layout.form != "custom":  # what users write may do anything, vmap takes a part of that
        return torch.vmap(lay_out)(*stacks)
    alone = [lay_out(*(stack[target] for stack in stacks)) for target in range(count)]
    return torch.stack(alone) if count > 1 else alone[0][None]
