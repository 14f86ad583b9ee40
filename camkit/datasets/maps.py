"""Random access to the maps in a run's shards."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from camkit.datasets.places import Place
from camkit.datasets.schema import MapColumn, unpacked
from camkit.datasets.store import open_shard

KEPT = 8
"""Columns of maps, of one shard each, that are kept in memory."""


class Maps:
    """The maps of a run, by the number of their row; the columns that were read last are kept.

    Args:
        place: The run's folder.
        shards: Each one's name and number of rows.
    """

    def __init__(self, place: Place, shards: Sequence[tuple[str, int]]) -> None:
        self._place = place
        self._shards = shards
        self._ends = np.cumsum([count for _, count in shards])
        self._kept: OrderedDict[tuple[str, str], pa.Table] = OrderedDict()

    def read(self, row: int, column: MapColumn) -> NDArray[np.float32] | None:
        """A row's maps, (T, h, w) float32; None where it has none.

        Raises:
            CamkitError: Its shard can't be read.
        """
        shard = int(np.searchsorted(self._ends, row, side="right"))
        name, count = self._shards[shard]
        key = name, column.name
        if key not in self._kept:
            with open_shard(self._place, name) as file:
                self._kept[key] = file.read(columns=[field.name for field in column.fields()])
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        table, at = self._kept[key], row - int(self._ends[shard]) + count
        return unpacked(column, {field.name: table[field.name][at] for field in column.fields()})
