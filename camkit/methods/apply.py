"""Apply a method to its signals, collect the maps of all targets, and say why a map is empty."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from camkit.errors import NonFiniteError
from camkit.methods.maps import NORMALISE_EPS, extremes
from camkit.methods.registry import Method, Reduction
from camkit.typing import SignedMaps, TargetMaps

Signal = Mapping[str, tuple[Any, ...]]
"""From layer to a method's arguments, for some of the targets; one entry, under no layer's name, where a method looks
at the whole network."""
Cell = tuple[int, int]
"""(image, target)."""


@dataclass(frozen=True)
class Result:
    """One method's maps of all targets.

    Attributes:
        raw: from layer to signed maps (B, T, *S).
        empty: from (image, target) to the reason why that map is zero everywhere.
        pixels: signed attribution of every input channel, (B, T, C, *size), from methods that have it.
        concepts: from layer to concepts (K, C), from methods that find them; T is K in their maps.
    """

    raw: dict[str, TargetMaps]
    empty: dict[Cell, str]
    pixels: Tensor | None = None
    concepts: Mapping[str, Tensor] | None = None


class Application:
    """Apply one method to successive signals and collect its maps.

    Args:
        method: the method.
        reduction: replaces the method's own.
        check: look for NaN and empty maps, which synchronises a GPU.
    """

    def __init__(self, method: Method, reduction: Reduction | None = None, *, check: bool) -> None:
        self.method = method
        self._reduction = reduction
        self._check = check
        self._layers: dict[str, _Layer] = {}
        self._pixels: dict[str, list[Tensor]] = {}
        self._concepts: dict[str, Tensor] = {}

    def add(self, signal: Signal) -> None:
        """Compute the maps of the next targets.

        Raises:
            NonFiniteError: NaN or infinity in a map, if ``check``.
        """
        for name, arguments in signal.items():
            made = self.method.maps(*arguments, reduction=self._reduction)
            if made.pixels is not None:
                self._pixels.setdefault(name, []).append(made.pixels)
            if made.concepts is not None:
                self._concepts[name] = made.concepts
            layer = self._layers.setdefault(name, _Layer(name))
            tensors = [each for each in arguments[:2] if isinstance(each, Tensor)]
            layer.add(made.signed, tensors, check=self._check)

    def result(self, count: int) -> Result:
        """Return the maps of all targets.

        Args:
            count: number of targets T, for maps that do not depend on the target.
        """
        if self._concepts:
            count = len(next(iter(self._concepts.values())))
        shared = not self.method.need.depends_on_targets
        pixels = [torch.cat(parts).transpose(0, 1) for parts in self._pixels.values()]
        return Result(
            raw={name: layer.all_targets(count) for name, layer in self._layers.items()},
            empty=_empty([layer.problems(count, shared=shared) for layer in self._layers.values()]),
            pixels=torch.stack(pixels).mean(0) if pixels else None,
            concepts=self._concepts or None,
        )


class _Layer:
    """One layer's maps, and why some of them are empty."""

    def __init__(self, name: str) -> None:
        self._maps: list[SignedMaps] = []
        self._name = name
        self._problems: dict[Cell, str] = {}

    def add(self, maps: SignedMaps, tensors: Sequence[Tensor], *, check: bool) -> None:
        """Add the maps of the next targets, made from activations (B, C, *S) and gradients (T, B, C, *S)."""
        if check:
            self._examine(maps, tensors)
        self._maps.append(maps)

    def _examine(self, maps: SignedMaps, tensors: Sequence[Tensor]) -> None:
        before = sum(map(len, self._maps))
        lows, highs = (extreme.tolist() for extreme in extremes(maps, 2))
        for target, pairs in enumerate(zip(lows, highs, strict=True)):
            for image, (low, high) in enumerate(zip(*pairs, strict=True)):
                if not _is_visible(low, high):
                    own = [each[image] if number == 0 else each[target, image] for number, each in enumerate(tensors)]
                    self._problems[image, before + target] = _problem(self._name, image, low, high, own)

    def all_targets(self, count: int) -> TargetMaps:
        """Maps of all targets, (B, T, *S)."""
        made = torch.cat(self._maps)
        return made.expand(count, *made.shape[1:]).movedim(0, 1).contiguous()

    def problems(self, count: int, *, shared: bool) -> dict[Cell, str]:
        """The reasons for empty maps; ``shared`` maps were computed once for all targets."""
        shared = shared and sum(map(len, self._maps)) == 1
        return {
            (image, each): line
            for (image, target), line in self._problems.items()
            for each in (range(count) if shared else [target])
        }


def _is_visible(low: float, high: float) -> bool:
    """Whether a map with this minimum and maximum shows anything when rectified; False for NaN."""
    return high > low and high >= NORMALISE_EPS**2 and high - low < math.inf


def _problem(name: str, image: int, low: float, high: float, tensors: Sequence[Tensor]) -> str:
    """Explain an image's empty map by its minimum, maximum, activations and, if given, gradient."""
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


def _empty(layers: Sequence[dict[Cell, str]]) -> dict[Cell, str]:
    """Describe the maps that are empty in every layer."""
    cells = set.intersection(*map(set, layers))
    return {
        (image, target): f"the map of image {image}, target {target} is empty: "
        + "; ".join(layer[image, target] for layer in layers)
        for image, target in sorted(cells)
    }
