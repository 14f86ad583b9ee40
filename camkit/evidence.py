"""Signed maps of several methods from one pass, and what is wrong with them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from camkit.answers import Answer, Answers
from camkit.concepts import name_concepts
from camkit.errors import NonFiniteError
from camkit.maps import NORMALISE_EPS, extremes
from camkit.methods import Method, Reduction
from camkit.methods.requests import Concepts, Gradients, GuidedGradients, GuidedLayer
from camkit.run import Pass
from camkit.shapes import SignedMaps, TargetMaps

Place = tuple[int, int]
"""Image and target."""


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
    answers = Answers(evidence, blocks or {}, check=check)
    made = [_Making(method, evidence, reduction, check=check) for method in methods]
    asked = list(dict.fromkeys(method.request for method in methods))
    # Those that need the graph come first, and of these the one whose last backward can free it last.
    asked.sort(key=lambda request: (not request.backward, type(request) is Gradients))
    for number, request in enumerate(asked):
        askers = [each for each in made if each.method.request == request]
        keep = any(later.backward for later in asked[number + 1 :])
        for answer in answers.to(request, keep=keep):
            for each in askers:
                each.add(answer)
    return [each.maps() for each in made]


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
            ((name, concepts),) = self._concepts.items()
            targets, scores = name_concepts(self._evidence, name, concepts)
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
