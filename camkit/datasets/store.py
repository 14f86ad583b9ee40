"""A run's files: shards of rows, each written whole. What stands in them is done; there is no other record."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from camkit.datasets.places import Folder, Place
from camkit.datasets.schema import POSITION, MapColumn
from camkit.errors import CamkitError, reason

FOLDER = "shards"
_NAME = re.compile(r"shard-(\d+)\.parquet")
SHARD_BYTES = 64 << 20
"""A shard is closed when its maps take as much."""
SHARD_SECONDS = 300.0
"""A shard is closed when its first row is as old: no more is lost when a run is killed."""
_FEW = ("label", "predicted", "error", "height", "width", "input_height", "input_width")
"""Columns with few different values."""


def shard_names(place: Place) -> list[str]:
    """The committed shards, in the order in which they were written, as names below the run's folder."""
    return [f"{FOLDER}/{name}" for name in place.names(FOLDER) if _NAME.fullmatch(name)]


def open_shard(place: Place, name: str) -> pq.ParquetFile:
    """A committed shard.

    Raises:
        CamkitError: It can't be read.
    """
    try:
        if isinstance(place, Folder):
            return pq.ParquetFile(place.path / name)
        return pq.ParquetFile(io.BytesIO(place.read(name) or b""))
    except (OSError, pa.ArrowException) as error:
        raise CamkitError(
            f"can't read {place.name}/{name} ({reason(error)}): remove it, and the run makes its rows again"
        ) from error


def read_columns(place: Place, columns: Sequence[str]) -> pa.Table:
    """Some columns of all rows."""
    tables = []
    for name in shard_names(place):
        with open_shard(place, name) as file:
            tables.append(_read(file, place, name, columns))
    if tables:
        return pa.concat_tables(tables)
    return pa.table({name: pa.array([], pa.string()) for name in columns})


def done(place: Place) -> tuple[pa.ChunkedArray, int]:
    """The ids of committed rows, and how many of them are errors.

    Raises:
        CamkitError: A shard can't be read, or an id stands in several rows.
    """
    table = read_columns(place, ["id", "error"])
    ids = table["id"]
    if pc.count_distinct(ids).as_py() < len(ids):
        counted = pc.value_counts(ids)
        twice = [each["values"] for each in counted.to_pylist() if each["counts"] > 1]
        raise CamkitError(
            f"{len(twice)} images have several rows in {place.name} ({', '.join(twice[:3])}): two runs wrote to it"
        )
    return ids, len(ids) - table["error"].null_count


def require_same_images(
    place: Place, ids: pa.Array, paths: pa.Array, labels: Sequence[int | None], *, retried: Sequence[int] = ()
) -> None:
    """Check that committed rows have the labels and the files that their images have now.

    Args:
        place: The run's folder.
        ids: Of all images of the data set.
        paths: Theirs.
        labels: Theirs.
        retried: Positions of those whose rows don't count where they are errors.

    Raises:
        CamkitError: Some have others.
    """
    rows = read_columns(place, ["id", "path", "label", "error"])
    if not len(rows):
        return
    at = pc.index_in(rows["id"], value_set=ids)
    again = pc.and_(pc.is_in(at, value_set=pa.array(retried, pa.int32())), pc.is_valid(rows["error"]))
    rows = rows.append_column("at", at).filter(pc.and_(pc.is_valid(at), pc.invert(again)))
    now = pa.array(labels, pa.int32()).take(rows["at"])
    for what, differ in (
        ("labels", pc.not_equal(pc.fill_null(rows["label"], -1), pc.fill_null(now, -1))),
        ("paths", pc.not_equal(rows["path"], paths.take(rows["at"]))),
    ):
        found = rows.filter(differ)["id"].to_pylist()
        if found:
            raise CamkitError(
                f"{what} of {len(found)} images differ from the run's in {place.name} ({', '.join(found[:3])}"
                f"{', ...' * (len(found) > 3)}): take another --out"
            )


def drop_failed(place: Place, ids: pa.Array) -> int:
    """Take rows of errors out of the shards, so that their images are done again; how many there were.

    Args:
        place: The run's folder.
        ids: Of the images that are to be done again.
    """
    count = 0
    for name in shard_names(place):
        with open_shard(place, name) as file:
            rows = _read(file, place, name, ["id", "error"])
            drop = pc.and_(pc.is_valid(rows["error"]), pc.is_in(rows["id"], value_set=ids))
            failed = pc.sum(drop).as_py() or 0
            if not failed:
                continue
            table = file.read()
        count += failed
        kept = table.filter(pc.invert(drop))
        if len(kept):
            place.write(name, _content(kept))
        else:
            place.remove(name)
    return count


class ShardWriter:
    """Collects rows and commits them as shards.

    Args:
        place: The run's folder.
        schema: Of its rows.
        columns: Its map columns.
        rows: About how many a shard holds.
    """

    def __init__(self, place: Place, schema: pa.Schema, columns: Sequence[MapColumn], rows: int) -> None:
        self._place = place
        self._schema = schema
        self._columns = columns
        self._rows = rows
        self._batches: list[pa.RecordBatch] = []
        self._count = self._bytes = 0
        self._first = 0.0
        self.is_broken = False
        """Whether a shard couldn't be written."""
        numbers = [int(_NAME.fullmatch(name.rpartition("/")[2])[1]) for name in shard_names(place)]  # type: ignore[index]
        self._next = max(numbers, default=-1) + 1

    def add(self, batch: pa.RecordBatch) -> bool:
        """Add rows, with their positions; whether that closed a shard."""
        if not self._batches:
            self._first = time.monotonic()
        self._batches.append(batch)
        self._count += len(batch)
        self._bytes += batch.nbytes
        old = time.monotonic() - self._first > SHARD_SECONDS
        if self._count >= self._rows or self._bytes >= SHARD_BYTES or old:
            self.commit()
            return True
        return False

    def commit(self) -> None:
        """Write what there is, in the order of the data set.

        Raises:
            CamkitError: The shard can't be written. The rows are still here.
        """
        if not self._batches:
            return
        table = pa.Table.from_batches(self._batches)
        order = np.argsort(table[POSITION].to_numpy(), kind="stable")
        table = table.drop_columns([POSITION]).take(pa.array(order)).cast(self._schema)
        self.is_broken = True
        self._place.write(f"{FOLDER}/shard-{self._next:06d}.parquet", _content(table))
        self.is_broken = False
        self._next += 1
        self._batches, self._count, self._bytes = [], 0, 0


def _content(table: pa.Table) -> bytes:
    """Rows as a Parquet file: zstd, maps as streams of bytes of one significance, which compress better."""
    floats = [path for field in table.schema if (path := _float_path(field)) is not None]
    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        compression="zstd",
        use_dictionary=[name for name in _FEW if name in table.schema.names],
        use_byte_stream_split=floats,
        row_group_size=max(len(table), 1),
    )
    return buffer.getvalue()


def _float_path(field: pa.Field) -> str | None:
    """The path in a Parquet file of a column's 32-bit floats; None where it has none."""
    kind = field.type.storage_type if isinstance(field.type, pa.BaseExtensionType) else field.type
    nested = pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)
    if not pa.types.is_float32(kind.value_type if nested else kind):
        return None
    return f"{field.name}.list.element" if nested else field.name


def _read(file: pq.ParquetFile, place: Place, name: str, columns: Sequence[str]) -> Any:
    try:
        return file.read(columns=list(columns))
    except (OSError, pa.ArrowException) as error:
        raise CamkitError(
            f"can't read {place.name}/{name} ({reason(error)}): remove it, and the run makes its rows again"
        ) from error


def in_shards(place: Place) -> Iterator[tuple[str, int]]:
    """Each shard's name and number of rows."""
    for name in shard_names(place):
        with open_shard(place, name) as file:
            yield name, file.metadata.num_rows
