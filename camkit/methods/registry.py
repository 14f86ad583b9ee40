"""What a method is, and the list of all."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

from torch import Tensor

from camkit.errors import UsageError, closest
from camkit.methods.options import checked, options_of
from camkit.methods.requests import Attention, Gradients, LinearGradients, Request
from camkit.shapes import SignedMaps


class Weighted(NamedTuple):
    """Channels that are weighted already, (T, B, C, *S), by a method that does more than multiply."""

    channels: Tensor


Weights = Tensor | Weighted | None
"""Weights by channel, (T, B, C, 1, ...), or by channel and place, (T, B, C, *S); None where all weigh the same."""
Weigh = Callable[..., Any]
Reduction = Callable[..., SignedMaps]
FAMILIES = ("gradient", "activation", "perturbation", "attention", "pixel", "concept", "control")


@dataclass(frozen=True)
class Method:
    """A registered method.

    Attributes:
        name: as in its paper.
        weigh: what the request's answer is made into: weights of the activations, or signed maps where there is no
            ``reduction``. Its keyword-only parameters are options.
        reduction: activations and weights to signed maps (T, B, *S); the same. None where ``weigh`` makes the maps.
        request: what the method asks of the network; a function of options, or none.
        family: one of :data:`FAMILIES`.
        weighting: what ``weigh`` does, in words.
        cost: in forwards and backwards, in words; C channels, L attention blocks.
        paper: authors, year and equation.
        identifier: the name as Python can spell it.
        keeps_reduction: whether eigen-smooth leaves the reduction as it is, because it is a principal component.
        fusion: what several layers' maps become one by, ``"mean"`` or ``"product"``.
        options: parameters by name, as they are set.
    """

    name: str
    weigh: Weigh
    reduction: Reduction | None
    make_request: Callable[..., Request]
    family: str
    weighting: str
    cost: str
    paper: str
    identifier: str
    keeps_reduction: bool = False
    fusion: str = "mean"
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @cached_property
    def request(self) -> Request:
        """What the method asks of the network."""
        return self.make_request(**self._of(self.make_request))

    @property
    def needs_gradients(self) -> bool:
        """Whether the maps depend on the score by a backward pass behind the target layer."""
        return isinstance(self.request, Gradients) or self.request.backward

    @property
    def default_layers(self) -> str:
        """Which kind of layers the method takes where none are given, see :func:`camkit.probe.default_layers`."""
        if self.fusion == "product":
            return "resolutions"
        return "last" if isinstance(self.request, LinearGradients) else "norm"

    @property
    def takes_layers(self) -> bool:
        """Whether target layers mean something to it: layers, or a transformer's blocks."""
        return self.request.of_layers or isinstance(self.request, Attention)

    @property
    def takes_reduction(self) -> bool:
        """Whether eigen-smooth makes sense: there are weighted channels to reduce."""
        return self.reduction is not None

    def signed_maps(self, activations: Any, *evidence: Any, reduction: Reduction | None = None) -> Any:
        """Signed maps (T, B, *S); ``reduction`` in place of the method's own, where that may be replaced."""
        made: Any = self.weigh(activations, *evidence, **self._of(self.weigh))
        if self.reduction is None:
            maps: SignedMaps = made
            return maps
        chosen = self.reduction if reduction is None or self.keeps_reduction else reduction
        return chosen(activations, made, **self._of(chosen))

    def configured(self, **options: Any) -> Method:
        """The method with other options.

        Raises:
            UsageError: it has no such option, or the option no such value.
        """
        for name in options:
            if name not in self.options:
                known = ", ".join(f"{each}={value!r}" for each, value in self.options.items()) or "none"
                raise UsageError(f"{self.name} has no option {name!r}{closest(name, self.options)}; it has: {known}")
        if not options:
            return self
        sources = [self.weigh, self.make_request, *([self.reduction] if self.reduction else [])]
        made = {name: checked(self.name, name, value, sources) for name, value in options.items()}
        return replace(self, options={**self.options, **made})

    def _of(self, function: Callable[..., Any]) -> dict[str, Any]:
        return {name: self.options[name] for name in options_of(function) if name in self.options}


METHODS: dict[str, Method] = {}
"""Every method there is, by name. The CLI, the tests, the benchmarks and the README's table read it."""


def method(
    name: str,
    *,
    paper: str,
    weighting: str,
    reduction: Reduction | None,
    request: Callable[..., Request],
    family: str,
    cost: str,
    identifier: str | None = None,
    keeps_reduction: bool = False,
    fusion: str = "mean",
) -> Callable[[Weigh], Weigh]:
    """Register a function as a method; keyword-only parameters of it, its reduction and request are its options."""

    def register(weigh: Weigh) -> Weigh:
        sources = [weigh, request, *([reduction] if reduction else [])]
        options = {name: value for source in sources for name, value in options_of(source).items()}
        METHODS[name] = Method(
            name=name,
            weigh=weigh,
            reduction=reduction,
            make_request=request,
            family=family,
            weighting=weighting,
            cost=cost,
            paper=paper,
            identifier=identifier or re.sub(r"\W", "", name.replace("+", "Plus")),
            keeps_reduction=keeps_reduction,
            fusion=fusion,
            options=options,
        )
        return weigh

    return register


def find_method(name: str | Method) -> Method:
    """The method called ``name`` in any case, with or without hyphens; ``GradCAMPlusPlus`` is ``GradCAM++``.

    Raises:
        UsageError: there is no such method.
    """
    if isinstance(name, Method):
        return name
    spellings = {_plain(spelling): known for known in METHODS.values() for spelling in (known.name, known.identifier)}
    if not isinstance(name, str) or _plain(name) not in spellings:
        offered = closest(name, METHODS) if isinstance(name, str) else ""
        raise UsageError(f"no method {name!r}{offered}; there are: {', '.join(METHODS)}")
    return spellings[_plain(name)]


def configured(methods: Iterable[Method], options: Mapping[str, Any]) -> list[Method]:
    """The methods, each with those of ``options`` that it has.

    Raises:
        UsageError: an option that none of them has, or a value that one can't take.
    """
    given = list(methods)
    for name in options:
        if not any(name in method.options for method in given):
            known = "; ".join(
                f"{method.name}: {', '.join(f'{each}={value!r}' for each, value in method.options.items())}"
                for method in given
                if method.options
            )
            everything = {each for method in given for each in method.options}
            raise UsageError(
                f"no method has the option {name!r}{closest(name, everything)}; options of {known or 'them: none'}"
            )
    return [
        method.configured(**{name: value for name, value in options.items() if name in method.options})
        for method in given
    ]


def over_space(tensor: Tensor) -> tuple[int, ...]:
    """The spatial dimensions of a (T, B, C, *S) tensor."""
    return tuple(range(3, tensor.ndim))


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.lower())
