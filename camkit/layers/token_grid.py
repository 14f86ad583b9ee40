"""The grids that a token sequence may stand for, and its tokens without a place (class, distillation, registers)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from camkit.errors import TokenGridError
from camkit.layers.survey import Extra, Grid, Survey, along_flat, is_flat

MAX_EXTRA_TOKENS = 8
"""The most class, distillation and register tokens looked for where the network doesn't tell."""


@dataclass(frozen=True)
class Hints:
    """What is known of a network's tokens beside their number.

    Attributes:
        given: how many tokens in front the user wants dropped; nothing else is tried then.
        declared: how many the network's attributes say there are in front.
        survey: runs the survey of the network, see :mod:`camkit.layers.survey`.
    """

    given: int | None = None
    declared: int | None = None
    survey: Callable[[], Survey] = Survey


class Reading(NamedTuple):
    """One reading of a sequence: tokens without a place, grid, and whether the grid needed no rounding."""

    extra: Extra
    grid: Grid
    is_exact: bool


def token_grids(name: str, length: int, size: Sequence[int], hints: Hints) -> list[Reading]:
    """The grids that a sequence may stand for, the likeliest first.

    Grids that the survey saw in the network come first, whatever their proportions. Then the input's size divided by a
    whole stride, exactly; then up to rounding. The number of extra tokens is the given one; else, in this order, the
    declared one, the number of tokens that the survey found independent of the image, none, and, where nothing is known
    at all, any small number.

    Args:
        name: the layer, for messages.
        length: the number of tokens.
        size: the input's spatial size.
        hints: what is known.

    Returns:
        At least one reading.

    Raises:
        TokenGridError: no grid fits, or tokens without a place stand between others.
    """
    size, seen = tuple(size), hints.survey()
    if hints.given is None and seen.extra_tokens.get(length, (0, 0)) is None:
        raise TokenGridError(
            f"layer {name!r} gives L={length} tokens, and those that don't depend on the image stand between the "
            "others: pass reshape_transform"
        )
    extras = [(hints.given, 0)] if hints.given is not None else _likely(length, hints.declared, seen)
    found: dict[tuple[Extra, Grid], Reading] = {}
    if is_flat(size):  # any number of steps can be laid out: those that a convolution made are likelier
        more = [(count, 0) for count in range(MAX_EXTRA_TOKENS + 1)] if hints.given is None else []
        fitting = [each for each in more if along_flat(size, length - sum(each)) in seen.grids]
        for extra in (*fitting, *extras):
            grid = along_flat(size, length - sum(extra))
            if 1 < math.prod(grid) <= max(size):
                found.setdefault((extra, grid), Reading(extra, grid, is_exact=True))
    for grids in (_seen, _exact_or_probable, _possible):
        for extra in extras:
            for grid in grids(length - sum(extra), size, seen):
                found.setdefault((extra, grid), Reading(extra, grid, grids is not _possible))
    if not found:
        raise _no_grid(name, length, size, hints.given if hints.declared is None else hints.declared)
    return list(found.values())


def misfit(grid: Sequence[int], size: Sequence[int]) -> int:
    """How far ``grid`` is from ``size`` divided by one stride: 0 equal, 1 up to rounding by one cell, 2 not.

    The first side of a volume may have any stride.
    """
    if len(size) == 3:
        return 2 if grid[0] > size[0] else misfit(grid[1:], size[1:])
    pairs = sorted(zip(grid, size, strict=True), key=lambda pair: pair[1])
    if any(cells > length for cells, length in pairs):
        return 2
    pairs = [pair for pair in pairs if pair != (1, 1)] or pairs
    # Sides are treated alike: equal ones have as many cells, a longer one no fewer.
    for (cells, length), (more_cells, longer) in pairwise(pairs):
        if cells > more_cells or (length == longer and cells != more_cells):
            return 2
    if len({Fraction(length, cells) for cells, length in pairs}) == 1:
        return 0
    lower = max(length / (cells + 1) for cells, length in pairs)
    upper = min(length / max(cells - 1, 0.5) for cells, length in pairs)
    return 1 if lower < upper else 2


@lru_cache(maxsize=1024)
def is_strided(grid: Grid, size: Grid) -> bool:
    """Whether ``grid`` is ``size`` divided by a whole stride, each side rounded down or up; of volumes, all but one."""
    sides = list(zip(grid[-2:], size[-2:], strict=True))
    return any(
        all(cells in (length // stride, -(-length // stride)) for cells, length in sides)
        for stride in range(1, max(size) + 1)
    )


def as_text(sizes: Sequence[int]) -> str:
    """``"7x14"``."""
    return "x".join(map(str, sizes))


def _likely(length: int, declared: int | None, seen: Survey) -> list[Extra]:
    """Numbers of extra tokens, the likeliest first."""
    said = [] if declared is None else [(declared, 0)]
    own = seen.extra_tokens.get(length)
    # Behind pooling attention every token depends on the image: assume as many extra tokens as before it.
    earlier = [extra for extra in seen.extra_tokens.values() if extra and sum(extra)]
    known = [*said, *([own] if own else []), *earlier]
    counts = [(count, 0) for count in range(min(MAX_EXTRA_TOKENS, length - 2) + 1)]
    return list(dict.fromkeys([*known, (0, 0)] if known else counts))


def _seen(tokens: int, size: Grid, seen: Survey) -> Iterator[Grid]:
    """Grids of so many tokens that the survey saw, the best in proportion first."""
    yield from sorted((g for g in seen.grids if math.prod(g) == tokens), key=lambda grid: misfit(grid, size))


def _exact_or_probable(tokens: int, size: Grid, seen: Survey) -> Iterator[Grid]:
    """The grid of a stride that divides the size, and grids of what may have been feature maps."""
    if tokens in _exact(size):
        yield _exact(size)[tokens]
    yield from (grid for grid in seen.other_grids if math.prod(grid) == tokens and misfit(grid, size) < 2)


@lru_cache(maxsize=64)
def _exact(size: Grid) -> dict[int, Grid]:
    """Number of cells to grid, for every whole stride that divides ``size``."""
    strides = [stride for stride in range(1, max(size) + 1) if not any(length % stride for length in size)]
    return {math.prod(grid): grid for grid in (tuple(length // stride for length in size) for stride in strides)}


@lru_cache(maxsize=64)
def _rounded(size: Grid) -> dict[int, Grid]:
    """Number of cells to grid, for every whole stride with all sides rounded down, or all up; small strides first."""
    found: dict[int, Grid] = {}
    for stride in range(1, max(size) + 1):
        for grid in (tuple(length // stride for length in size), tuple(-(-length // stride) for length in size)):
            found.setdefault(math.prod(grid), grid)
    return found


def _possible(tokens: int, size: Grid, seen: Survey) -> Iterator[Grid]:
    """The grid of a rounded stride, else the only best factorisation; not of volumes: time has its own stride."""
    if len(size) != 2 or is_flat(size) or tokens < 1:
        return
    rounded = _rounded(size).get(tokens)
    if rounded:
        yield rounded
        return
    grids = [(side, tokens // side) for side in range(1, tokens + 1) if tokens % side == 0]
    best = min((misfit(grid, size) for grid in grids), default=2)
    fitting = [grid for grid in grids if misfit(grid, size) == best]
    if best < 2 and len(fitting) == 1:
        yield fitting[0]


def _no_grid(name: str, length: int, size: Grid, extra: int | None) -> TokenGridError:
    asked = f" without {extra} extra tokens" if extra else ""
    known = _rounded(size) | _exact(size)
    fits = {count: known.get(length - count) for count in range(min(MAX_EXTRA_TOKENS, length - 2) + 1)}
    would = " or ".join(f"--num-extra-tokens {count} ({as_text(grid)})" for count, grid in fits.items() if grid)
    return TokenGridError(
        f"layer {name!r} gives L={length} tokens, which{asked} make no grid for a {as_text(size)} input; "
        + (f"would fit: {would}" if would else "no number of extra tokens would fit: pass reshape_transform")
    )
