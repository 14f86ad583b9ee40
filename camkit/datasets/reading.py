"""Read a run: its rows, its maps as tensors, and pictures of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from camkit.datasets.manifest import Manifest, read_manifest
from camkit.datasets.maps import Maps
from camkit.datasets.places import Place, find_place
from camkit.datasets.schema import COLUMNS, MapColumn
from camkit.datasets.store import in_shards, read_columns, shard_names
from camkit.datasets.where import Condition
from camkit.errors import CamkitError, UsageError, closest
from camkit.methods import find_method
from camkit.methods.maps import finish
from camkit.models.classifier import find_category

if TYPE_CHECKING:
    from camkit.visualize.overlay import Style
    from camkit.visualize.picture import Picture


def load(path: str | Path) -> Run:
    """Open a run.

    Args:
        path: The run's folder, or its address.

    Raises:
        UsageError: There is no run.
        CamkitError: It is damaged, or of a newer camkit.

    Example:
        >>> run = camkit.datasets.load("run")  # doctest: +SKIP
        >>> wrong = run.filter("score > 0.9 and label != predicted")  # doctest: +SKIP
        >>> wrong.map(0).shape  # doctest: +SKIP
        torch.Size([1, 7, 7])
    """
    place = find_place(path)
    manifest = read_manifest(place) if place.names("") else None
    if manifest is None:
        raise UsageError(f"no run in {place.name}; give the folder that camkit run --out made")
    return Run(place, manifest)


class Run:
    """A run's rows, or those of them that :meth:`filter` left. Maps stay in their files until they are asked for.

    Attributes:
        manifest: How the run was made.
        path: Its folder.
    """

    def __init__(self, place: Place, manifest: Manifest) -> None:
        self.manifest = manifest
        self.path = place.name
        self._place = place
        self._shards = list(in_shards(place))
        self._maps = Maps(place, self._shards)
        self._rows = np.arange(sum(count for _, count in self._shards))

    def __len__(self) -> int:
        """How many rows."""
        return len(self._rows)

    def __repr__(self) -> str:
        """Methods and rows."""
        return f"Run({self.path!r}: {len(self)} images, {', '.join(self.methods)})"

    @property
    def columns(self) -> list[str]:
        """The names of all columns, maps among them."""
        extra = [field.name for column in self.manifest.columns for field in column.fields()]
        concepts = dict.fromkeys(each.method for each in self.manifest.columns if each.concepts)
        return [*COLUMNS, *extra, *(f"{name}.{what}" for name in concepts for what in ("classes", "logits"))]

    @property
    def methods(self) -> list[str]:
        """The methods, by name."""
        return list(dict.fromkeys(column.method for column in self.manifest.columns))

    @property
    def classes(self) -> list[str] | None:
        """The classes' names, where they are known."""
        return self.manifest.classes

    @property
    def ids(self) -> list[str]:
        """The images' ids, in order."""
        found: list[str] = self.table["id"].to_pylist()
        return found

    @property
    def table(self) -> pa.Table:
        """All columns but the maps, of these rows, as a table of pyarrow."""
        return self._table.take(pa.array(self._rows))

    @property
    def asked(self) -> int | None:
        """How many images the run's last command asked for; None for runs of a camkit that didn't keep it."""
        found: int | None = self.manifest.about.get("images")
        return found

    @property
    def nbytes(self) -> int:
        """Bytes of all the run's shards."""
        return sum(self._place.size(name) for name, _ in self._shards)

    def read(self, name: str) -> bytes | None:
        """The content of another file in the run's folder; None where there is none."""
        return self._place.read(name)

    def to_arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Some columns, of these rows; None for all, maps among them.

        Raises:
            UsageError: No such column.
        """
        names = self.columns if columns is None else list(columns)
        for name in names:
            if name not in self.columns:
                raise UsageError(f"there is no column {name!r}{closest(name, self.columns)}")
        return read_columns(self._place, names).take(pa.array(self._rows))

    def to_pandas(self, columns: Sequence[str] | None = None) -> Any:
        """Some columns as a pandas.DataFrame; None for all but the maps. Maps are flat arrays there.

        Raises:
            CamkitError: pandas isn't installed.
        """
        try:
            import pandas  # noqa: F401
        except ImportError as error:
            raise CamkitError("to_pandas needs pandas: pip install pandas") from error
        return (self.table if columns is None else self.to_arrow(columns)).to_pandas()

    def filter(
        self,
        where: str | None = None,
        *,
        errors: bool | None = None,
        label: int | str | None = None,
        predicted: int | str | None = None,
        score: tuple[float, float] | None = None,
    ) -> Run:
        """The rows that meet all conditions.

        Args:
            where: A condition such as ``"score < 0.5 and label != predicted"``; classes may be named.
            errors: Whether the image failed.
            label: Its class, by index or name.
            predicted: The class that the network predicts.
            score: Lowest and highest probability of that class, both included.

        Raises:
            UsageError: No such class or column, or no condition.
        """
        terms: list[pc.Expression] = []
        if errors is not None:
            terms.append(pc.field("error").is_valid() if errors else pc.field("error").is_null())
        for name, wanted in (("label", label), ("predicted", predicted)):
            if wanted is not None:
                terms.append(pc.field(name) == pc.scalar(self.find_category(str(wanted))))
        if score is not None:
            terms += [pc.field("score") >= pc.scalar(score[0]), pc.field("score") <= pc.scalar(score[1])]
        if where is not None:
            terms.append(Condition(list(COLUMNS), self.find_category).read(where))
        rows = self._rows
        for term in terms:
            table = self._table.append_column(_ROW, pa.array(np.arange(len(self._table))))
            try:
                met = table.filter(term)[_ROW].to_numpy()
            except pa.ArrowException as error:
                raise UsageError(f"the condition doesn't fit the columns: {str(error).splitlines()[0]}") from error
            rows = rows[np.isin(rows, met)]
        return self._with(rows)

    def sort(self, column: str, *, descending: bool = False) -> Run:
        """These rows by a column; those without a value come last.

        Raises:
            UsageError: No such column, or one of lists.
        """
        if column not in COLUMNS or pa.types.is_nested(COLUMNS[column]):
            plain = [name for name, kind in COLUMNS.items() if not pa.types.is_nested(kind)]
            raise UsageError(f"can't sort by {column!r}{closest(column, plain)}; sort by one of {', '.join(plain)}")
        order = "descending" if descending else "ascending"
        table = self.table.select([column])
        return self._with(self._rows[pc.sort_indices(table, sort_keys=[(column, order)]).to_numpy()])

    def take(self, rows: Sequence[int] | slice) -> Run:
        """Some of these rows, by their number."""
        return self._with(self._rows[rows if isinstance(rows, slice) else np.asarray(rows, dtype=int)])

    def row(self, row: int | str) -> dict[str, Any]:
        """A row's values but the maps, by its number or the image's id.

        Raises:
            UsageError: No such row.
        """
        found: dict[str, Any] = self._table.slice(self._find(row), 1).to_pylist()[0]
        return found

    def map(self, row: int | str, method: str | None = None, layer: str | None = None) -> Tensor:
        """A row's signed maps, (T, h, w) float32 at the layer's resolution.

        Args:
            row: Its number, or the image's id.
            method: One of :attr:`methods`; may be left out where there is one.
            layer: One of the method's; may be left out where there is one.

        Raises:
            UsageError: No such row, method or layer.
            CamkitError: The image has no maps; the message says why.
        """
        return self._map(self._find(row), self.column(method, layer))

    def maps(self, method: str | None = None, layer: str | None = None) -> Tensor:
        """The signed maps of all these rows, (N, T, h, w) float32; NaN where an image has none.

        Raises:
            UsageError: See :meth:`map`; or maps of several sizes.
        """
        column = self.column(method, layer)
        if column.is_ragged:
            raise UsageError(f"the maps of {column.name} have several sizes: read them one by one with map(row)")
        found = torch.full((len(self), *column.shape), torch.nan)
        for number, row in enumerate(self._rows):
            made = self._maps.read(int(row), column)
            if made is not None:
                found[number] = torch.from_numpy(made)
        return found

    def batches(
        self, method: str | None = None, at_once: int = 1000
    ) -> Iterator[tuple[NDArray[np.int64], list[NDArray[np.float32]]]]:
        """The signed maps of a method, some rows at a time, read file by file: for statistics over runs of any size.

        Args:
            method: One of :attr:`methods`; may be left out where there is one.
            at_once: The most rows at a time; fewer where maps are large.

        Yields:
            Numbers of rows, in no order, and for each of the method's layers their maps, (n, T, h, w). Rows without
            maps are left out; rows of one batch have maps of one size.

        Raises:
            UsageError: See :meth:`map`.
        """
        name = self.column_method(method)
        columns = [each for each in self.manifest.columns if each.method == name]
        number_of = np.full(sum(count for _, count in self._shards), -1)
        number_of[self._rows] = np.arange(len(self._rows))
        for rows, maps in self._maps.batches(np.sort(self._rows), columns, at_once):
            yield number_of[rows], maps

    def finished(self, row: int | str, method: str | None = None) -> Tensor:
        """A row's maps as ``camkit vis-cam`` draws them: (T, H, W) in [0, 1], of the size of the network's input.

        Raises:
            UsageError: See :meth:`map`.
            CamkitError: See :meth:`map`.
        """
        place, name = self._find(row), self.column_method(method)
        about = self._table.slice(place, 1).to_pylist()[0]
        raw = [self._map(place, column) for column in self.manifest.columns if column.method == name]
        return finish(raw, (about["input_height"], about["input_width"]), find_method(name).fusion)

    def picture(
        self,
        row: int | str,
        method: str | None = None,
        *,
        target_index: int = 0,
        original_size: bool = False,
        style: Style | None = None,
        bands: Sequence[int] = (),
    ) -> Picture:
        """A row's map over the image, read from its original file: (H, W, 3) uint8 RGB.

        Args:
            row: Its number, or the image's id.
            method: One of :attr:`methods`; may be left out where there is one.
            target_index: Which of the explained classes.
            original_size: Draw on the whole image, not on the part that the network saw.
            style: Colours and share of the heat.
            bands: Of an image with many, the three to show as red, green and blue, or the one in grey, counted from 1.

        Raises:
            UsageError: No such row, method, class or band.
            CamkitError: The image has no maps, or its file can't be read any more.
        """
        from camkit.datasets.drawing import draw

        name = self.column_method(method)
        return draw(self, row, name, target_index, original_size=original_size, style=style, bands=bands)

    def find_category(self, text: str) -> int:
        """The index of a class by index or name; see :meth:`camkit.models.classifier.Classifier.find_category`."""
        return find_category(text, self.classes, self.path)

    def named(self, category: int | None) -> str:
        """A class by index and name, ``281 tabby cat``; empty for None."""
        if category is None:
            return ""
        known = self.classes is not None and 0 <= category < len(self.classes)
        return f"{category} {self.classes[category]}" if known and self.classes else str(category)

    def column(self, method: str | None = None, layer: str | None = None) -> MapColumn:
        """The map column of a method at a layer, see :meth:`map`."""
        name = self.column_method(method)
        found = [each for each in self.manifest.columns if each.method == name and layer in (None, each.layer)]
        layers = [each.layer for each in self.manifest.columns if each.method == name]
        if not found:
            raise UsageError(f"{name} has no maps of {layer!r} in {self.path}; it has {', '.join(layers)}")
        if len(found) > 1:
            raise UsageError(f"{name} has maps of several layers in {self.path}; name one: {', '.join(layers)}")
        return found[0]

    def column_method(self, method: str | None) -> str:
        """The name of a method of the run, in any spelling; see :meth:`map`."""
        if method is None:
            if len(self.methods) > 1:
                raise UsageError(f"{self.path} has several methods; name one: {', '.join(self.methods)}")
            return self.methods[0]
        name = find_method(method).name
        if name not in self.methods:
            raise UsageError(f"{self.path} has no maps of {name}; it has {', '.join(self.methods)}")
        return name

    def _map(self, place: int, column: MapColumn) -> Tensor:
        found = self._maps.read(place, column)
        if found is None:
            about = self._table.slice(place, 1).to_pylist()[0]
            raise CamkitError(f"{about['id']} has no maps: {about['error']}")
        return torch.from_numpy(np.array(found))

    def _find(self, row: int | str) -> int:
        """The number of a row among all of the run."""
        if isinstance(row, str):
            found = self._places.get(row)
            if found is None or found not in self._own:
                raise UsageError(f"no image {row!r} among these {len(self)} rows of {self.path}")
            return found
        if not -len(self) <= row < len(self):
            raise UsageError(f"row {row} is outside 0..{len(self) - 1}")
        return int(self._rows[row])

    def _with(self, rows: Any) -> Run:
        other = copy(self)
        other._rows = rows
        other.__dict__.pop("_own", None)
        return other

    @cached_property
    def _own(self) -> set[int]:
        return set(self._rows.tolist())

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self._table["id"].to_pylist())}

    @cached_property
    def _table(self) -> pa.Table:
        """All columns but the maps, of all rows."""
        names = [name for name in self.columns if "/" not in name]
        table = read_columns(self._place, names) if shard_names(self._place) else None
        if table is None:
            return pa.table({name: pa.array([], COLUMNS[name]) for name in COLUMNS})
        return table.slice(0, sum(count for _, count in self._shards)).combine_chunks()


_ROW = "row number"
