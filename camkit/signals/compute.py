"""Compute each method's inputs from one forward. The one place that looks at which kind of need it has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any

from torch import Tensor

from camkit.errors import UsageError
from camkit.layers.feature_maps import FeatureMaps
from camkit.methods.apply import Signal
from camkit.methods.needs import (
    AblatedScoresNeed,
    ActivationsNeed,
    AttentionNeed,
    BiasGradientsNeed,
    ConceptsNeed,
    CurvatureNeed,
    GradientsNeed,
    GuidedGradientsNeed,
    GuidedLayerNeed,
    LinearHeadNeed,
    MaskedScoresNeed,
    Need,
    NoisyGradientsNeed,
)
from camkit.signals.attention import attended
from camkit.signals.biases import bias_terms
from camkit.signals.gradients import guided_gradients, noisy_moments, require_linear_head
from camkit.signals.perturbed import Ablated, Masked


class Signals:
    """The signals of one forward.

    Args:
        features: the target layers of the forward, which recorded what the needs ask for.
        check: look for scores that aren't finite, which synchronises a GPU.
    """

    def __init__(self, features: FeatureMaps, *, check: bool) -> None:
        self._features = features
        self._check = check
        self._keep = False

    def compute(self, needs: Iterable[Need]) -> Iterator[tuple[Need, Signal]]:
        """Compute what the needs stand for, each once, however many methods have it.

        Yields:
            A need, and its signal for successive groups of targets.

        Raises:
            LayerError: a score doesn't depend on a layer, or a need can't be met at it.
            UsageError: a need can't be met for the network or the targets.
        """
        # Those that use the graph come first, and of these the one whose last backward can free it last.
        order = sorted(
            dict.fromkeys(needs), key=lambda need: (not need.records.gradients, isinstance(need, GradientsNeed))
        )
        for number, need in enumerate(order):
            self._keep = any(later.records.gradients for later in order[number + 1 :])
            for signal in _SIGNALS[type(need)](self, need):
                yield need, signal

    def activations(self, need: ActivationsNeed) -> Iterator[Signal]:
        """The activations of each layer."""
        yield {name: (layer,) for name, layer in self._features.activations.items()}

    def concepts(self, need: ConceptsNeed) -> Iterator[Signal]:
        """The activations of the only layer."""
        names = list(self._features.activations)
        if len(names) > 1:
            raise UsageError(f"DFF finds concepts in one layer, and got several: {', '.join(map(repr, names))}")
        yield from self.activations(ActivationsNeed())

    def gradients(self, need: GradientsNeed) -> Iterator[Signal]:
        """Activations and gradients."""
        for gradients in self._features.gradients(need.objective, keep=self._keep):
            yield {name: (layer, gradients[name]) for name, layer in self._features.activations.items()}

    def linear_head(self, need: LinearHeadNeed) -> Iterator[Signal]:
        """Activations and gradients, where the scores are linear in the mean activations."""
        for number, gradients in enumerate(self._features.gradients(keep=self._keep)):
            if not number:
                require_linear_head(self._features, gradients)
            yield {name: (layer, gradients[name]) for name, layer in self._features.activations.items()}

    def curvature(self, need: CurvatureNeed) -> Iterator[Signal]:
        """Activations, gradients, and the Hessian times the activations."""
        for found in self._features.curvatures(need.objective):
            yield {name: (layer, *found[name]) for name, layer in self._features.activations.items()}

    def noisy_gradients(self, need: NoisyGradientsNeed) -> Iterator[Signal]:
        """Activations, and moments of the gradients over noisy images."""
        found = noisy_moments(self._features, need)
        yield {name: (layer, *found[name]) for name, layer in self._features.activations.items()}

    def masked_scores(self, need: MaskedScoresNeed) -> Iterator[Signal]:
        """Activations, and a function that scores masked images."""
        score = Masked(self._features.forward, check=self._check)
        yield {name: (layer, score) for name, layer in self._features.activations.items()}

    def ablated_scores(self, need: AblatedScoresNeed) -> Iterator[Signal]:
        """Activations, and a function that scores images without single channels."""
        for name, layer in self._features.activations.items():
            yield {name: (layer, Ablated(self._features, name, check=self._check))}

    def attention(self, need: AttentionNeed) -> Iterator[Signal]:
        """The attention of all blocks."""
        for found in attended(self._features, need):
            yield {"attention": (found,)}

    def guided_gradients(self, need: GuidedGradientsNeed) -> Iterator[Signal]:
        """The images and their guided gradients."""
        yield {"input": (self._images, self._guided)}

    def guided_layer(self, need: GuidedLayerNeed) -> Iterator[Signal]:
        """Activations and gradients of the layers, the images and their guided gradients."""
        first = 0
        for gradients in self._features.gradients(keep=self._keep):
            count = len(next(iter(gradients.values())))
            part = self._guided[first : first + count]
            first += count
            yield {
                name: (layer, gradients[name], self._images, part) for name, layer in self._features.activations.items()
            }

    def bias_gradients(self, need: BiasGradientsNeed) -> Iterator[Signal]:
        """What biases and the input contribute to the score."""
        for terms in bias_terms(self._features):
            yield {"input": (terms, tuple(self._images.shape[2:]))}

    @cached_property
    def _guided(self) -> Tensor:
        return guided_gradients(self._features.forward)  # a forward and backwards of their own

    @property
    def _images(self) -> Tensor:
        return self._features.forward.images.detach()


_SIGNALS: dict[type[Need], Callable[[Signals, Any], Iterator[Signal]]] = {
    ActivationsNeed: Signals.activations,
    GradientsNeed: Signals.gradients,
    LinearHeadNeed: Signals.linear_head,
    CurvatureNeed: Signals.curvature,
    NoisyGradientsNeed: Signals.noisy_gradients,
    MaskedScoresNeed: Signals.masked_scores,
    AblatedScoresNeed: Signals.ablated_scores,
    AttentionNeed: Signals.attention,
    GuidedGradientsNeed: Signals.guided_gradients,
    GuidedLayerNeed: Signals.guided_layer,
    BiasGradientsNeed: Signals.bias_gradients,
    ConceptsNeed: Signals.concepts,
}
