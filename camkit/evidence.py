"""Signed maps of several methods from one pass, and what is wrong with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from camkit.errors import NonFiniteError
from camkit.maps import NORMALISE_EPS, extremes
from camkit.methods import Method, Reduction
from camkit.run import Pass
from camkit.shapes import Activations, Gradients, SignedMaps, TargetMaps

Place = tuple[int, int]
"""Image and target."""


@dataclass(frozen=True)
class Maps:
    """One method's maps.

    Attributes:
        method: whose.
        raw: layer to signed maps (B, T, *S).
        empty: place to why nothing would be left of the map there.
    """

    method: Method
    raw: dict[str, TargetMaps]
    empty: dict[Place, str]


def maps_of(
    evidence: Pass, methods: Sequence[Method], reduction: Reduction | None = None, *, check: bool
) -> list[Maps]:
    """Make the maps of every method from the same activations and gradients.

    Args:
        evidence: the pass.
        methods: which.
        reduction: in place of the methods' own.
        check: look for NaN and empty maps, which waits for the device.

    Raises:
        LayerError: a score doesn't depend on a layer.
        NonFiniteError: NaN or infinity in a map, when looking.
    """
    layers = [{name: _Layer(name, activations) for name, activations in evidence.activations.items()} for _ in methods]
    needed = any(method.needs_gradients for method in methods)
    for gradients in evidence.gradients() if needed else [{}]:
        for method, made in zip(methods, layers, strict=True):
            for name, layer in made.items():
                # Without gradients every target has the same map: it is made once, of something of their shape.
                if method.needs_gradients:
                    layer.add(method, gradients[name], reduction, check=check)
                elif not layer.maps:
                    layer.add(method, evidence.activations[name][None], reduction, check=check)
    count = evidence.scores.shape[1]
    return [
        Maps(
            method,
            {name: layer.all_targets(count) for name, layer in made.items()},
            _empty([layer.problems(count) for layer in made.values()]),
        )
        for method, made in zip(methods, layers, strict=True)
    ]


class _Layer:
    """One layer's maps by one method, and what is wrong with them."""

    def __init__(self, name: str, activations: Activations) -> None:
        self.maps: list[SignedMaps] = []
        self._name = name
        self._activations = activations
        self._problems: dict[Place, str] = {}

    def add(self, method: Method, gradients: Gradients, reduction: Reduction | None, *, check: bool) -> None:
        """Make the maps of some more targets."""
        maps = method.signed_maps(self._activations, gradients, reduction)
        if check:
            self._look_at(maps, gradients)
        self.maps.append(maps)

    def _look_at(self, maps: SignedMaps, gradients: Gradients) -> None:
        """Note why nothing would be left of a map. Waits for the device."""
        before = sum(map(len, self.maps))
        lows, highs = (extreme.tolist() for extreme in extremes(maps, 2))
        for target, pairs in enumerate(zip(lows, highs, strict=True)):
            for image, (low, high) in enumerate(zip(*pairs, strict=True)):
                if not _is_visible(low, high):
                    tensors = gradients[target, image], self._activations[image]
                    self._problems[image, before + target] = _problem(self._name, image, low, high, *tensors)

    def all_targets(self, count: int) -> TargetMaps:
        """The maps of all targets, (B, T, *S)."""
        made = torch.cat(self.maps)
        return made.expand(count, *made.shape[1:]).movedim(0, 1).contiguous()

    def problems(self, count: int) -> dict[Place, str]:
        """Why nothing is left of a map, for every target."""
        shared = sum(map(len, self.maps)) == 1
        return {
            (image, each): line
            for (image, target), line in self._problems.items()
            for each in (range(count) if shared else [target])
        }


def _is_visible(low: float, high: float) -> bool:
    """Whether something is left of a map with these extremes; False for NaN."""
    return high > low and high >= NORMALISE_EPS**2 and high - low < math.inf


def _problem(name: str, image: int, low: float, high: float, gradient: Tensor, activations: Tensor) -> str:
    """Why nothing is left of an image's map with these extremes, made of its gradient and activations (C, *S)."""
    if not high - low < math.inf:
        tensors = {"activations": activations, "gradient": gradient}
        broken = [kind for kind, tensor in tensors.items() if not tensor.isfinite().all()]
        raise NonFiniteError(
            f"NaN or infinity in the {broken[0] if broken else 'weighted activations'} of layer {name!r}, image "
            f"{image}: check the checkpoint and the precision (bfloat16 or float32 instead of float16)"
        )
    if not activations.any():
        return f"the activations of {name!r} are all zero"
    if not gradient.any():
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
