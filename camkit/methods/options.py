"""Options of methods: their names, and which values they take."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter, signature
from types import MappingProxyType
from typing import Annotated, Any, Protocol, TypeVar, get_args, get_type_hints, runtime_checkable
from weakref import WeakKeyDictionary

from camkit.errors import UsageError, closest


@dataclass(frozen=True)
class Kind:
    """The values an option takes.

    Attributes:
        words: in words, as messages say it.
        fits: whether a value is allowed; lists are passed as tuples.
        choices: all allowed values, where they are few.
    """

    words: str
    fits: Callable[[Any], bool]
    choices: tuple[str | int, ...] = ()


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, and no truth value."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max  # False for NaN


def one_of(*choices: str) -> Kind:
    """One of several words."""
    return Kind(f"one of {', '.join(choices)}", lambda value: isinstance(value, str) and value in choices, choices)


Count = Annotated[int, Kind("a whole number of at least 1", lambda value: _is_integer(value) and value > 0)]
OptionalCount = Annotated[
    int | None,
    Kind(
        "a whole number of at least 1, or None for all",
        lambda value: value is None or (_is_integer(value) and value > 0),
    ),
]
Seed = Annotated[
    int, Kind("a whole number from 0 to 2^63 - 1", lambda value: _is_integer(value) and 0 <= value < 2**63)
]
Number = Annotated[float, Kind("a finite number", is_number)]
NotNegative = Annotated[float, Kind("a number from 0 on", lambda value: is_number(value) and value >= 0)]
OptionalPositive = Annotated[
    float | None,
    Kind("a number above 0, or None", lambda value: value is None or (is_number(value) and value > 0)),
]
Derivative = Annotated[int, Kind("1 or 2", lambda value: _is_integer(value) and value in (1, 2), (1, 2))]
Ranks = Annotated[
    tuple[int, ...],
    Kind(
        "whole numbers of at least 1, such as (1, 2, 3)",
        lambda value: isinstance(value, tuple) and bool(value) and all(_is_integer(v) and v > 0 for v in value),
    ),
]


_KNOWN: WeakKeyDictionary[Callable[..., Any], MappingProxyType[str, Any]] = WeakKeyDictionary()
"""Options by function, for as long as it lives: a function made for one call may hold tensors."""


def options_of(function: Callable[..., Any]) -> MappingProxyType[str, Any]:
    """Keyword-only parameters of a function and their defaults."""
    found = _KNOWN.get(function)
    if found is None:
        given = signature(function).parameters.values()
        found = MappingProxyType({each.name: each.default for each in given if each.kind is Parameter.KEYWORD_ONLY})
        _KNOWN[function] = found
    return found


def checked(method: str, name: str, value: Any, sources: Iterable[Callable[..., Any]]) -> Any:
    """Convert an option's value to the type that its function takes: lists to tuples, whole numbers to float.

    Raises:
        UsageError: the option does not take such a value.
    """
    made = tuple(value) if isinstance(value, list) else value
    plain, kind = kind_of(name, sources)
    if not kind.fits(made):
        raise UsageError(f"the option {name} of {method} takes {kind.words}, got {value!r}")
    return float(made) if isinstance(made, int) and float in (plain, *get_args(plain)) else made


@runtime_checkable
class HasOptions(Protocol):
    """A method or a metric."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def options(self) -> Mapping[str, Any]:
        """Values by name."""

    def configured(self: Owner, **options: Any) -> Owner:
        """The same with other options."""


Owner = TypeVar("Owner", bound=HasOptions)


def distributed(owners: Sequence[Owner], options: Mapping[str, Any], what: str) -> list[Owner]:
    """Give each of several methods or metrics those of ``options`` that it has.

    Args:
        owners: the methods or metrics.
        options: values by name.
        what: they are, in the singular.

    Raises:
        UsageError: an option that none has, or a value that one of them does not take.
    """
    for name in options:
        if not any(name in owner.options for owner in owners):
            known = "; ".join(
                f"{owner.name}: {', '.join(f'{each}={value!r}' for each, value in owner.options.items())}"
                for owner in owners
                if owner.options
            )
            everything = {each for owner in owners for each in owner.options}
            raise UsageError(
                f"no {what} has the option {name!r}{closest(name, everything)}; options of {known or 'them: none'}"
            )
    return [
        owner.configured(**{name: value for name, value in options.items() if name in owner.options})
        for owner in owners
    ]


def kind_of(name: str, sources: Iterable[Callable[..., Any]]) -> tuple[Any, Kind]:
    """The plain type and the kind of an option, from the function among ``sources`` that has it."""
    source = next(each for each in sources if name in options_of(each))
    hint = get_type_hints(source, include_extras=True)[name]
    # Python 3.10 makes an Optional of it where the default is None.
    annotated = next(each for each in (hint, *get_args(hint)) if hasattr(each, "__metadata__"))
    return annotated.__origin__, next(each for each in annotated.__metadata__ if isinstance(each, Kind))
