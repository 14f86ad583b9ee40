"""What the layers of a network are good for: are they spatial, and does the score depend on them?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from camkit.engine.forward import Forward
from camkit.engine.gradients import Found, backward
from camkit.engine.hooks import watching
from camkit.engine.network import Network
from camkit.engine.record import record
from camkit.engine.rerun import alone_or_whole
from camkit.engine.scores import NoClass, require_finite, target_rows
from camkit.engine.tensors import floats
from camkit.errors import LayerError
from camkit.layers.feature_maps import lay_out_gradients
from camkit.layers.layout import Layout
from camkit.layers.layout_finder import LayoutFinder
from camkit.methods.needs import Recording
from camkit.typing import Images, TargetRows, Targets


@dataclass(frozen=True)
class Candidate:
    """A layer that ran.

    Attributes:
        name: as ``target_layers`` takes it.
        module: the layer.
        shape: of the tensor it returned, the first one where none makes a map; () for none.
        layout: how it is laid out; None where it can't be.
        live_places: at how many positions the gradient of the score isn't zero.
        is_connected: whether a gradient of the score reaches it at all, be it zero.
        sees_images: whether any of its calls depends on the images; True where that can't be tried.
        problem: why it can't be laid out.
    """

    name: str
    module: nn.Module
    shape: tuple[int, ...] = ()
    layout: Layout | None = None
    live_places: int = 0
    is_connected: bool = True
    sees_images: bool = True
    problem: LayerError | None = None

    @property
    def is_live(self) -> bool:
        """Whether the score depends on more than one position, and that on the images."""
        return self.live_places > 1 and self.sees_images


def probe(
    network: Network,
    layers: Mapping[str, nn.Module],
    images: Images,
    targets: Targets = None,
    num_extra_tokens: int | None = None,
    *,
    gradients: bool = True,
) -> list[Candidate]:
    """See how ``layers`` can be laid out, and where the score of the first image depends on them.

    One forward and one backward, and what finding layouts takes.

    Args:
        network: its model.
        layers: name to module.
        images: prepared; a network that takes whole batches gets all of them.
        targets: of the images.
        num_extra_tokens: see :class:`camkit.layers.layout_finder.LayoutFinder`.
        gradients: whether the score is differentiated; otherwise nothing is live.

    Returns:
        In the order of execution; layers that don't run are left out, a layer with several branches has one for each.
    """
    wanted = target_rows(targets, len(images))

    def attempt(image: int | None) -> list[Candidate]:
        shown = images if image is None else images[:1]
        own = wanted[:1] if image is not None and isinstance(wanted, list | Tensor) else wanted
        return _probe(network, layers, shown, own, num_extra_tokens, gradients=gradients)

    return alone_or_whole(network, attempt)


def _probe(
    network: Network,
    layers: Mapping[str, nn.Module],
    images: Images,
    wanted: TargetRows | NoClass | None,
    num_extra_tokens: int | None,
    *,
    gradients: bool,
) -> list[Candidate]:
    marks = _Marks(layers)
    with (
        network.borrowed(),
        watching(network.model, marks.look),
        record(network, images, layers, wanted, Recording(gradients=gradients), copies=True) as forward,
    ):
        require_finite(forward.scores)
        finder = LayoutFinder(forward, num_extra_tokens)
        seeing = marks.changed(lambda: finder.orientation.tilted)
        kept = floats(dict(forward.outputs))
        made: Sequence[Tensor | None] = (None,) * len(kept)
        scores = forward.total
        if kept and scores.requires_grad and gradients:
            made = backward(scores, kept, range(1))
        found = {id(leaf): gradient for leaf, gradient in zip(kept, made, strict=True)}
        return [
            replace(each, sees_images=id(layers[name]) in seeing)
            for name in forward.outputs
            for each in _candidates(forward, finder, name, layers[name], found)
        ]


class _Marks:
    """A trace of what layers returned, call by call, that takes no memory."""

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        self._layers = {id(module) for module in layers.values()}
        self._marks: dict[int, list[Tensor]] = {}

    def look(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Note what a module returned."""
        if id(module) in self._layers:
            sums = [each for leaf in floats(output) for each in (leaf.detach().sum(), leaf.detach().abs().sum())]
            self._marks.setdefault(id(module), []).extend(sums)

    def changed(self, run: Callable[[], object]) -> set[int]:
        """The ids of the layers that return something else, or nothing, when ``run`` runs the model on other images."""
        before, self._marks = self._marks, {}
        run()
        return {layer for layer, marks in before.items() if not _equal(marks, self._marks.get(layer, []))}


def _equal(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    return len(first) == len(second) and all(one.equal(other) for one, other in zip(first, second, strict=True))


def _candidates(forward: Forward, finder: LayoutFinder, name: str, module: nn.Module, found: Found) -> list[Candidate]:
    output = forward.outputs[name]
    shapes = [tuple(leaf.shape) for leaf in floats(output)]
    try:
        layouts = finder.of(name)
    except LayerError as error:
        return [Candidate(name, module, shapes[0] if shapes else (), problem=error)]
    is_connected = any(found.get(id(leaf)) is not None for leaf in floats(output))
    candidates = []
    for branch, layout in layouts.items():
        gradient = lay_out_gradients(layout, output, found, 1)[0, 0]
        places = int((gradient != 0).any(0).sum())
        candidates.append(Candidate(branch, module, layout.shape, layout, places, is_connected=is_connected))
    return candidates
