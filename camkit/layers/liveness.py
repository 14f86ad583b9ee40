"""What the layers of a network are good for: are they spatial, and does the score depend on them?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from camkit.engine.forward import Forward
from camkit.engine.gradients import Found, backward
from camkit.engine.network import Network
from camkit.engine.record import record
from camkit.engine.scores import require_finite, target_rows
from camkit.engine.tensors import floats
from camkit.errors import LayerError
from camkit.layers.feature_maps import lay_out_gradients
from camkit.layers.layout import Layout
from camkit.layers.layout_finder import LayoutFinder
from camkit.methods.needs import Recording
from camkit.typing import Images, Targets


@dataclass(frozen=True)
class Candidate:
    """A layer that ran.

    Attributes:
        name: as ``target_layers`` takes it.
        module: the layer.
        shape: of the tensor it returned, the first one where none makes a map; () for none.
        layout: how it is laid out; None where it can't be.
        live_places: at how many positions the gradient of the score isn't zero.
        problem: why it can't be laid out.
    """

    name: str
    module: nn.Module
    shape: tuple[int, ...] = ()
    layout: Layout | None = None
    live_places: int = 0
    problem: LayerError | None = None

    @property
    def is_live(self) -> bool:
        """Whether the score depends on more than one position."""
        return self.live_places > 1


def probe(
    network: Network,
    layers: Mapping[str, nn.Module],
    images: Images,
    targets: Targets = None,
    num_extra_tokens: int | None = None,
) -> list[Candidate]:
    """See how ``layers`` can be laid out, and where the score of the first image depends on them.

    One forward and one backward, and what finding layouts takes.

    Args:
        network: its model.
        layers: name to module.
        images: prepared; a network whose arguments belong to the batch gets all of them.
        targets: of the images.
        num_extra_tokens: see :class:`camkit.layers.layout_finder.LayoutFinder`.

    Returns:
        In the order of execution; layers that don't run are left out, a layer with several branches has one for each.
    """
    wanted = target_rows(targets, len(images))
    if not network.kwargs_follow_batch:
        images, wanted = images[:1], None if wanted is None else wanted[:1]
    with record(network, images, layers, wanted, Recording(gradients=True), copies=True) as forward:
        require_finite(forward.scores)
        kept = floats(dict(forward.outputs))
        gradients: Sequence[Tensor | None] = (None,) * len(kept)
        scores = forward.total
        if kept and scores.requires_grad:
            gradients = backward(scores, kept, range(1))
        found = {id(leaf): gradient for leaf, gradient in zip(kept, gradients, strict=True)}
        finder = LayoutFinder(forward, num_extra_tokens)
        return [each for name in forward.outputs for each in _candidates(forward, finder, name, layers[name], found)]


def _candidates(forward: Forward, finder: LayoutFinder, name: str, module: nn.Module, found: Found) -> list[Candidate]:
    output = forward.outputs[name]
    shapes = [tuple(leaf.shape) for leaf in floats(output)]
    try:
        layouts = finder.of(name)
    except LayerError as error:
        return [Candidate(name, module, shapes[0] if shapes else (), problem=error)]
    candidates = []
    for branch, layout in layouts.items():
        gradient = lay_out_gradients(layout, output, found, 1)[0, 0]
        candidates.append(Candidate(branch, module, layout.shape, layout, int((gradient != 0).any(0).sum())))
    return candidates
