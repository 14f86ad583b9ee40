"""A run's rows as arrays: classes, probabilities, and which of its maps a row is judged by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camkit.datasets.reading import Run
from camkit.datasets.schema import MapColumn

NONE = -1
"""In place of a class that isn't known."""
Subject = str
"""Whose map a row is judged by: ``predicted``, ``label``, ``first`` or ``concepts``."""


@dataclass(frozen=True)
class Rows:
    """The rows of images that didn't fail.

    Attributes:
        run: Of these rows alone; numbers of rows are this run's.
        label: (N,) class, or NONE.
        predicted: (N,) class with the highest logit.
        score: (N,) its probability.
        label_score: (N,) the label's probability, NaN where there is no label.
        subject: Whose map a row is judged by: that of the predicted class, of the label, or the first explained class,
            in this order, where every row has it; all together for methods that find concepts.
        target: (N,) which of a row's maps that is.
        category: (N,) of which class it is.
    """

    run: Run
    label: NDArray[np.int64]
    predicted: NDArray[np.int64]
    score: NDArray[np.float64]
    label_score: NDArray[np.float64]
    subject: Subject
    target: NDArray[np.int64]
    category: NDArray[np.int64]

    def __len__(self) -> int:
        """How many rows."""
        return len(self.predicted)

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """(N,) whether a row has a label."""
        return np.asarray(self.label != NONE)

    @property
    def has_labels(self) -> bool:
        """Whether any row has one."""
        return bool(self.labelled.any())

    @property
    def right(self) -> NDArray[np.bool_]:
        """(N,) whether the label is known and predicted."""
        return np.asarray(self.labelled & (self.label == self.predicted))

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """(N,) whether the label is known and another class predicted."""
        return np.asarray(self.labelled & (self.label != self.predicted))

    @property
    def group(self) -> NDArray[np.int64]:
        """(N,) the class that a row is counted for: its label where the run has labels, else what is predicted."""
        return self.label if self.has_labels else self.predicted


def read_rows(run: Run, column: MapColumn) -> Rows:
    """The rows of a run that didn't fail.

    Args:
        run: The run.
        column: Of the maps that the report shows.
    """
    good = run.filter(errors=False)
    table = good.table
    label, predicted = (_classes(table, name) for name in ("label", "predicted"))
    subject, target = _subject(table["classes"].to_pylist(), label, predicted, column)
    explained = [each or [NONE] for each in table["classes"].to_pylist()]
    category = np.array([each[min(at, len(each) - 1)] for each, at in zip(explained, target, strict=True)], dtype=int)
    return Rows(
        run=good,
        label=label,
        predicted=predicted,
        score=_numbers(table, "score"),
        label_score=_numbers(table, "label_score"),
        subject=subject,
        target=target,
        category=category,
    )


def _subject(
    explained: list[list[int] | None], label: NDArray[np.int64], predicted: NDArray[np.int64], column: MapColumn
) -> tuple[Subject, NDArray[np.int64]]:
    nowhere = np.zeros(len(explained), dtype=int)
    if column.concepts:
        return "concepts", nowhere
    for subject, wanted in (("predicted", predicted), ("label", label)):
        at = [
            each.index(category) if each and category in each else NONE
            for each, category in zip(explained, wanted.tolist(), strict=True)
        ]
        if at and NONE not in at:
            return subject, np.array(at, dtype=int)
    return ("first" if explained else "predicted"), nowhere


def _classes(table: Any, name: str) -> NDArray[np.int64]:
    return np.asarray(table[name].fill_null(NONE).to_numpy(), dtype=np.int64)


def _numbers(table: Any, name: str) -> NDArray[np.float64]:
    return np.asarray(table[name].to_numpy(), dtype=np.float64)
