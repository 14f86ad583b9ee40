"""The grid that a sequence of tokens stands for, and the tokens in it that have no place."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

from camkit.errors import TokenGridError
from camkit.survey import Grid, Survey

MAX_EXTRA_TOKENS = 8
"""The most class, distillation and register tokens looked for where the network doesn't tell."""
Extra = tuple[int, int]
"""The number of tokens in front of the grid, and at the back."""


@dataclass(frozen=True)
class Hints:
    """What is known of a network's tokens before their number is looked at.

    Attributes:
        given: how many tokens in front the user wants dropped; nothing else is tried then.
        declared: how many the network says that it has in front.
        survey: looks at the network itself; called where the numbers alone can't tell.
    """

    given: int | None = None
    declared: int | None = None
    survey: Callable[[], Survey] = Survey


def token_grid(name: str, length: int, size: Sequence[int], hints: Hints) -> tuple[Extra, Grid]:
    """Find the grid of a sequence.

    The number of extra tokens is, in this order, what is given; what is declared; none; the number of tokens that were
    seen not to depend on the image; the smallest that fits. A grid fits if the input's size divided by one whole stride
    gives it, exactly or rounded, or if the network was seen to work on it. The last counts first for volumes: the
    frames of a video have a stride of their own.

    Args:
        name: the layer, for messages.
        length: the number of tokens.
        size: the input's spatial size.
        hints: what is known.

    Returns:
        The numbers of extra tokens (in front, at the back), and the grid.

    Raises:
        TokenGridError: no grid fits, or several do and nothing tells which.
    """
    size = tuple(size)
    if hints.given is not None:
        grid = _grid_of(length - hints.given, size, hints)
        if grid is None:
            raise _no_grid(name, length, size, hints.given)
        return (hints.given, 0), grid
    for count in dict.fromkeys((hints.declared or 0, 0)):
        grid = _exact_grid(length - count, size, hints)
        if grid:
            return (count, 0), grid
    likely = _likely(length, hints)
    for find in (_exact_grid, _grid_of):
        for extra in likely:
            grid = find(length - sum(extra), size, hints)
            if grid:
                return extra, grid
    raise _no_grid(name, length, size, hints.declared)


def misfit(grid: Sequence[int], size: Sequence[int]) -> int:
    """How badly ``grid`` is ``size`` divided by one stride: 0 exactly, 1 up to the rounding of one cell, 2 not.

    The first side of a volume may have any stride.
    """
    if len(size) == 3:
        return 2 if grid[0] > size[0] else misfit(grid[1:], size[1:])
    pairs = sorted(zip(grid, size, strict=True), key=lambda pair: pair[1])
    if any(cells > length for cells, length in pairs):
        return 2
    # Sides are treated alike: equal ones have as many cells, a longer one no fewer.
    for (cells, length), (more_cells, longer) in pairwise(pairs):
        if cells > more_cells or (length == longer and cells != more_cells):
            return 2
    if len({Fraction(length, cells) for cells, length in pairs}) == 1:
        return 0
    lower = max(length / (cells + 1) for cells, length in pairs)
    upper = min(length / max(cells - 1, 0.5) for cells, length in pairs)
    return 1 if lower < upper else 2


def as_text(sizes: Sequence[int]) -> str:
    """``"7x14"``."""
    return "x".join(map(str, sizes))


def _likely(length: int, hints: Hints) -> list[Extra]:
    """Numbers of extra tokens, the likeliest first."""
    declared = [] if hints.declared is None else [(hints.declared, 0)]
    seen = hints.survey().extra_tokens
    # Where attention has pooled the sequence, nothing is independent of the image any more: as many as before, then.
    earlier = [extra for extra in seen.values() if sum(extra)]
    counts = [(count, 0) for count in range(min(MAX_EXTRA_TOKENS, length - 2) + 1)]
    return list(dict.fromkeys([*declared, *([seen[length]] if length in seen else []), *earlier, *counts]))


def _exact_grid(tokens: int, size: Grid, hints: Hints) -> Grid | None:
    """The grid of so many tokens that needs no rounding."""
    if len(size) == 2:
        return _exact(size).get(tokens)
    return _seen_grid(tokens, size, hints) or _exact(size).get(tokens)


def _seen_grid(tokens: int, size: Grid, hints: Hints) -> Grid | None:
    """The grid of so many tokens that the network was seen to work on, the best in proportion."""
    seen = [grid for grid in hints.survey().grids if math.prod(grid) == tokens and misfit(grid, size) < 2]
    return min(seen, key=lambda grid: misfit(grid, size), default=None)


def _grid_of(tokens: int, size: Grid, hints: Hints) -> Grid | None:
    """The grid of so many tokens, None if there is none or no telling which."""
    if tokens < 1:
        return None
    known = _exact_grid(tokens, size, hints) or _seen_grid(tokens, size, hints)
    if known or len(size) > 2:
        return known
    possible = _possible(tokens, size)
    return _rounded(size).get(tokens) or (possible[0] if len(possible) == 1 else None)


@lru_cache(maxsize=64)
def _exact(size: Grid) -> dict[int, Grid]:
    """Number of cells to grid, for every whole stride that divides ``size``. Asked for on every call of a CAM."""
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


@lru_cache(maxsize=256)
def _possible(tokens: int, size: Grid) -> tuple[Grid, ...]:
    """Grids of so many cells with the proportions of ``size``; where there are none, up to one cell's rounding."""
    grids = [grid for grid in _factorisations(tokens, len(size)) if misfit(grid, size) < 2]
    best = min((misfit(grid, size) for grid in grids), default=0)
    return tuple(grid for grid in grids if misfit(grid, size) == best)


def _factorisations(number: int, parts: int) -> Iterator[Grid]:
    if parts == 1:
        yield (number,)
        return
    for first in range(1, number + 1):
        if number % first == 0:
            for rest in _factorisations(number // first, parts - 1):
                yield (first, *rest)


def _no_grid(name: str, length: int, size: Grid, extra: int | None) -> TokenGridError:
    asked = f" without {extra} extra tokens" if extra else ""
    known = _rounded(size) | _exact(size)
    fits = {count: known.get(length - count) for count in range(min(MAX_EXTRA_TOKENS, length - 2) + 1)}
    would = " or ".join(f"--num-extra-tokens {count} ({as_text(grid)})" for count, grid in fits.items() if grid)
    return TokenGridError(
        f"layer {name!r} gives L={length} tokens, which{asked} make no grid for a {as_text(size)} input; "
        + (f"would fit: {would}" if would else "no number of extra tokens would fit: pass reshape_transform")
    )
