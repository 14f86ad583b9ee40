"""Signed maps of several methods from one pass, and what is wrong with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from camkit.attention import Attending
from camkit.concepts import name_concepts
from camkit.errors import NonFiniteError
from camkit.linearity import require_linear
from camkit.maps import NORMALISE_EPS, extremes
from camkit.methods import Method, Reduction
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
from camkit.shapes import SignedMaps, TargetMaps

Place = tuple[int, int]
"""Image and target."""
Answer = dict[str, tuple[Any, ...]]
"""Layer to what a method gets of it, for some targets; methods without layers have one entry, for the whole input."""
INPUT = "input"


@dataclass(frozen=True)
class Maps:
    """One method's maps.

    Attributes:
        method: whose.
        raw: layer to signed maps (B, T, *S).
        empty: place to why nothing would be left of the map there.
        pixels: (B, T, C, *size), every input channel's own attribution, where the method has them.
        targets: class indices (B, T), where the method has its own.
        scores: (B, T), the same.
    """

    method: Method
    raw: dict[str, TargetMaps]
    empty: dict[Place, str]
    pixels: Tensor | None = None
    targets: Tensor | None = None
    scores: Tensor | None = None


def maps_of(
    evidence: Pass,
    methods: Sequence[Method],
    reduction: Reduction | None = None,
    *,
    blocks: Mapping[str, nn.Module] | None = None,
    check: bool,
) -> list[Maps]:
    """Make the maps of every method; those that ask for the same get the same.

    Args:
        evidence: the pass, recorded as the methods' requests ask.
        methods: which.
        reduction: in place of the methods' own.
        blocks: of a transformer, where a method asks for attention.
        check: look for NaN and empty maps, which waits for the device.

    Raises:
        LayerError: a score doesn't depend on a layer, or a method can't be applied to it.
        UsageError: a method can't be applied to the network or the targets.
        NonFiniteError: NaN or infinity in a map or in scores, when looking.
    """
    made = [_Making(method, evidence, reduction, check=check) for method in methods]
    asked = list(dict.fromkeys(method.request for method in methods))
    asked.sort(key=lambda request: type(request) is Gradients)  # their last backward frees the graph
    for number, request in enumerate(asked):
        askers = [each for each in made if each.method.request == request]
        answers = _Answers(evidence, blocks or {}, keep=number + 1 < len(asked), check=check)
        for answer in answers.to(request):
            for each in askers:
                each.add(answer)
    return [each.maps() for each in made]


class _Answers:
    """Answers requests from a pass."""

    def __init__(self, evidence: Pass, blocks: Mapping[str, nn.Module], *, keep: bool, check: bool) -> None:
        self._evidence = evidence
        self._blocks = blocks
        self._keep = keep
        self._check = check

    def to(self, request: Request) -> Iterator[Answer]:
        """What the methods get, for some targets after the other."""
        yield from _ANSWERS[type(request)](self, request)

    def activations(self, request: OnlyActivations) -> Iterator[Answer]:
        """Nothing more."""
        yield {name: (layer,) for name, layer in self._evidence.activations.items()}

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
        yield {INPUT: (self._images(), guided_gradients(self._evidence))}

    def guided_layer(self, request: GuidedLayer) -> Iterator[Answer]:
        """Those, and gradients of the layers."""
        guided, first = guided_gradients(self._evidence), 0
        for gradients in self._evidence.gradients(keep=self._keep):
            count = len(next(iter(gradients.values())))
            part = guided[first : first + count]
            first += count
            yield {
                name: (layer, gradients[name], self._images(), part)
                for name, layer in self._evidence.activations.items()
            }

    def biases(self, request: BiasGradients) -> Iterator[Answer]:
        """What biases and the input contribute."""
        for terms in bias_terms(self._evidence):
            yield {INPUT: (terms, tuple(self._evidence.seen.images.shape[2:]))}

    def _images(self) -> Tensor:
        return self._evidence.seen.images.detach()


_ANSWERS: dict[type[Request], Callable[[_Answers, Any], Iterator[Answer]]] = {
    OnlyActivations: _Answers.activations,
    Gradients: _Answers.gradients,
    LinearGradients: _Answers.linear,
    Curvature: _Answers.curvature,
    NoisyGradients: _Answers.noisy,
    MaskedScores: _Answers.masked,
    AblatedScores: _Answers.ablated,
    Attention: _Answers.attention,
    GuidedGradients: _Answers.guided,
    GuidedLayer: _Answers.guided_layer,
    BiasGradients: _Answers.biases,
    Concepts: _Answers.activations,
}


class _Making:
    """The maps of one method, while they are made."""

    def __init__(self, method: Method, evidence: Pass, reduction: Reduction | None, *, check: bool) -> None:
        self.method = method
        self._evidence = evidence
        self._reduction = reduction
        self._check = check
        self._layers: dict[str, _Layer] = {}
        self._pixels: dict[str, list[Tensor]] = {}
        self._concepts: dict[str, Tensor] = {}

    def add(self, answer: Answer) -> None:
        """Make the maps of some more targets."""
        for name, given in answer.items():
            made: Any = self.method.signed_maps(*given, reduction=self._reduction)
            if isinstance(self.method.request, GuidedGradients | GuidedLayer):
                self._pixels.setdefault(name, []).append(made)
                made = made.abs().amax(2)  # over colours
            elif isinstance(self.method.request, Concepts):
                made, self._concepts[name] = made
            layer = self._layers.setdefault(name, _Layer(name))
            tensors = [each for each in given[:2] if isinstance(each, Tensor)]
            layer.add(made, tensors, check=self._check)

    def maps(self) -> Maps:
        """What was made."""
        has_targets = self.method.request.has_targets
        count = self._evidence.count
        if self._concepts:
            count = len(next(iter(self._concepts.values())))
        made = Maps(
            self.method,
            {name: layer.all_targets(count) for name, layer in self._layers.items()},
            _empty([layer.problems(count, shared=not has_targets) for layer in self._layers.values()]),
        )
        if self._pixels:
            layers = [torch.cat(parts).transpose(0, 1) for parts in self._pixels.values()]
            made = replace(made, pixels=torch.stack(layers).mean(0))
        if self._concepts:
            targets, scores = name_concepts(self._evidence, self._concepts)
            made = replace(made, targets=targets, scores=scores)
        return made


class _Layer:
    """One layer's maps by one method, and what is wrong with them."""

    def __init__(self, name: str) -> None:
        self._maps: list[SignedMaps] = []
        self._name = name
        self._problems: dict[Place, str] = {}

    def add(self, maps: SignedMaps, tensors: Sequence[Tensor], *, check: bool) -> None:
        """Take the maps of some more targets, which were made of ``tensors``: activations (B, C, *S) and gradients."""
        if check:
            self._look_at(maps, tensors)
        self._maps.append(maps)

    def _look_at(self, maps: SignedMaps, tensors: Sequence[Tensor]) -> None:
        """Note why nothing would be left of a map. Waits for the device."""
        before = sum(map(len, self._maps))
        lows, highs = (extreme.tolist() for extreme in extremes(maps, 2))
        for target, pairs in enumerate(zip(lows, highs, strict=True)):
            for image, (low, high) in enumerate(zip(*pairs, strict=True)):
                if not _is_visible(low, high):
                    own = [each[image] if number == 0 else each[target, image] for number, each in enumerate(tensors)]
                    self._problems[image, before + target] = _problem(self._name, image, low, high, own)

    def all_targets(self, count: int) -> TargetMaps:
        """The maps of all targets, (B, T, *S)."""
        made = torch.cat(self._maps)
        return made.expand(count, *made.shape[1:]).movedim(0, 1).contiguous()

    def problems(self, count: int, *, shared: bool) -> dict[Place, str]:
        """Why nothing is left of a map, for every target."""
        shared = shared and sum(map(len, self._maps)) == 1
        return {
            (image, each): line
            for (image, target), line in self._problems.items()
            for each in (range(count) if shared else [target])
        }


def _is_visible(low: float, high: float) -> bool:
    """Whether something is left of a map with these extremes; False for NaN."""
    return high > low and high >= NORMALISE_EPS**2 and high - low < math.inf


def _problem(name: str, image: int, low: float, high: float, tensors: Sequence[Tensor]) -> str:
    """Why nothing is left of an image's map with these extremes, made of its activations and perhaps its gradient."""
    kinds = dict(zip(("activations", "gradient"), tensors, strict=False))
    if not high - low < math.inf:
        broken = [kind for kind, tensor in kinds.items() if not tensor.isfinite().all()]
        raise NonFiniteError(
            f"NaN or infinity in the {broken[0] if broken else 'weighted activations'} of layer {name!r}, image "
            f"{image}: check the checkpoint and the precision (bfloat16 or float32 instead of float16)"
        )
    if "activations" in kinds and not kinds["activations"].any():
        return f"the activations of {name!r} are all zero"
    if "gradient" in kinds and not kinds["gradient"].any():
        return f"the gradient in {name!r} is all zero"
    if 0 < high < NORMALISE_EPS**2:
        return f"the evidence in {name!r} is too small to show ({high:.1g} at most)"
    if high == low:
        return f"the evidence in {name!r} is the same everywhere"
    return f"the evidence in {name!r} is negative everywhere"


def _empty(layers: Sequence[dict[Place, str]]) -> dict[Place, str]:
    """A map is empty where nothing is left of it in any layer."""
    places = set.intersection(*map(set, layers))
    return {
        (image, target): f"the map of image {image}, target {target} is empty: "
        + "; ".join(layer[image, target] for layer in layers)
        for image, target in sorted(places)
    }
