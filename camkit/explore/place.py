"""Which classes a place of a layer speaks for: those whose score falls when the place is emptied."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from camkit.engine.network import Network
from camkit.engine.record import record
from camkit.errors import LayerError
from camkit.layers.target_layers import TargetLayers
from camkit.methods.needs import DefaultLayer
from camkit.signals.perturbed import Fillings
from camkit.typing import Images


class Emptied(NamedTuple):
    """A place of a layer, and what the scores lose without it.

    Attributes:
        layer: The layer's name.
        row: Of the place, counted from 0.
        column: Of the place.
        grid: Rows and columns of the layer.
        logits: (K,) with the place.
        lost: (K,) by how much each class's score is lower without it.
    """

    layer: str
    row: int
    column: int
    grid: tuple[int, int]
    logits: Tensor
    lost: Tensor


def empty_place(network: Network, images: Images, layers: TargetLayers, at: tuple[float, float]) -> Emptied:
    """Set a layer's activations to zero at one place, in all channels, and see by how much every class's score falls.

    One run of what is behind the layer answers for all classes, whatever their number.

    Args:
        network: The model.
        images: (1, C, H, W), prepared.
        layers: The target layers; the last one counts.
        at: Where in the picture, as shares of its height and width from the top left, in [0, 1).

    Raises:
        LayerError: The layer has no grid of rows and columns, or can't be changed; or there are no classes.
    """
    with network.borrowed():
        chosen = layers.resolve(DefaultLayer.LAST_NORM, images, None)[-1:]
        with record(network, images, {each.name: each.module for each in chosen}) as forward:
            if layers.settle_calls(forward):
                return empty_place(network, images, layers, at)
            features = layers.lay_out(forward, chosen, {})
            name, activations = list(features.activations.items())[-1]
            logits = forward.logits
            if activations.ndim != 4 or logits.ndim != 2 or not logits.shape[1]:
                raise LayerError(f"{name!r} has no rows and columns, or the model no classes: no place can be emptied")
            height, width = int(activations.shape[2]), int(activations.shape[3])
            row, column = min(int(at[0] * height), height - 1), min(int(at[1] * width), width - 1)
            values = activations.clone()
            values[:, :, row, column] = 0
            fillings = Fillings(features, name)
            without: Tensor = fillings.run(0, values, 1)
            found = logits[0] - without[0].to(logits.dtype)
            return Emptied(name, row, column, (height, width), logits[0].cpu(), found.cpu())
