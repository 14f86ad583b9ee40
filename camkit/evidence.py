"""Signed maps of several methods from one pass, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from camkit.errors import NonFiniteError
from camkit.maps import NORMALISE_EPS
from camkit.methods import Method, Reduction
from camkit.run import Pass
from camkit.shapes import Activations, Map, TargetMaps

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
    count = evidence.scores.shape[1]
    columns = [{name: _Column(name) for name in evidence.activations} for _ in methods]
    needed = any(method.needs_gradients for method in methods)
    for gradients in evidence.gradients() if needed else [evidence.activations]:
        for method, layers in zip(methods, columns, strict=True):
            for name, activations in evidence.activations.items():
                column, gradient = layers[name], gradients[name] if method.needs_gradients else activations
                # Without gradients every target has the same map: it is made once.
                if method.needs_gradients or not column.maps:
                    raw = (reduction or method.reduction)(method.weigh(activations, gradient))
                    column.add(raw, gradient if check else None)
    peaks = {name: _peak(activations) for name, activations in evidence.activations.items()} if check else {}
    return [
        Maps(
            method,
            {name: column.stacked(count) for name, column in layers.items()},
            _empty([column.problems(count, peaks[name]) for name, column in layers.items()]) if check else {},
        )
        for method, layers in zip(methods, columns, strict=True)
    ]


class _Column:
    """One layer's maps, target by target, with what their checks need: it stays on the device until then."""

    def __init__(self, name: str) -> None:
        self.maps: list[Map] = []
        self._name = name
        self._extremes: list[tuple[Tensor, Tensor]] = []
        self._gradient_peaks: list[Tensor] = []

    def add(self, raw: Map, gradient: Activations | None) -> None:
        """Note a map, and of the gradient to be checked its largest value, where it will be asked for."""
        self.maps.append(raw)
        if gradient is None:
            return
        low, high = raw.flatten(1).aminmax(dim=1)
        self._extremes.append((low, high))
        # Where looking costs nothing, only what is suspicious is looked at further.
        is_fine = raw.device.type == "cpu" and bool((_is_visible(low, high)).all())
        self._gradient_peaks.append(torch.zeros_like(low) if is_fine else _peak(gradient).to(low.dtype))

    def stacked(self, count: int) -> TargetMaps:
        return torch.stack(self.maps * (count // len(self.maps)), 1)

    def problems(self, count: int, activation_peak: Tensor) -> dict[Place, str]:
        """For every map of which nothing would be left: why."""
        columns = [
            torch.stack([low, high, gradient, activation_peak])
            for (low, high), gradient in zip(self._extremes, self._gradient_peaks, strict=True)
        ]
        # The one time that the host waits.
        numbers = torch.stack(columns * (count // len(columns))).permute(2, 0, 1).tolist()
        lines = {
            (image, target): _problem(self._name, image, *vitals)
            for image, targets in enumerate(numbers)
            for target, vitals in enumerate(targets)
        }
        return {place: line for place, line in lines.items() if line}


def _peak(tensor: Activations) -> Tensor:
    """The largest absolute value per image, (B,); NaN where there is NaN."""
    low, high = tensor.flatten(1).aminmax(dim=1)
    return torch.maximum(-low, high)


def _is_visible(low: Tensor, high: Tensor) -> Tensor:
    """Whether something would be left of maps with these extremes; False for NaN."""
    return (high > low) & (high >= NORMALISE_EPS**2) & (high - low < float("inf"))


def _problem(name: str, image: int, low: float, high: float, gradient: float, activation: float) -> str:
    """Why nothing would be left of a map with these extremes, or an empty string."""
    if not abs(high - low) < float("inf"):
        tensors = {"activations": activation, "gradient": gradient}
        broken = [kind for kind, largest in tensors.items() if not largest < float("inf")]
        raise NonFiniteError(
            f"NaN or infinity in the {broken[0] if broken else 'weighted activations'} of layer {name!r}, image "
            f"{image}: check the checkpoint and the precision (bfloat16 or float32 instead of float16)"
        )
    if high > low and high >= NORMALISE_EPS**2:
        return ""
    if not activation:
        return f"the activations of {name!r} are all zero"
    if not gradient:
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
