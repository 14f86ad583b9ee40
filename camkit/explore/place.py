"""Which classes a place of a layer speaks for: those whose score falls when the place is emptied."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from camkit.engine.network import Network
from camkit.engine.record import record
from camkit.errors import LayerError
from camkit.layers.feature_maps import FeatureMaps
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


class Places:
    """The places of a layer in one image, each of which can be emptied: zero in all channels.

    What comes up to the layer runs once, for all places. One run of what is behind it then answers for all classes.

    Args:
        network: The model, which stays as it is.
        images: (1, C, H, W), prepared.
        layers: The target layers; the last one counts.

    Raises:
        LayerError: The layer has no grid of rows and columns, or can't be changed; or there are no classes.
    """

    def __init__(self, network: Network, images: Images, layers: TargetLayers) -> None:
        self._network = network
        with network.borrowed():
            features = _features(network, images, layers)
            self._name, self._activations = list(features.activations.items())[-1]
            logits = features.forward.logits
            if self._activations.ndim != 4 or logits.ndim != 2 or not logits.shape[1]:
                raise LayerError(
                    f"{self._name!r} has no rows and columns, or the model no classes: no place can be emptied"
                )
            self._logits = logits[0]
            self._fillings = Fillings(features, self._name)

    def empty(self, at: tuple[float, float]) -> Emptied:
        """Empty the place that shows a point of the picture, and see by how much every class's score falls.

        Args:
            at: Shares of the picture's height and width from the top left, in [0, 1].
        """
        height, width = int(self._activations.shape[2]), int(self._activations.shape[3])
        row, column = min(int(at[0] * height), height - 1), min(int(at[1] * width), width - 1)
        values = self._activations.clone()
        values[:, :, row, column] = 0
        with self._network.borrowed():
            without: Tensor = self._fillings.run(0, values, 1)
        lost = self._logits - without[0].detach().to(self._logits.dtype)
        return Emptied(self._name, row, column, (height, width), self._logits.cpu(), lost.cpu())


def _features(network: Network, images: Images, layers: TargetLayers) -> FeatureMaps:
    """What the last target layer returns in a forward of an image."""
    chosen = layers.resolve(DefaultLayer.LAST_NORM, images, None)[-1:]
    with record(network, images, {each.name: each.module for each in chosen}) as forward:
        if not layers.settle_calls(forward):
            return layers.lay_out(forward, chosen, {})
    return _features(network, images, layers)
