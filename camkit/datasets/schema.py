"""The columns of a run's files, and batches of rows in them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

COLUMNS: Mapping[str, pa.DataType] = {
    "id": pa.string(),
    "path": pa.string(),
    "label": pa.int32(),
    "label_score": pa.float32(),
    "predicted": pa.int32(),
    "score": pa.float32(),
    "logit": pa.float32(),
    "classes": pa.list_(pa.int32()),
    "scores": pa.list_(pa.float32()),
    "logits": pa.list_(pa.float32()),
    "height": pa.int32(),
    "width": pa.int32(),
    "input_height": pa.int32(),
    "input_width": pa.int32(),
    "box_left": pa.float32(),
    "box_top": pa.float32(),
    "box_right": pa.float32(),
    "box_bottom": pa.float32(),
    "error": pa.string(),
    "seconds": pa.float32(),
}
"""Every run's columns; docs/datasets.md says what each holds."""
POSITION = "position"
"""A column that batches have until they are written: where the image stands in the data set."""
BOX = ("box_left", "box_top", "box_right", "box_bottom")
AXES = ("target", "row", "column")


@dataclass(frozen=True)
class MapColumn:
    """The signed maps of a method at a layer.

    Attributes:
        name: ``METHOD/LAYER``.
        method: The method's name.
        layer: The layer's.
        shape: (T, h, w) where all maps have it, (T, 0, 0) where grids differ from image to image; T targets, or
            concepts.
        dtype: ``float32``, or ``float16`` beside a scale per map.
        concepts: Whether the method finds concepts, whose classes are kept beside the maps.
        saliency: Whether its maps go from pixel to pixel, and are drawn white on black.
    """

    name: str
    method: str
    layer: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    concepts: bool = False
    saliency: bool = False

    @property
    def is_ragged(self) -> bool:
        """Whether each map has a shape of its own, in the column ``METHOD/LAYER.shape``."""
        return 0 in self.shape

    @property
    def kept(self) -> tuple[int, ...]:
        """The shape of a row's tensor: without the first dimension where there is one target."""
        return self.shape[1:] if self.shape[0] == 1 else self.shape

    @property
    def value(self) -> pa.DataType:
        """Of each number."""
        return pa.float16() if self.dtype == "float16" else pa.float32()

    def told(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self) | {"shape": list(self.shape)}

    def fields(self) -> list[pa.Field]:
        """The column of the maps, and those that belong to it."""
        axes = AXES[-len(self.kept) :]
        about = {"method": self.method, "layer": self.layer, "axes": json.dumps(axes)}
        if self.is_ragged:
            shape = pa.field(f"{self.name}.shape", pa.list_(pa.int32()))
            found = [pa.field(self.name, pa.list_(self.value), metadata=about | {"shape": shape.name}), shape]
        else:
            kind = pa.fixed_shape_tensor(self.value, list(self.kept), dim_names=axes)
            about["shape"] = json.dumps(self.kept)
            found = [pa.field(self.name, kind, metadata=about)]
        if self.dtype == "float16":
            found.append(pa.field(f"{self.name}.scale", pa.list_(pa.float32())))
        return found


def make_schema(columns: Sequence[MapColumn]) -> pa.Schema:
    """The schema of a run's files; its metadata says how to read the maps without camkit."""
    fields = [pa.field(name, kind) for name, kind in COLUMNS.items()]
    fields += [each for column in columns for each in column.fields()]
    for method in dict.fromkeys(column.method for column in columns if column.concepts):
        fields += [
            pa.field(f"{method}.classes", pa.list_(pa.int32())),
            pa.field(f"{method}.logits", pa.list_(pa.float32())),
        ]
    about = {column.name: column.told() for column in columns}
    return pa.schema(fields, metadata={"camkit.maps": json.dumps(about)})


def columns_of(told: Sequence[Mapping[str, Any]]) -> list[MapColumn]:
    """The map columns that :meth:`MapColumn.told` told of."""
    return [MapColumn(**{**each, "shape": tuple(each["shape"])}) for each in told]


def make_batch(
    schema: pa.Schema,
    columns: Sequence[MapColumn],
    positions: Sequence[int],
    values: Mapping[str, Any],
    maps: Mapping[str, NDArray[np.float32]] | None = None,
) -> pa.RecordBatch:
    """Rows as they are written, with their positions.

    Args:
        schema: The run's.
        columns: Its maps.
        positions: One per row.
        values: Column to one value per row; columns left out are null.
        maps: Map column to (B, T, h, w); None for rows without maps.
    """
    made: dict[str, pa.Array] = {}
    for column in columns if maps is not None else ():
        made |= _packed(column, maps[column.name])  # type: ignore[index]
    arrays = [pa.array(positions, pa.int64())]
    for field in schema:
        if field.name in made:
            arrays.append(made[field.name])
        elif field.name in values:
            arrays.append(pa.array(values[field.name], field.type))
        else:
            arrays.append(_nulls(len(positions), field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema.insert(0, pa.field(POSITION, pa.int64())))


def unpacked(column: MapColumn, row: Mapping[str, Any]) -> NDArray[np.float32] | None:
    """A row's maps, (T, h, w) float32; None where it has none.

    Args:
        column: Of the maps.
        row: Column to a scalar of pyarrow, for those of :meth:`MapColumn.fields`.
    """
    scalar = row[column.name]
    if not scalar.is_valid:
        return None
    flat = getattr(scalar, "value", scalar) if not column.is_ragged else scalar
    numbers = flat.values.to_numpy(zero_copy_only=False).astype(np.float32)
    if np.isnan(numbers).all():
        return None
    shape = tuple(row[f"{column.name}.shape"].as_py()) if column.is_ragged else column.shape
    maps: NDArray[np.float32] = numbers.reshape(shape if len(shape) == len(column.shape) else (1, *shape))
    if column.dtype == "float16":
        scale = np.array(row[f"{column.name}.scale"].as_py(), dtype=np.float32)
        maps = maps * scale.reshape(-1, *[1] * (maps.ndim - 1))
    return maps


def stacked(
    columns: Sequence[MapColumn], table: pa.Table
) -> Iterator[tuple[NDArray[np.int64], list[NDArray[np.float32]]]]:
    """The maps of many rows at once, grouped by shape: numbers of rows, and (n, T, h, w) float32 for each column.

    Rows without maps are left out.

    Args:
        columns: Of the maps.
        table: With the columns of :meth:`MapColumn.fields`.
    """
    groups: dict[tuple[Any, ...], list[int]] = {}
    for row, shapes in enumerate(zip(*(_shapes(column, table) for column in columns), strict=True)):
        if None not in shapes:
            groups.setdefault(shapes, []).append(row)
    for shapes, members in groups.items():
        rows = np.array(members)
        maps = [_stack(column, table, rows, shape) for column, shape in zip(columns, shapes, strict=True)]
        there = np.logical_and.reduce([~np.isnan(each).all(axis=(1, 2, 3)) for each in maps])
        if there.all():
            yield rows, maps
        elif there.any():
            yield rows[there], [each[there] for each in maps]


def _shapes(column: MapColumn, table: pa.Table) -> list[tuple[int, ...] | None]:
    """Each row's (T, h, w); None where it has no maps."""
    there = table[column.name].is_valid().to_pylist()
    if not column.is_ragged:
        return [column.shape if each else None for each in there]
    told = [tuple(each) if each else None for each in table[f"{column.name}.shape"].to_pylist()]
    return [
        None if not is_there or each is None else (1, *each)[-3:] for is_there, each in zip(there, told, strict=True)
    ]


def _stack(column: MapColumn, table: pa.Table, rows: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Maps of rows that have the same shape, (n, T, h, w)."""
    cells = table[column.name].combine_chunks()
    if column.is_ragged:
        starts, values = cells.offsets.to_numpy(), cells.values.to_numpy(zero_copy_only=False)
        flat = np.stack([values[starts[row] : starts[row + 1]] for row in rows])
    else:
        storage = cells.storage
        size = storage.type.list_size
        values = storage.values.to_numpy(zero_copy_only=False)[storage.offset * size :]
        flat = values[: len(storage) * size].reshape(len(storage), size)[rows]
    maps: NDArray[np.float32] = flat.astype(np.float32, copy=False).reshape(len(rows), *shape)
    if column.dtype == "float16":
        scales = table[f"{column.name}.scale"].to_pylist()
        maps *= np.array([scales[row] or [1] * shape[0] for row in rows], dtype=np.float32)[:, :, None, None]
    return maps


def _packed(column: MapColumn, maps: NDArray[np.float32]) -> dict[str, pa.Array]:
    """The arrays of a map column and of those that belong to it."""
    found: dict[str, pa.Array] = {}
    count = len(maps)
    values: NDArray[Any] = np.ascontiguousarray(maps, dtype=np.float32)
    if column.dtype == "float16":
        scale = np.abs(values.reshape(count, values.shape[1], -1)).max(2)
        found[f"{column.name}.scale"] = pa.array(list(scale), pa.list_(pa.float32()))
        scale[scale == 0] = 1
        values = (values / scale.reshape(*scale.shape, *[1] * (values.ndim - 2))).astype(np.float16)
    size = math.prod(values.shape[1:])
    flat = pa.array(values.reshape(-1), column.value)
    if column.is_ragged:
        offsets = pa.array(np.arange(count + 1) * size, pa.int32())
        found[column.name] = pa.ListArray.from_arrays(offsets, flat)
        shape = values.shape[2:] if values.shape[1] == 1 else values.shape[1:]
        found[f"{column.name}.shape"] = pa.array([list(shape)] * count, pa.list_(pa.int32()))
    else:
        kind = column.fields()[0].type
        found[column.name] = pa.ExtensionArray.from_storage(kind, pa.FixedSizeListArray.from_arrays(flat, size))
    return found


def _nulls(count: int, kind: pa.DataType) -> pa.Array:
    """Cells without a value; NaN for tensors, whose nulls older pyarrow can't read back."""
    if isinstance(kind, pa.BaseExtensionType):
        storage = kind.storage_type
        numbers = np.full(count * storage.list_size, np.nan, storage.value_type.to_pandas_dtype())
        return pa.ExtensionArray.from_storage(
            kind, pa.FixedSizeListArray.from_arrays(pa.array(numbers, storage.value_type), storage.list_size)
        )
    return pa.nulls(count, kind)
