"""What a method asks of the network beside a layer's activations. Equal requests are answered once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor

from camkit.shapes import Categories, Scores, SignedMaps


@runtime_checkable
class Objective(Protocol):
    """What is explained in place of the scores."""

    name: ClassVar[str]
    """Of the method that has it."""
    instead: ClassVar[str]
    """What explains other targets than class indices."""

    def __call__(self, logits: Tensor, categories: Categories) -> Scores:
        """Logits (B, K), part of a graph, and class indices (B, T) to scores (B, T)."""
        ...


@dataclass(frozen=True)
class Request:
    """Nothing but the activations: a method gets (B, C, *S).

    Attributes:
        needs: in words, as ``camkit methods`` says it.
        of_layers: whether it is answered for every target layer; otherwise the method has none.
        has_targets: whether the answer depends on the targets.
        backward: whether it takes a graph behind the layers.
        twice: whether it differentiates twice.
        inputs: whether it takes a graph behind the images.
    """

    needs: ClassVar[str] = "activations"
    of_layers: ClassVar[bool] = True
    has_targets: ClassVar[bool] = True
    backward: ClassVar[bool] = False
    twice: ClassVar[bool] = False
    inputs: ClassVar[bool] = False


@dataclass(frozen=True)
class OnlyActivations(Request):
    """A method gets (activations)."""

    has_targets = False


@dataclass(frozen=True)
class Gradients(Request):
    """A method gets (activations, gradients (T, B, C, *S)) of the scores, or of an objective in their place."""

    needs = "gradients"
    backward = True
    objective: Objective | None = None


@dataclass(frozen=True)
class LinearGradients(Gradients):
    """The same, of scores that are linear in the mean activations; others are refused."""

    needs = "gradients, a head of pooling and one linear layer"


@dataclass(frozen=True)
class Curvature(Request):
    """A method gets (activations, gradients, the Hessian times the activations), both (T, B, C, *S)."""

    needs = "gradients, second derivatives"
    backward = True
    twice = True
    objective: Objective | None = None


@dataclass(frozen=True)
class NoisyGradients(Request):
    """A method gets (activations, mean of G, of G^2, of G^3 over noisy images), (T, B, C, *S) each.

    Attributes:
        num_samples: how many times noise is added.
        std: of the noise, in units of the normalised input.
        seed: of the noise.
    """

    needs = "gradients of noisy images"
    num_samples: int
    std: float
    seed: int


@runtime_checkable
class MaskedScore(Protocol):
    """What images score behind masks."""

    size: tuple[int, ...]

    def __call__(self, mask: Callable[[Tensor, Tensor], Tensor], items: Tensor, samples: int = 1) -> Tensor:
        """Scores (T, B, N) of ``images[b] * mask(b, items[b, n])``.

        Args:
            mask: images (n,) and items (n,) to masks (n, *size), on the activations' device.
            items: (B, N) of integers.
            samples: how many of them a channel has, one after the other.
        """
        ...


@dataclass(frozen=True)
class MaskedScores(Request):
    """A method gets (activations, :class:`MaskedScore`)."""

    needs = "scores of masked images"


@runtime_checkable
class AblatedScore(Protocol):
    """What images score without a channel of the layer."""

    scores: Tensor
    """(T, B): with all channels."""

    def __call__(self, channels: Tensor) -> Tensor:
        """Scores (T, B, N) without channel ``channels[b, n]``, (B, N)."""
        ...


@dataclass(frozen=True)
class AblatedScores(Request):
    """A method gets (activations, :class:`AblatedScore`)."""

    needs = "scores without single channels"


@dataclass(frozen=True)
class Attention(Request):
    """A method gets an :class:`Attended`.

    Attributes:
        gradients: None, of the ``"score"``, or of every block's ``"own"`` score.
    """

    needs = "attention"
    of_layers = False
    backward = True
    gradients: str | None = None


@dataclass(frozen=True)
class Attended:
    """The attention of a network's blocks, from front to back.

    Attributes:
        probabilities: one (B, heads, N, N) per block; rows are queries.
        gradients: one (T, B, heads, N, N) per block, if asked for.
        readout: (T, B, N): with what share the score reads each token behind the last block.
        lay_out: numbers by token (T, B, N) to maps (T, B, *S).
    """

    probabilities: list[Tensor]
    gradients: list[Tensor]
    readout: Tensor
    lay_out: Callable[[Tensor], SignedMaps]


@dataclass(frozen=True)
class GuidedGradients(Request):
    """A method gets (images (B, C, *size), gradients (T, B, C, *size) of guided backpropagation)."""

    needs = "input gradients, ReLUs"
    of_layers = False


@dataclass(frozen=True)
class GuidedLayer(Gradients):
    """Those, and (activations, gradients) of each layer."""

    needs = "gradients, input gradients, ReLUs"


@dataclass(frozen=True)
class BiasGradients(Request):
    """A method gets a :class:`Biased` of every layer with a bias and places, and one of the images."""

    needs = "gradients of all biases and the input"
    of_layers = False
    backward = True
    inputs = True


@dataclass(frozen=True)
class Concepts(Request):
    """A method gets (activations) and returns concepts, see :mod:`camkit.methods.concept`."""

    has_targets = False
