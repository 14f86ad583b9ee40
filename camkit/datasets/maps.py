"""Random access to the maps in a run's shards."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from camkit.datasets.places import Place
from camkit.datasets.schema import MapColumn, stacked, unpacked
from camkit.datasets.store import open_shard

KEPT, KEPT_BYTES = 8, 128 << 20
"""The most columns of maps, of one shard each, that are kept in memory, and bytes that several of them may take."""
BATCH_BYTES = 16 << 20
"""Maps that are unpacked at a time."""


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
            while len(self._kept) > KEPT or (
                len(self._kept) > 1 and sum(each.nbytes for each in self._kept.values()) > KEPT_BYTES
            ):
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        table, at = self._kept[key], row - int(self._ends[shard]) + count
        return unpacked(column, {field.name: table[field.name][at] for field in column.fields()})

    def batches(
        self, rows: NDArray[np.int64], columns: Sequence[MapColumn], at_once: int
    ) -> Iterator[tuple[NDArray[np.int64], list[NDArray[np.float32]]]]:
        """The maps of many rows, file by file; see :meth:`camkit.datasets.Run.batches`.

        Args:
            rows: In ascending order.
            columns: Of one method.
            at_once: The most rows at a time.
        """
        fields = [field.name for column in columns for field in column.fields()]
        for (name, count), end in zip(self._shards, self._ends, strict=True):
            start = int(end) - count
            wanted = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + count)]
            if not len(wanted):
                continue
            with open_shard(self._place, name) as file:
                table = file.read(columns=fields)
            most = max(1, min(at_once, BATCH_BYTES * count // max(table.nbytes, 1)))
            for first in range(0, len(wanted), most):
                some = wanted[first : first + most]
                for members, maps in stacked(columns, table.take(pa.array(some - start))):
                    yield some[members], maps
            del table  # before the next one is read
