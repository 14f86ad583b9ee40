"""Fill missing pixels with weighted means of their neighbours: ROAD's noisy linear imputation, without the noise.

Every missing pixel is the weighted mean of its neighbours, missing ones too, which makes a sparse linear system.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from camkit.versions import require

if TYPE_CHECKING:
    from numpy.typing import NDArray

NEIGHBOURS = {(0, 1): 1 / 6, (1, 0): 1 / 6, (1, 1): 1 / 12, (1, -1): 1 / 12}
"""Weights of the neighbours by (rows down, columns right), of one of each two that lie opposite."""
BLOCK = 4
"""Blocks of no more than so many rows and columns are not divided."""


class System(NamedTuple):
    """A symmetric linear system of n missing pixels, in the order of the picture.

    Attributes:
        diagonal: (n,), the weights of all neighbours within the picture.
        right: (n, C), the weighted sums of the known neighbours.
        rows: (m,), of the entries below the diagonal.
        columns: (m,), of these entries.
        weights: (m,), which are subtracted.
    """

    diagonal: NDArray[Any]
    right: NDArray[Any]
    rows: NDArray[Any]
    columns: NDArray[Any]
    weights: NDArray[Any]


def impute(image: NDArray[Any], missing: NDArray[Any]) -> NDArray[Any]:
    """Compute the values of missing pixels.

    The direct solve needs nothing but an order in which few entries fill in: by nested dissection of the picture, which
    on one core takes a half to two thirds of the time with the minimum degree, and that half of SuperLU's own order's.
    Leaves no thread of BLAS busy, and lets other threads run.

    Args:
        image: (C, H, W) float64; values of missing pixels aren't read.
        missing: (H, W) bool, some but not all.

    Returns:
        (C, n), in the order of the picture.

    Raises:
        PackageError: scipy is missing.
    """
    sparse = require("scipy.sparse", "metrics", "ROAD solves sparse linear systems")
    solvers = require("scipy.sparse.linalg", "metrics", "ROAD solves sparse linear systems")
    system = linear_system(image, missing)
    place = _places(missing)
    each = np.arange(len(place))
    values = np.concatenate([system.diagonal, -system.weights, -system.weights])
    rows = np.concatenate([each, system.rows, system.columns])
    columns = np.concatenate([each, system.columns, system.rows])
    matrix = sparse.csc_matrix((values, (place[rows], place[columns])), shape=(len(place), len(place)))
    # The matrix is symmetric and its diagonal dominates: no pivot needs to be looked for.
    factors = solvers.splu(matrix, permc_spec="NATURAL", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    right = np.empty_like(system.right)
    right[place] = system.right
    solved: NDArray[Any] = factors.solve(right)[place].T
    return solved


def linear_system(image: NDArray[Any], missing: NDArray[Any]) -> System:
    """The system whose solution are the missing pixels; arguments as for :func:`impute`."""
    height, width = missing.shape
    number = np.cumsum(missing).reshape(missing.shape) - 1
    known = np.where(missing, 0.0, image)
    total, sums = np.zeros(missing.shape), np.zeros(image.shape)
    entries = []
    for (down, right), weight in NEIGHBOURS.items():
        here = slice(0, height - down), slice(max(0, -right), width - max(0, right))
        there = slice(down, height), slice(max(0, right), width - max(0, -right))
        for one, other in ((here, there), (there, here)):
            total[one] += weight
            sums[:, one[0], one[1]] += weight * known[:, other[0], other[1]]
        both = missing[here] & missing[there]
        entries.append((number[there][both], number[here][both], np.full(int(both.sum()), weight)))
    rows, columns, weights = (np.concatenate(each) for each in zip(*entries, strict=True))
    return System(total[missing], np.ascontiguousarray(sums[:, missing].T), rows, columns, weights)


def _places(missing: NDArray[Any]) -> NDArray[Any]:
    """The place of each missing pixel (n,) in the order in which pixels are eliminated."""
    order = np.argsort(_dissection(*missing.shape)[missing])
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return place


@lru_cache(maxsize=8)
def _dissection(height: int, width: int) -> NDArray[Any]:
    """Nested dissection (H, W): halves of a picture come before the line between them, and are divided alike."""
    places = np.empty((height, width), dtype=np.intp)
    free = height * width  # places are given from the last one on
    blocks = [(0, height, 0, width)]
    while blocks:
        top, bottom, left, right = blocks.pop()
        rows, columns = bottom - top, right - left
        if rows <= 0 or columns <= 0:
            continue
        line = (slice(top, bottom), slice(left, right))
        if max(rows, columns) > BLOCK:
            if rows >= columns:
                middle = (top + bottom) // 2
                line = (slice(middle, middle + 1), line[1])
                blocks += [(top, middle, left, right), (middle + 1, bottom, left, right)]
            else:
                middle = (left + right) // 2
                line = (line[0], slice(middle, middle + 1))
                blocks += [(top, bottom, left, middle), (top, bottom, middle + 1, right)]
        count = places[line].size
        free -= count
        places[line] = np.arange(free, free + count).reshape(places[line].shape)
    return places
