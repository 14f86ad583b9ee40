"""Options of methods: what they are called, and which values they take."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from inspect import Parameter, signature
from types import MappingProxyType
from typing import Annotated, Any, get_args, get_type_hints

from camkit.errors import UsageError


@dataclass(frozen=True)
class Kind:
    """What an option's values are.

    Attributes:
        words: in words, behind "takes".
        fits: whether a value is one; sequences come as tuples, numbers as they are.
    """

    words: str
    fits: Callable[[Any], bool]


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max  # False for NaN


def one_of(*choices: str) -> Kind:
    """A word out of several."""
    return Kind(f"one of {', '.join(choices)}", lambda value: isinstance(value, str) and value in choices)


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
Number = Annotated[float, Kind("a finite number", _is_number)]
NotNegative = Annotated[float, Kind("a number from 0 on", lambda value: _is_number(value) and value >= 0)]
OptionalPositive = Annotated[
    float | None,
    Kind("a number above 0, or None", lambda value: value is None or (_is_number(value) and value > 0)),
]
Derivative = Annotated[int, Kind("1 or 2", lambda value: _is_integer(value) and value in (1, 2))]
Ranks = Annotated[
    tuple[int, ...],
    Kind(
        "whole numbers of at least 1, such as (1, 2, 3)",
        lambda value: isinstance(value, tuple) and bool(value) and all(_is_integer(v) and v > 0 for v in value),
    ),
]


def options_of(function: Callable[..., Any]) -> MappingProxyType[str, Any]:
    """Keyword-only parameters and their defaults."""
    return _options_of(function)


@cache
def _options_of(function: Callable[..., Any]) -> MappingProxyType[str, Any]:
    parameters = signature(function).parameters.values()
    return MappingProxyType({each.name: each.default for each in parameters if each.kind is Parameter.KEYWORD_ONLY})


def checked(method: str, name: str, value: Any, sources: Iterable[Callable[..., Any]]) -> Any:
    """The value as the function that has the option can take it.

    Raises:
        UsageError: it can't.
    """
    made = tuple(value) if isinstance(value, list) else value
    source = next(each for each in sources if name in options_of(each))
    hint = get_type_hints(source, include_extras=True)[name]
    kind = next(each for each in hint.__metadata__ if isinstance(each, Kind))
    if not kind.fits(made):
        raise UsageError(f"the option {name} of {method} takes {kind.words}, got {value!r}")
    return float(made) if isinstance(made, int) and float in (hint.__origin__, *get_args(hint.__origin__)) else made
