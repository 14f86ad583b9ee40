"""What a pass answers to the requests of methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from camkit.attention import Attending
from camkit.errors import UsageError
from camkit.linearity import require_linear
from camkit.methods.requests import (
    AblatedScores,
    Attention,
    BiasGradients,
    Concepts,
    Curvature,
    Gradients,
    GuidedGradients,
    GuidedLayer,
    LinearGradients,
    MaskedScores,
    NoisyGradients,
    OnlyActivations,
    Request,
)
from camkit.noise import moments
from camkit.pixels import bias_terms, guided_gradients
from camkit.run import Pass
from camkit.scoring import Ablated, Masked

Answer = dict[str, tuple[Any, ...]]
"""Layer to what a method gets of it, for some targets; methods without layers have one entry, for the whole input."""


class Answers:
    """Answers requests from a pass.

    Args:
        evidence: the pass, recorded as the requests ask.
        blocks: of a transformer, where attention is asked for.
        check: look for scores that aren't finite, which waits for the device.
    """

    def __init__(self, evidence: Pass, blocks: Mapping[str, nn.Module], *, check: bool) -> None:
        self._evidence = evidence
        self._blocks = blocks
        self._keep = False
        self._check = check

    def to(self, request: Request, *, keep: bool) -> Iterator[Answer]:
        """What the methods get, for some targets after the other; ``keep`` the graph if it is needed again."""
        self._keep = keep
        yield from _ANSWERS[type(request)](self, request)

    def activations(self, request: OnlyActivations) -> Iterator[Answer]:
        """Nothing more."""
        yield {name: (layer,) for name, layer in self._evidence.activations.items()}

    def concepts(self, request: Concepts) -> Iterator[Answer]:
        """Nothing more either, of a single layer."""
        names = list(self._evidence.activations)
        if len(names) > 1:
            raise UsageError(f"DFF finds concepts in one layer, and got several: {', '.join(map(repr, names))}")
        yield from self.activations(OnlyActivations())

    def gradients(self, request: Gradients) -> Iterator[Answer]:
        """Gradients of the targets' scores."""
        for gradients in self._evidence.gradients(request.objective, keep=self._keep):
            yield {name: (layer, gradients[name]) for name, layer in self._evidence.activations.items()}

    def linear(self, request: LinearGradients) -> Iterator[Answer]:
        """The same, where the scores are linear."""
        for number, gradients in enumerate(self._evidence.gradients(keep=self._keep)):
            if not number:
                require_linear(self._evidence, gradients)
            yield {name: (layer, gradients[name]) for name, layer in self._evidence.activations.items()}

    def curvature(self, request: Curvature) -> Iterator[Answer]:
        """Gradients and the Hessian times the activations."""
        for found in self._evidence.curvature(request.objective):
            yield {name: (layer, *found[name]) for name, layer in self._evidence.activations.items()}

    def noisy(self, request: NoisyGradients) -> Iterator[Answer]:
        """Moments of the gradients over noisy images."""
        found = moments(self._evidence, request)
        yield {name: (layer, *found[name]) for name, layer in self._evidence.activations.items()}

    def masked(self, request: MaskedScores) -> Iterator[Answer]:
        """A score function of masks."""
        score = Masked(self._evidence, check=self._check)
        yield {name: (layer, score) for name, layer in self._evidence.activations.items()}

    def ablated(self, request: AblatedScores) -> Iterator[Answer]:
        """A score function of channels."""
        for name, layer in self._evidence.activations.items():
            yield {name: (layer, Ablated(self._evidence, name, check=self._check))}

    def attention(self, request: Attention) -> Iterator[Answer]:
        """The attention of all blocks."""
        for attended in Attending(self._evidence, self._blocks).answers(request):
            yield {"attention": (attended,)}

    def guided(self, request: GuidedGradients) -> Iterator[Answer]:
        """Guided gradients of the images."""
        yield {"input": (self._images(), self._guided)}

    def guided_layer(self, request: GuidedLayer) -> Iterator[Answer]:
        """Those, and gradients of the layers."""
        first = 0
        for gradients in self._evidence.gradients(keep=self._keep):
            count = len(next(iter(gradients.values())))
            part = self._guided[first : first + count]
            first += count
            yield {
                name: (layer, gradients[name], self._images(), part)
                for name, layer in self._evidence.activations.items()
            }

    def biases(self, request: BiasGradients) -> Iterator[Answer]:
        """What biases and the input contribute."""
        for terms in bias_terms(self._evidence):
            yield {"input": (terms, tuple(self._evidence.seen.images.shape[2:]))}

    @cached_property
    def _guided(self) -> Tensor:
        """Of the images; they take a forward and a backward of their own."""
        return guided_gradients(self._evidence)

    def _images(self) -> Tensor:
        return self._evidence.seen.images.detach()


_ANSWERS: dict[type[Request], Callable[[Answers, Any], Iterator[Answer]]] = {
    OnlyActivations: Answers.activations,
    Gradients: Answers.gradients,
    LinearGradients: Answers.linear,
    Curvature: Answers.curvature,
    NoisyGradients: Answers.noisy,
    MaskedScores: Answers.masked,
    AblatedScores: Answers.ablated,
    Attention: Answers.attention,
    GuidedGradients: Answers.guided,
    GuidedLayer: Answers.guided_layer,
    BiasGradients: Answers.biases,
    Concepts: Answers.concepts,
}
