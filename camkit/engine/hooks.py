"""Capture what modules return during one forward. The only file that registers hooks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from camkit.compat import tree_flatten, tree_leaves, tree_map, tree_unflatten
from camkit.engine.tensors import is_float, is_strided


class LayerName(NamedTuple):
    """A target layer's name in its parts: ``"blocks.3@1[0]"`` is module ``blocks.3``, call 1, branch 0.

    Attributes:
        module: dotted.
        call: which of the calls of a module that runs several times in a forward; None for the one that is found out.
        branch: which of several feature tensors; None for all.
    """

    module: str
    call: int | None = None
    branch: int | None = None


def parse_name(name: str) -> LayerName:
    """The parts of a layer's name."""
    found = re.fullmatch(r"(.+?)(?:@(\d+))?(?:\[(\d+)\])?", name)
    if found is None:
        return LayerName(name)
    call, branch = (None if each is None else int(each) for each in found.groups()[1:])
    return LayerName(found[1], call, branch)


class Capture:
    """A context that captures the outputs of ``layers``.

    What is captured is each layer's output as the layer returned it, whatever writes to it afterwards. With
    ``copies=True`` it is a private copy, and :meth:`is_untouched` says afterwards whether copying was needed. With
    ``copies=False``, for layers that were untouched before, the network continues with the captured tensors themselves,
    and :attr:`is_overwritten` says whether something wrote to them after all. Of a layer that runs several times the
    last call counts, or the one in ``calls``; a layer that doesn't run is absent from ``outputs``.

    With ``roots=True`` a captured tensor that isn't part of a graph yet becomes the root of one (a detached leaf that
    requires grad). Nothing in front of the earliest target layer then takes part in autograd.

    Args:
        layers: name to module.
        roots: whether gradients in the outputs will be asked for.
        copies: whether to capture copies. Without, in-place operations on roots are errors.
        calls: layer to the number of the call that counts.

    Attributes:
        outputs: layer to what it returned.
        counts: layer to how often it ran.
    """

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        *,
        roots: bool,
        copies: bool = True,
        calls: Mapping[str, int] | None = None,
    ) -> None:
        self.outputs: dict[str, Any] = {}
        self.counts: dict[str, int] = {}
        self._calls = dict(calls or {})
        self._layers = layers
        self._roots = roots
        self._copies = copies
        self._kept: dict[str, list[_Kept]] = {}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Capture:
        try:
            for name, module in self._layers.items():
                self._handles.append(module.register_forward_hook(self._keeper(name), with_kwargs=True))
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
        """Whether something behind a layer wrote to what was captured."""
        return any(_version(kept.own) != kept.version for kept in self._all_kept())

    def is_untouched(self, output: Any) -> bool:
        """Whether nothing wrote to what the layers returned, nor could later, as it isn't part of the model's output.

        Version counters miss writes that bypass autograd (``.data``, NumPy, custom kernels), so values are compared.
        """
        returned = {_storage(leaf) for leaf in tree_leaves(output) if is_float(leaf)}
        return all(kept.is_untouched() and _storage(kept.onward) not in returned for kept in self._all_kept())

    def _all_kept(self) -> Iterator[_Kept]:
        return (kept for layer in self._kept.values() for kept in layer)

    def _unhook(self) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _keeper(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], Any]:
        def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            number = self.counts.get(name, 0)
            self.counts[name] = number + 1
            if self._calls.get(name, number) != number:
                if name in self.outputs:  # the order is that of the last calls
                    self.outputs[name] = self.outputs.pop(name)
                return output
            leaves, structure = tree_flatten(output)
            inputs = {_storage(leaf) for leaf in tree_leaves((args, kwargs)) if is_strided(leaf)}
            kept = [self._keep(leaf, inputs) if is_float(leaf) else leaf for leaf in leaves]
            # Output order follows execution, not the order asked for, when a layer runs again.
            self.outputs.pop(name, None)
            self.outputs[name] = tree_unflatten([k.own if isinstance(k, _Kept) else k for k in kept], structure)
            self._kept[name] = [each for each in kept if isinstance(each, _Kept)]
            return tree_unflatten([k.onward if isinstance(k, _Kept) else k for k in kept], structure)

        return keep

    def _keep(self, leaf: Tensor, inputs: Iterable[int]) -> _Kept:
        # A view, or a layer that returns its input, shares memory with tensors that others may write to; tensors made
        # under inference mode have no version counter.
        is_shared = leaf._is_view() or _storage(leaf) in inputs or leaf.is_inference()
        own = leaf.clone() if self._copies or is_shared else leaf
        if self._roots and not own.requires_grad:
            own = own.detach().requires_grad_()
        if not self._copies:
            return _Kept(own, own, None)
        return _Kept(own, own.clone() if own.requires_grad else leaf, None if is_shared else leaf)


class _Kept:
    """A captured tensor, the one the network continues with, and the layer's own where nothing shares its memory."""

    def __init__(self, own: Tensor, onward: Tensor, returned: Tensor | None) -> None:
        self.own = own
        self.onward = onward
        self.returned = returned
        self.version = _version(own)
        self._versions = _version(onward), _version(returned)

    def is_untouched(self) -> bool:
        if (_version(self.onward), _version(self.returned)) != self._versions or self.onward.is_inference():
            return False
        return all(each is None or torch.equal(each, self.own) for each in (self.onward, self.returned))


@contextmanager
def watching(
    model: nn.Module,
    look: Callable[[nn.Module, tuple[Any, ...], Any], None],
    enter: Callable[[nn.Module], None] | None = None,
) -> Iterator[None]:
    """A context that calls ``look(module, arguments, output)`` after every module, and ``enter(module)`` before."""
    handles: list[RemovableHandle] = []

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        look(module, (*args, *kwargs.values()), output)

    def before(module: nn.Module, args: tuple[Any, ...]) -> None:
        if enter:
            enter(module)

    try:
        for module in model.modules():
            if not isinstance(module, torch.jit.ScriptModule):  # these take no hooks
                if enter:
                    handles.append(module.register_forward_pre_hook(before))
                handles.append(module.register_forward_hook(hook, with_kwargs=True))
        yield
    finally:
        while handles:
            handles.pop().remove()


@contextmanager
def changing(module: nn.Module, call: int, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """A context in which the network goes on with changed tensors in place of what one call of a module returned."""
    numbers = count()

    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if next(numbers) != call:
            return None
        return tree_map(lambda leaf: change(leaf) if is_float(leaf) else leaf, output)

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def on_gradient(tensor: Tensor, look: Callable[[Tensor], None]) -> None:
    """Call ``look`` with the gradient in ``tensor`` in every backward through its graph."""
    if tensor.requires_grad:
        tensor.register_hook(look)  # type: ignore[no-untyped-call]


def rectify_gradient(tensor: Tensor) -> None:
    """Clip the gradient in ``tensor`` to positive values in every backward through its graph."""
    if tensor.requires_grad:
        tensor.register_hook(lambda gradient: gradient.relu())  # type: ignore[no-untyped-call]


def _version(tensor: Tensor | None) -> int:
    """How often a tensor was written to in place, as far as autograd knows."""
    return 0 if tensor is None or tensor.is_inference() else tensor._version


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
