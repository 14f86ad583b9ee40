"""Run the part of a network behind a layer again and again, while what is in front of it runs once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from camkit.compat import float64, tree_leaves, tree_map, unfused_transformers
from camkit.engine.forward import Forward
from camkit.engine.hooks import watching
from camkit.engine.rerun import alone_or_whole
from camkit.engine.tensors import detached, is_strided
from camkit.errors import CamkitError, ForwardError, LayerError

CLOSE = 1e-3
"""How far, relative to its size, a replay's output may be from the network's: rounding depends on the batch size."""
ROUNDINGS = 8
"""How many machine epsilons rounding may amount to."""


class Replay:
    """What a network makes of other outputs of one of its layers.

    The outputs of the outermost modules that had returned when the layer did are recorded once. A replay calls the
    network with these in place of the modules, so that only what comes behind the layer is computed. First it is
    checked that the layer's own output gives the network's own output. Where it doesn't, copies are handed out
    (something writes to what was recorded), and where that doesn't help, everything in front of the layer runs again.

    Args:
        forward: of the images as they are; its model is borrowed.
        layer: name of the layer; of several calls the one that the forward has counts.
        image: whose replay it is; None for all images together.
        repeats: whether rows will be copies of the single image, in any number.

    Attributes:
        output: what the layer returned.
        row_bytes: of the largest tensor behind the layer, for one row.
        rounding: what rounding may amount to, relative, by the coarsest precision behind the layer.

    Raises:
        LayerError: the network doesn't repeat itself.
        ForwardError: it takes no batches of another size.
    """

    def __init__(self, forward: Forward, layer: str, image: int | None, *, repeats: bool) -> None:
        images = forward.images.detach()
        self.row_bytes = 0
        self.rounding = 0.0
        self._model = forward.network.model
        self._module = forward.layers[layer] if layer in forward.layers else self._model.get_submodule(layer)
        self._images = images if image is None else images[image : image + 1]
        self._call = forward.rows
        self._reached = False

        def comparable(rows: Any) -> Tensor:
            return forward.comparable(rows, image)

        recorder = _Recorder(self._module, forward.calls.get(layer), len(self._images))
        with torch.no_grad(), watching(self._model, recorder.leave, recorder.enter):
            expected = comparable(self._call(self._images.clone()))
        self.output: Any = recorder.output
        self._recorded = recorder.recorded
        self._copies = False
        self._check(layer, expected, comparable, 2 if repeats else len(self._images))

    def __call__(self, outputs: Any, count: int) -> Any:
        """What the network returns where the layer returns ``outputs``, for ``count`` rows in place of the images.

        Raises:
            ForwardError: the network fails on them.
            LayerError: it came to its end without the layer.
        """
        rows = len(self._images)
        with self._replaying(outputs, count):
            made = self._call(_rows(self._images, rows, count, copy=self._copies))
        if not self._reached:
            raise LayerError("the network ran past the layer: choose another one")
        return made

    def repeated(self, count: int) -> Any:
        """What the layer returned, copied ``count`` times."""
        rows = len(self._images)
        return tree_map(lambda leaf: _rows(leaf, rows, count, copy=True), self.output)

    def _check(self, name: str, expected: Tensor, comparable: Callable[[Any], Tensor], count: int) -> None:
        plain = {id(self._module): (self._module, [self.output])}
        failed: list[ForwardError] = []
        attempts = ((self._recorded, False), (self._recorded, True), (plain, True))
        for recorded, copies in attempts:
            self._recorded, self._copies = recorded, copies
            self.row_bytes = 0
            versions = self._versions()
            try:
                with torch.no_grad(), watching(self._model, self._look):
                    made = comparable(self(self.repeated(count), count))
            except ForwardError as error:
                failed.append(error)
            except CamkitError:
                pass
            else:
                repeated = expected.expand(count, *expected.shape[1:])
                if _agree(made, repeated, max(CLOSE, self.rounding)) and versions == self._versions():
                    self.row_bytes //= count
                    return
        if len(failed) == len(attempts):
            raise failed[-1]
        raise LayerError(
            f"what runs behind {name!r} doesn't give the same output twice, so that changes of the layer can't be "
            "told from others: choose another layer, or a method that needs none of this, such as LayerCAM"
        )

    def _look(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        tensors = [leaf for leaf in tree_leaves(output) if is_strided(leaf)]
        # Expanded outputs of recorded modules take the memory of one image, whatever their shape says.
        sizes = [leaf.nbytes for leaf in tensors if leaf.untyped_storage().nbytes() >= leaf.nbytes]
        self.row_bytes = max([self.row_bytes, *sizes])
        precisions = [ROUNDINGS * torch.finfo(leaf.dtype).eps for leaf in tensors if leaf.is_floating_point()]
        self.rounding = max([self.rounding, *precisions])

    def _versions(self) -> list[int]:
        """Version counters of the recorded outputs: whether a replay wrote to them."""
        recorded = [outputs for _, outputs in self._recorded.values()]
        return [leaf._version for leaf in tree_leaves((recorded, self._images)) if isinstance(leaf, Tensor)]

    @contextmanager
    def _replaying(self, outputs: Any, count: int) -> Iterator[None]:
        own = [(module, module.__dict__.get("forward")) for module, _ in self._recorded.values()]
        self._reached = False
        try:
            for module, recorded in self._recorded.values():
                module.__dict__["forward"] = self._stand_in(module, recorded, outputs, count)
            with unfused_transformers():  # fused ones run transformer layers without calling their modules
                yield
        finally:
            for module, forward in own:
                if forward is None:
                    module.__dict__.pop("forward", None)
                else:
                    module.__dict__["forward"] = forward

    def _stand_in(self, module: nn.Module, recorded: list[Any], outputs: Any, count: int) -> Callable[..., Any]:
        """A forward that returns the recorded outputs, call by call, and runs the module in calls after that."""
        forward, calls = module.forward, iter(range(len(recorded)))
        rows = len(self._images)

        def stand_in(*args: Any, **kwargs: Any) -> Any:
            number = next(calls, None)
            if number is None:
                return forward(*args, **kwargs)
            if module is self._module and number == len(recorded) - 1:
                self._reached = True
                return outputs
            return tree_map(lambda leaf: _rows(leaf, rows, count, copy=self._copies), recorded[number])

        return stand_in


@dataclass
class _Call:
    """A call of a module, with what is recorded of the calls inside it."""

    module: nn.Module
    inside: list[tuple[nn.Module, Any]] = field(default_factory=list)


class _Recorder:
    """Keeps the outputs of the outermost modules that have returned when the layer does."""

    def __init__(self, module: nn.Module, call: int | None, rows: int) -> None:
        self.output: Any = None
        self.recorded: dict[int, tuple[nn.Module, list[Any]]] = {}
        """Of every module, by its id, the outputs of its calls."""
        self._module = module
        self._call = call
        self._calls = 0
        self._rows = rows
        self._running = [_Call(module=nn.Identity())]

    def enter(self, module: nn.Module) -> None:
        """A module is about to run."""
        self._running.append(_Call(module))

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """A module has run."""
        while self._running[-1].module is not module:  # one that was left by an exception somebody caught
            self._running.pop()
        ended = self._running.pop()
        is_layer = module is self._module
        if is_layer or all(self._is_by_row(leaf) for leaf in tree_leaves(output)):
            kept = tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, detached(output))
            self._running[-1].inside.append((module, kept))
            if is_layer:
                if self._call in (None, self._calls):
                    self.output = kept
                    self._keep()
                self._calls += 1
        else:
            self._running[-1].inside += ended.inside  # windows and the like: modules inside may return rows

    def _is_by_row(self, leaf: Any) -> bool:
        return not isinstance(leaf, Tensor) or (leaf.ndim > 0 and leaf.shape[0] == self._rows)

    def _keep(self) -> None:
        self.recorded = {}
        for call in self._running:
            for module, output in call.inside:
                self.recorded.setdefault(id(module), (module, []))[1].append(output)


def _rows(leaf: Any, rows: int, count: int, *, copy: bool) -> Any:
    """A leaf for ``rows`` images as one for ``count``."""
    if not isinstance(leaf, Tensor) or leaf.ndim == 0 or leaf.shape[0] != rows:
        return leaf
    expanded = leaf.expand(count, *leaf.shape[1:])
    return expanded.clone(memory_format=torch.contiguous_format) if copy else expanded


def _agree(made: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Whether two tensors are equal up to ``tolerance`` times the largest value."""
    if made.shape != expected.shape:
        return False
    sizes = expected[expected.isfinite()].abs()
    size = float(sizes.max()) if sizes.numel() else 0.0
    return torch.allclose(float64(made), float64(expected), rtol=0, atol=tolerance * size, equal_nan=True)


class Replays:
    """The network behind one layer, for each image in turn.

    Args:
        forward: of the images as they are; its model is borrowed.
        layer: name of the layer.

    Raises:
        LayerError: the network doesn't repeat itself.
    """

    def __init__(self, forward: Forward, layer: str) -> None:
        self._forward = forward
        self._layer = layer
        self._known: tuple[int | None, Replay] | None = None
        self.first = alone_or_whole(forward.network, self.of)
        """The replay of the first image, or of all of them together where the network takes whole batches only."""

    def of(self, image: int | None) -> Replay:
        """The replay of one image, or of all of them together."""
        if self._known is None or self._known[0] != image:
            self._known = image, Replay(self._forward, self._layer, image, repeats=image is not None)
        return self._known[1]
