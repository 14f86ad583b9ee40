"""Maps of a finished run's rows, as metrics take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from camkit.errors import UsageError
from camkit.methods import Method, find_method
from camkit.typing import Targets


@runtime_checkable
class Rows(Protocol):
    """Rows of a run: what metrics read of a :class:`camkit.datasets.Run`, which needs packages that they don't."""

    @property
    def methods(self) -> list[str]:
        """The methods, by name."""

    def __len__(self) -> int:
        """How many rows."""

    def column_method(self, method: str | None) -> str:
        """The name of a method; None for the only one."""

    def finished(self, row: int, method: str | None) -> Tensor:
        """A row's maps (T, H, W) in [0, 1], of the size of the network's input."""

    def row(self, row: int) -> dict[str, Any]:
        """A row's other values."""


def of_rows(maps: Any, targets: Targets) -> tuple[Any, Targets]:
    """Maps by method, those of runs read; and their targets where none are given.

    Args:
        maps: by method; or a run's rows, for all of its methods.
        targets: as given.

    Raises:
        UsageError: a run without a method of the name, with methods that explain no class, or rows of other classes
            than another's.
        CamkitError: an image without maps.
    """
    if isinstance(maps, Rows):
        maps = dict.fromkeys(maps.methods, maps)
    if not isinstance(maps, Mapping):
        return maps, targets
    runs = [each for each in maps.values() if isinstance(each, Rows)]
    if not runs:
        return maps, targets
    if targets is None:
        found = [classes_of(each) for each in {id(run): run for run in runs}.values()]
        if any(each != found[0] for each in found):
            raise UsageError("the runs explain different classes: pass targets")
        targets = found[0]
    return {name: maps_of(each, name) if isinstance(each, Rows) else each for name, each in maps.items()}, targets


def maps_of(run: Rows, method: str) -> list[Tensor]:
    """A method's maps, (T, H, W) for each row; of the run's only method where the name is empty."""
    if not len(run):
        raise UsageError("the run has no such rows: there are no maps")
    if not method and len(run.methods) > 1:
        raise UsageError(
            f"the run has several methods: {', '.join(run.methods)}; measure_methods takes them all, and {{name: run}} "
            "one of them"
        )
    name = run.column_method(method or None)
    refuse_concepts([find_method(name)])
    return [run.finished(row, name) for row in range(len(run))]


def classes_of(run: Rows) -> list[list[int]]:
    """The classes that each row's maps explain."""
    return [classes_of_row(run.row(number)) for number in range(len(run))]


def classes_of_row(row: Mapping[str, Any]) -> list[int]:
    """The classes that a row's maps explain, the predicted one where methods were asked for none."""
    classes: list[int] = row["classes"] or [row["predicted"]]
    return classes


def refuse_concepts(methods: Sequence[Method]) -> None:
    """Refuse methods whose maps explain no class.

    Raises:
        UsageError: One does.
    """
    found = [each.name for each in methods if each.need.finds_targets]
    if found:
        raise UsageError(
            f"{', '.join(found)} finds concepts of its own: its maps explain no class that could be scored"
        )
