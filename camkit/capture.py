"""Keep what named modules return during one forward. The only file that registers hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten
from torch.utils.hooks import RemovableHandle


class Capture:
    """A context in which the outputs of ``layers`` are kept.

    Every kept tensor is the layer's output as it was when the layer returned it. With ``copies=True`` the network goes
    on with a clone, so that no in-place operation behind the layer can rewrite what was kept; without, it goes on with
    what was kept, and :attr:`is_overwritten` says afterwards whether that went well. A layer that runs several times
    counts with its last call; a layer that doesn't run is absent from ``outputs``.

    With ``roots=True`` a kept tensor that no graph leads to yet becomes the root of one (a detached leaf that requires
    grad). Nothing before the earliest target layer then takes part in autograd.

    Args:
        layers: name to module.
        roots: whether gradients of the outputs will be asked for.
        copies: whether the network goes on with clones. In-place operations on roots are errors without.
    """

    def __init__(self, layers: Mapping[str, nn.Module], *, roots: bool, copies: bool = True) -> None:
        self.outputs: dict[str, Any] = {}
        self._layers = layers
        self._roots = roots
        self._copies = copies
        self._as_kept: dict[str, list[tuple[Tensor, int]]] = {}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Capture:
        try:
            for name, module in self._layers.items():
                self._handles.append(module.register_forward_hook(self._keeper(name)))
        except BaseException:
            self._unhook()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._unhook()

    @property
    def is_overwritten(self) -> bool:
        """Whether something behind a layer wrote to what was kept."""
        return any(leaf._version != version for kept in self._as_kept.values() for leaf, version in kept)

    def _unhook(self) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _keeper(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], Any]:
        def keep(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            leaves, structure = tree_flatten(output)
            inputs = {_storage(leaf) for leaf in tree_leaves(args) if isinstance(leaf, Tensor)}
            kept = [self._keep(leaf, inputs) for leaf in leaves]
            # Output order follows execution, not the order asked for, when a layer runs again.
            self.outputs.pop(name, None)
            self.outputs[name] = tree_unflatten(kept, structure)
            self._as_kept[name] = [(leaf, leaf._version) for leaf in kept if is_float(leaf) and not leaf.is_inference()]
            onward = [leaf.clone() if self._copies and is_float(leaf) else leaf for leaf in kept]
            return tree_unflatten(onward, structure)

        return keep

    def _keep(self, leaf: Any, inputs: Iterable[int]) -> Any:
        if not is_float(leaf):
            return leaf
        # A view, or a layer that hands its input on, shares memory with tensors that others may write to.
        own = leaf.clone() if leaf._is_view() or _storage(leaf) in inputs else leaf
        return own.detach().requires_grad_() if self._roots and not own.requires_grad else own


@contextmanager
def watching(model: nn.Module, look: Callable[[nn.Module, tuple[Any, ...], Any], None]) -> Iterator[None]:
    """A context in which ``look`` gets every module that runs, its arguments and its output, in that order."""
    handles: list[RemovableHandle] = []

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        look(module, (*args, *kwargs.values()), output)

    try:
        for module in model.modules():
            handles.append(module.register_forward_hook(hook, with_kwargs=True))  # noqa: PERF401 (all that are in come out)
        yield
    finally:
        while handles:
            handles.pop().remove()


def is_float(leaf: Any) -> bool:
    """Whether ``leaf`` is a real floating-point tensor, which activations are."""
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
