"""What target layers return, and the gradients in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from camkit.engine.hooks import Capture, on_gradient
from camkit.engine.tensors import floats
from camkit.layers.names import find_layers


class ActivationsAndGradients:
    """Runs a model and keeps what its target layers return, and the gradients that a later backward leaves in that.

    Hooks are in the model only while it runs, so there is nothing to release. A CAM has one of these in
    ``activations_and_grads``: it reads ``reshape_transform`` in every call, and leaves its activations and gradients.

    Args:
        model: the network.
        target_layers: its modules.
        reshape_transform: from a layer's output, and from its gradient, to (B, C, *spatial).
        detach: keep copies on the CPU; False keeps the tensors of the graph, as the layers returned them.

    Attributes:
        activations: one per layer, in the order in which they ran.
        gradients: one per layer likewise, after a backward.
        handles: always empty.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module | str],
        reshape_transform: Callable[[Any], Tensor] | None = None,
        detach: bool = True,  # noqa: FBT001
    ) -> None:
        self.model = model
        self.target_layers = target_layers
        self.reshape_transform = reshape_transform
        self.detach = detach
        self.activations: list[Any] = []
        self.gradients: list[Any] = []
        self.handles: list[Any] = []

    def __call__(self, x: Any) -> Any:
        """Run the model, and return what it returns, part of a graph.

        Raises:
            UsageError: a layer that the model doesn't have.
        """
        self.clear()
        with Capture(find_layers(self.model, self.target_layers), roots=True) as capture:
            output = self.model(x)
        self.activations = [self._kept(each) for each in capture.outputs.values()]
        found: dict[int, Any] = {}
        for number, each in enumerate(capture.outputs.values()):
            for leaf in floats(each)[:1]:
                on_gradient(leaf, partial(self._add_gradient, found, number))
        return output

    def _add_gradient(self, found: dict[int, Any], number: int, gradient: Tensor) -> None:
        found[number] = self._kept(gradient)
        self.gradients = [found[each] for each in sorted(found)]

    def _kept(self, output: Any) -> Any:
        if not self.detach:
            return output
        made = output if self.reshape_transform is None else self.reshape_transform(output)
        return made.detach().cpu() if isinstance(made, Tensor) else made

    def clear(self) -> None:
        """Forget the activations and gradients."""
        self.activations, self.gradients = [], []

    def release(self) -> None:
        """Forget the activations and gradients; there are no hooks to remove."""
        self.clear()
