"""What a method is, and the list of all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from inspect import Parameter, signature
from typing import Any

from torch import Tensor

from camkit.errors import UsageError, closest
from camkit.shapes import Activations, Gradients, SignedMaps

Weights = Tensor | None
"""Weights by channel, (T, B, C, 1, ...), or by channel and place, (T, B, C, *S); None where all weigh the same."""
Weigh = Callable[..., Weights]
Reduction = Callable[..., SignedMaps]


@dataclass(frozen=True)
class Method:
    """A registered method.

    Attributes:
        name: as in its paper.
        weigh: activations (B, C, *S) and gradients (T, B, C, *S) of T targets to weights; its keyword-only parameters
            are options.
        reduction: activations and weights to signed maps (T, B, *S); the same.
        weighting: what ``weigh`` does, in words.
        needs_gradients: whether a backward pass is needed.
        paper: authors, year and equation.
        keeps_reduction: whether eigen-smooth leaves the reduction as it is, because it is a principal component.
        options: parameters by name, as they are set.
    """

    name: str
    weigh: Weigh
    reduction: Reduction
    weighting: str
    needs_gradients: bool
    paper: str
    keeps_reduction: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def signed_maps(
        self, activations: Activations, gradients: Gradients, reduction: Reduction | None = None
    ) -> SignedMaps:
        """Signed maps (T, B, *S); ``reduction`` in place of the method's own, where that may be replaced."""
        weights = self.weigh(activations, gradients, **self._of(self.weigh))
        chosen = self.reduction if reduction is None or self.keeps_reduction else reduction
        return chosen(activations, weights, **self._of(chosen))

    def configured(self, **options: Any) -> Method:
        """The method with other options.

        Raises:
            UsageError: it has no such option.
        """
        unknown = [name for name in options if name not in self.options]
        if unknown:
            known = ", ".join(f"{name}={value!r}" for name, value in self.options.items()) or "none"
            raise UsageError(f"{self.name} has no option {unknown[0]!r}{closest(unknown[0], self.options)}; it has: {known}")
        return replace(self, options={**self.options, **options})

    def _of(self, function: Callable[..., Any]) -> dict[str, Any]:
        return {name: self.options[name] for name in _options(function) if name in self.options}

    @property
    def identifier(self) -> str:
        """The name as Python can spell it: GradCAM++ is GradCAMPlusPlus."""
        return self.name.replace("+", "Plus")


METHODS: dict[str, Method] = {}
"""Every method there is, by name. The CLI, the tests, the benchmarks and the README's table read it."""


def method(
    name: str,
    *,
    paper: str,
    weighting: str,
    reduction: Reduction,
    needs_gradients: bool = True,
    keeps_reduction: bool = False,
) -> Callable[[Weigh], Weigh]:
    """Register a weighting as a method; keyword-only parameters of it and of its reduction are the method's options."""

    def register(weigh: Weigh) -> Weigh:
        options = {**_options(weigh), **_options(reduction)}
        METHODS[name] = Method(name, weigh, reduction, weighting, needs_gradients, paper, keeps_reduction, options)
        return weigh

    return register


def _options(function: Callable[..., Any]) -> dict[str, Any]:
    """Keyword-only parameters and their defaults."""
    parameters = signature(function).parameters.values()
    return {each.name: each.default for each in parameters if each.kind is Parameter.KEYWORD_ONLY}


def find_method(name: str | Method) -> Method:
    """The method called ``name`` in any case; ``GradCAMPlusPlus`` is an accepted spelling of ``GradCAM++``.

    Raises:
        UsageError: there is no such method.
    """
    if isinstance(name, Method):
        return name
    spellings = {spelling.lower(): known for known in METHODS.values() for spelling in (known.name, known.identifier)}
    if not isinstance(name, str) or name.lower() not in spellings:
        offered = closest(name, METHODS) if isinstance(name, str) else ""
        raise UsageError(f"no method {name!r}{offered}; there are: {', '.join(METHODS)}")
    return spellings[name.lower()]


def over_space(tensor: Tensor) -> tuple[int, ...]:
    """The spatial dimensions of a (T, B, C, *S) tensor."""
    return tuple(range(3, tensor.ndim))
