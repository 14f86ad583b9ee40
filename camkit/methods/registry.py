"""The registry: what a method is, and the list of all methods."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

from camkit.errors import UsageError, closest
from camkit.methods.needs import DefaultLayer, Need, Place
from camkit.methods.options import checked, distributed, options_of
from camkit.typing import InputGradients, SignedMaps


class Weighted(NamedTuple):
    """Weighted channels (T, B, C, *S), from methods that do more than multiply activations by weights."""

    channels: Tensor


class Maps(NamedTuple):
    """The result of every method.

    Attributes:
        signed: signed maps (T, B, *S), unnormalised.
        pixels: signed attribution of every input channel, (T, B, C, *size), from methods that have it.
        concepts: (K, C), from methods that find concepts: the activations by channel that each of the T = K maps shows.
    """

    signed: SignedMaps
    pixels: InputGradients | None = None
    concepts: Tensor | None = None


Weights = Tensor | Weighted | None
"""Weights per channel, (T, B, C, 1, ...), or per channel and position, (T, B, C, *S); None for equal weights."""
Reduction = Callable[..., SignedMaps]
"""From activations (B, C, *S) and weights to signed maps (T, B, *S)."""
FAMILIES = ("gradient", "activation", "perturbation", "attention", "pixel", "concept", "control")
"""One module of :mod:`camkit.methods` each."""


@dataclass(frozen=True)
class Method:
    """A registered method.

    Attributes:
        name: as in its paper.
        function: from a signal to weights of the activations, or to :class:`Maps` where there is no ``reduction``.
        reduction: from activations and weights to signed maps.
        make_need: from options to what the method needs of the network.
        family: one of :data:`FAMILIES`.
        formula: the weights, in one line; A are the activations, G the gradient of the score.
        cost: number of forwards and backwards; C channels, L attention blocks.
        paper: authors, year and equation.
        identifier: the name of its class, ``camkit.IDENTIFIER``.
        keeps_reduction: whether EigenSmooth leaves the reduction alone, because it is a principal component already.
        fusion: how maps of several layers are fused, ``"mean"`` or ``"product"``.
        options: values by name.
    """

    name: str
    function: Callable[..., Any]
    reduction: Reduction | None
    make_need: Callable[..., Need]
    family: str
    formula: str
    cost: str
    paper: str
    identifier: str
    keeps_reduction: bool = False
    fusion: str = "mean"
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def sources(self) -> list[Callable[..., Any]]:
        """The functions whose keyword-only parameters are the method's options."""
        return [self.function, self.make_need, *([self.reduction] if self.reduction else [])]

    @cached_property
    def need(self) -> Need:
        """What the method needs of the network."""
        return self.make_need(**self._options_of(self.make_need))

    @property
    def default_layer(self) -> DefaultLayer:
        """Which layers are the target layers where the user names none."""
        return DefaultLayer.EVERY_RESOLUTION if self.fusion == "product" else self.need.default_layer

    @property
    def of_layers(self) -> bool:
        """Whether the method makes a map of each target layer."""
        return self.need.place is Place.LAYERS

    @property
    def takes_layers(self) -> bool:
        """Whether target layers, or a transformer's blocks, can be named."""
        return self.need.place is not Place.NETWORK

    @property
    def takes_reduction(self) -> bool:
        """Whether EigenSmooth can be applied: there are weighted channels to reduce."""
        return self.reduction is not None

    def maps(self, *signal: Any, reduction: Reduction | None = None) -> Maps:
        """Compute maps from a signal.

        Args:
            signal: what the method's need describes; it starts with the activations where there is a reduction.
            reduction: replaces the method's own, unless ``keeps_reduction``.
        """
        made: Any = self.function(*signal, **self._options_of(self.function))
        if self.reduction is None:
            maps: Maps = made
            return maps
        chosen = self.reduction if reduction is None or self.keeps_reduction else reduction
        return Maps(chosen(signal[0], made, **self._options_of(chosen)))

    def configured(self, **options: Any) -> Method:
        """Return the method with other options.

        Raises:
            UsageError: the method has no such option, or the option does not take such a value.
        """
        for name in options:
            if name not in self.options:
                known = ", ".join(f"{each}={value!r}" for each, value in self.options.items()) or "none"
                raise UsageError(f"{self.name} has no option {name!r}{closest(name, self.options)}; it has: {known}")
        if not options:
            return self
        made = {name: checked(self.name, name, value, self.sources) for name, value in options.items()}
        return replace(self, options={**self.options, **made})

    def _options_of(self, function: Callable[..., Any]) -> dict[str, Any]:
        return {name: self.options[name] for name in options_of(function) if name in self.options}


Function = TypeVar("Function", bound=Callable[..., Any])

METHODS: dict[str, Method] = {}
"""All methods by name. The command line, ``camkit.constructors``, docs, tests and benchmarks read this list."""


def method(
    name: str,
    *,
    paper: str,
    formula: str,
    reduction: Reduction | None,
    need: Callable[..., Need],
    family: str,
    cost: str,
    identifier: str | None = None,
    keeps_reduction: bool = False,
    fusion: str = "mean",
) -> Callable[[Function], Function]:
    """Register a function as a method; see :class:`Method` for the arguments.

    Keyword-only parameters of the function, its reduction and its need become the method's options, and the function's
    docstring becomes that of the class ``camkit.IDENTIFIER``.
    """

    def register(function: Function) -> Function:
        made = Method(
            name=name,
            function=function,
            reduction=reduction,
            make_need=need,
            family=family,
            formula=formula,
            cost=cost,
            paper=paper,
            identifier=identifier or re.sub(r"\W", "", name.replace("+", "Plus")),
            keeps_reduction=keeps_reduction,
            fusion=fusion,
        )
        defaults = {option: value for source in made.sources for option, value in options_of(source).items()}
        METHODS[name] = replace(made, options=defaults)
        return function

    return register


def find_method(name: str | Method) -> Method:
    """Find a method by name or identifier, in any case, with or without hyphens.

    Raises:
        UsageError: there is no such method; the message names the closest ones.
    """
    if isinstance(name, Method):
        return name
    spellings = {_plain(spelling): known for known in METHODS.values() for spelling in (known.name, known.identifier)}
    if not isinstance(name, str) or _plain(name) not in spellings:
        offered = closest(name, METHODS) if isinstance(name, str) else ""
        raise UsageError(f"no method {name!r}{offered}; there are: {', '.join(METHODS)}")
    return spellings[_plain(name)]


def configured(methods: Iterable[Method], options: Mapping[str, Any]) -> list[Method]:
    """Give each method those of ``options`` that it has.

    Raises:
        UsageError: an option that no method has, or a value that one of them does not take.
    """
    return distributed(list(methods), options, "method")


def find_methods(methods: str | Method | Iterable[str | Method], options: Mapping[str, Any]) -> list[Method]:
    """The methods of names in any spelling, each with those of ``options`` that it has.

    Raises:
        UsageError: no method, one that doesn't exist or is named twice, or an option that none of them has.
    """
    found = [find_method(each) for each in ([methods] if isinstance(methods, str | Method) else methods)]
    found = configured(found, options)
    names = [method.name for method in found]
    if not names or len(set(names)) < len(names):
        raise UsageError(f"name every method once, at least one; got {', '.join(names) or 'none'}")
    return found


def over_space(tensor: Tensor) -> tuple[int, ...]:
    """Spatial dimensions of a tensor (T, B, C, *S)."""
    return tuple(range(3, tensor.ndim))


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.lower())
