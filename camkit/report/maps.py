"""What a run's maps say together: read file by file, each map brought to one small grid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from camkit.methods import find_method
from camkit.methods.maps import finish
from camkit.report.rows import Rows

SIDE = 32
"""Maps are finished at this height and width for statistics."""
BORDER = SIDE // 8
"""The border: an eighth of the height or width at each side."""
UNIFORM = 1 - (1 - 2 * BORDER / SIDE) ** 2
"""Share of a uniform map's energy at the border, 0.4375."""
SMALL = 16
"""Height and width at which maps are averaged and clustered."""


@dataclass(frozen=True)
class MapNumbers:
    """Numbers of every row's map.

    Attributes:
        border: (N,) share of the map's sum that lies at the border; NaN where there is no map, or an empty one.
        small: (N, SMALL, SMALL) float16, the maps, finished as they are drawn, in [0, 1]; zero where there is none.
    """

    border: NDArray[np.float64]
    small: NDArray[np.float16]

    @property
    def there(self) -> NDArray[np.bool_]:
        """(N,) whether a row has a map that isn't empty."""
        return ~np.isnan(self.border)

    def mean(self, rows: NDArray[np.int64]) -> NDArray[np.float64] | None:
        """The mean map of some rows, (SMALL, SMALL); None where none of them has a map."""
        rows = rows[self.there[rows]]
        return self.small[rows].mean(axis=0, dtype=np.float64) if len(rows) else None

    def mean_border(self, rows: NDArray[np.int64]) -> float | None:
        """The mean share at the border of some rows; None where none of them has a map."""
        found = self.border[rows]
        found = found[~np.isnan(found)]
        return float(found.mean()) if len(found) else None


def measure_maps(rows: Rows, method: str) -> MapNumbers:
    """Read all maps of a method once, in pieces; those of several layers are fused as when they are drawn."""
    border = np.full(len(rows), np.nan)
    small = np.zeros((len(rows), SMALL, SMALL), dtype=np.float16)
    for numbers, maps in chosen_maps(rows, method):
        total = maps.sum((1, 2))
        inner = maps[:, BORDER:-BORDER, BORDER:-BORDER].sum((1, 2))
        share = torch.where(total > 0, 1 - inner / total, torch.nan)
        border[numbers] = share.double().numpy()
        pooled = functional.avg_pool2d(maps[:, None], SIDE // SMALL)[:, 0]
        small[numbers] = pooled.half().numpy()
    small[np.isnan(border)] = 0
    return MapNumbers(border, small)


def chosen_maps(rows: Rows, method: str) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    """Each batch's row numbers and their maps, (n, SIDE, SIDE) in [0, 1]."""
    fusion = find_method(method).fusion
    for numbers, layers in rows.run.batches(method):
        if rows.subject == "concepts":
            picked = [torch.from_numpy(each).relu().sum(1) for each in layers]
        else:
            at = np.arange(len(numbers)), np.minimum(rows.target[numbers], layers[0].shape[1] - 1)
            picked = [torch.from_numpy(each[at]) for each in layers]
        yield numbers, finish([_shrunk(each.relu()) for each in picked], (SIDE, SIDE), fusion)


def _shrunk(maps: Tensor) -> Tensor:
    """Maps of more than SIDE pixels a side, averaged down to that: interpolation alone would leave most of them out."""
    height, width = maps.shape[1:]
    if max(height, width) <= SIDE:
        return maps
    return functional.adaptive_avg_pool2d(maps[:, None], (min(height, SIDE), min(width, SIDE)))[:, 0]
