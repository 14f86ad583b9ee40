"""What a method needs of the network. Equal needs share one computation.

A need says what the forward must record; :mod:`camkit.signals` computes the method's arguments from the recording. Each
class's docstring begins with these arguments. To add a need, write a class here, its method of
:class:`camkit.signals.compute.Signals` and its line in ``_SIGNALS`` there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import Enum
from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor

from camkit.typing import Categories, Scores, SignedMaps


@dataclass(frozen=True)
class Recording:
    """What a forward records beside the outputs of the target layers.

    Attributes:
        gradients: the graph from the target layers on, for a backward.
        inputs: the graph from the images on.
        twice: a graph that can be differentiated twice.
        attention: the probabilities of every attention, and the outputs of the attention blocks.
        biases: where in the graph biases are added.
    """

    gradients: bool = False
    inputs: bool = False
    twice: bool = False
    attention: bool = False
    biases: bool = False

    def __or__(self, other: Recording) -> Recording:
        """Record what either of the two records."""
        return Recording(*(getattr(self, each.name) or getattr(other, each.name) for each in fields(self)))


class DefaultLayer(Enum):
    """Which layers are the target layers where the user names none; see :mod:`camkit.layers.default_layers`."""

    LAST_NORM = "the last norm layer that is spatial and live"
    EVERY_RESOLUTION = "the last spatial and live norm layer of every resolution"
    LAST = "the last layer of any kind that is spatial and live"


class Place(Enum):
    """Where in the network a method looks."""

    LAYERS = "at each target layer"
    BLOCKS = "at the attention blocks"
    NETWORK = "at the whole network"


@runtime_checkable
class Objective(Protocol):
    """A function of the logits that is differentiated instead of the targets' scores."""

    method: ClassVar[str]
    """The method that uses it."""
    instead: ClassVar[str]
    """What error messages offer for targets that are no class indices."""

    def __call__(self, logits: Tensor, categories: Categories) -> Scores:
        """Logits (B, K), part of a graph, and class indices (B, T) to scores (B, T)."""
        ...


@dataclass(frozen=True)
class Need:
    """Base of the needs.

    Attributes:
        text: in words, as ``camkit methods`` lists it.
        place: where in the network the method looks.
        records: what the forward must record.
        depends_on_targets: whether maps differ from class to class.
        finds_targets: whether the method finds what it maps (concepts) instead of mapping the given targets.
        default_layer: which layers are the target layers where the user names none.
    """

    text: ClassVar[str]
    place: ClassVar[Place] = Place.LAYERS
    records: ClassVar[Recording] = Recording()
    depends_on_targets: ClassVar[bool] = True
    finds_targets: ClassVar[bool] = False
    default_layer: ClassVar[DefaultLayer] = DefaultLayer.LAST_NORM


@dataclass(frozen=True)
class ActivationsNeed(Need):
    """(activations)."""

    text = "activations"
    depends_on_targets = False


@dataclass(frozen=True)
class GradientsNeed(Need):
    """(activations, gradients (T, B, C, *S)).

    Attributes:
        objective: what is differentiated; None for the targets' scores.
    """

    text = "gradients"
    records = Recording(gradients=True)
    objective: Objective | None = None


@dataclass(frozen=True)
class LinearHeadNeed(Need):
    """(activations, gradients), where the score is linear in the mean activations; other networks are refused."""

    text = "gradients, a head of pooling and one linear layer"
    records = Recording(gradients=True)
    default_layer = DefaultLayer.LAST


@dataclass(frozen=True)
class CurvatureNeed(Need):
    """(activations, gradients, Hessian times activations), the last two (T, B, C, *S).

    Attributes:
        objective: what is differentiated; None for the targets' scores.
    """

    text = "gradients, second derivatives"
    records = Recording(gradients=True, twice=True)
    objective: Objective | None = None


@dataclass(frozen=True)
class NoisyGradientsNeed(Need):
    """(activations, mean of G, of G^2, of G^3 over noisy images), the last three (T, B, C, *S).

    Attributes:
        num_samples: number of noisy copies of each image.
        std: standard deviation of the noise, in units of the normalised input.
        seed: seed of the noise.
    """

    text = "gradients of noisy images"
    num_samples: int
    std: float
    seed: int


@runtime_checkable
class MaskedScore(Protocol):
    """Scores masked images."""

    size: tuple[int, ...]
    """Spatial size of images and masks."""

    def __call__(self, mask: Callable[[Tensor, Tensor], Tensor], items: Tensor, samples: int = 1) -> Tensor:
        """Scores (T, B, N) of ``images[b] * mask(b, items[b, n])``.

        Args:
            mask: from image indices (n,) and items (n,) to masks (n, *size), on the activations' device.
            items: (B, N) integers, which ``mask`` interprets.
            samples: number of consecutive items that belong to one channel, which messages name.
        """
        ...


@dataclass(frozen=True)
class MaskedScoresNeed(Need):
    """(activations, :class:`MaskedScore`)."""

    text = "scores of masked images"


@runtime_checkable
class AblatedScore(Protocol):
    """Scores images without one channel of the layer."""

    scores: Tensor
    """Scores with all channels, (T, B)."""

    def __call__(self, channels: Tensor) -> Tensor:
        """Scores (T, B, N) without channel ``channels[b, n]``; ``channels`` is (B, N)."""
        ...


@dataclass(frozen=True)
class AblatedScoresNeed(Need):
    """(activations, :class:`AblatedScore`)."""

    text = "scores without single channels"


@dataclass(frozen=True)
class AttentionNeed(Need):
    """(:class:`Attended`).

    Attributes:
        gradients: whose gradient is needed: the class ``"score"``, each block's ``"own"`` score, or None.
    """

    text = "attention"
    place = Place.BLOCKS
    records = Recording(gradients=True, attention=True)
    gradients: str | None = None


@dataclass(frozen=True)
class Attended:
    """The attention of a network's blocks, from front to back.

    Attributes:
        probabilities: (B, heads, N, N) per block; rows are queries.
        gradients: (T, B, heads, N, N) per block, if needed.
        readout: (T, B, N), the share of each token behind the last block in the score.
        lay_out: from values by token (T, B, N) to maps (T, B, *S).
    """

    probabilities: list[Tensor]
    gradients: list[Tensor]
    readout: Tensor
    lay_out: Callable[[Tensor], SignedMaps]


@dataclass(frozen=True)
class GuidedGradientsNeed(Need):
    """(images (B, C, *size), guided gradients (T, B, C, *size))."""

    text = "input gradients, ReLUs"
    place = Place.NETWORK


@dataclass(frozen=True)
class GuidedLayerNeed(Need):
    """(activations, gradients) of each layer, followed by the arguments of :class:`GuidedGradientsNeed`."""

    text = "gradients, input gradients, ReLUs"
    records = Recording(gradients=True)


@dataclass(frozen=True)
class BiasGradientsNeed(Need):
    """(terms, size): bias or input times gradient, (T, B, C, *S) per layer with a bias; the images' spatial size."""

    text = "gradients of all biases and the input"
    place = Place.NETWORK
    records = Recording(gradients=True, inputs=True, biases=True)


@dataclass(frozen=True)
class ConceptsNeed(Need):
    """(activations) of one layer; the method's :class:`~camkit.methods.registry.Maps` hold concepts."""

    text = "activations"
    depends_on_targets = False
    finds_targets = True
