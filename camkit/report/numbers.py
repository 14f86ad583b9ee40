"""What a run's scores say: accuracy, calibration, confusions, and the same class by class."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from camkit.report.rows import NONE, Rows

BINS = 15
"""Of confidence, as in Guo et al. 2017."""
_Z = 1.959964
"""Standard deviations of a 95 % interval."""


@dataclass(frozen=True)
class Calibration:
    """How far confidence tells accuracy.

    Attributes:
        confidence: (K,) mean probability of the predicted class in each bin that isn't empty.
        accuracy: (K,) share of right predictions there.
        count: (K,) images there.
        error: Expected calibration error: the mean difference of the two, weighted by images (Guo et al. 2017, eq. 3).
        excess: Mean confidence minus accuracy: above zero the network is too sure of itself.
    """

    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    count: NDArray[np.int64]
    error: float
    excess: float


@dataclass(frozen=True)
class Confusion:
    """Images of one class that are taken for another.

    Attributes:
        label: Their class.
        predicted: What they are taken for.
        count: How many.
        share: Of the label's images, 0 to 1.
        score: Mean probability of the wrong class.
    """

    label: int
    predicted: int
    count: int
    share: float
    score: float


@dataclass(frozen=True)
class ClassNumbers:
    """A class: its images, or those predicted as it where no labels are known.

    Attributes:
        category: Its index.
        rows: Numbers of its rows.
        right: How many are predicted as it; None without labels.
        score: Mean probability of the predicted classes; None where none is known.
    """

    category: int
    rows: NDArray[np.int64]
    right: int | None
    score: float | None

    @property
    def accuracy(self) -> float | None:
        """Share of right predictions; None without labels."""
        return None if self.right is None else self.right / len(self.rows)


def interval(right: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    share, z2 = right / count, _Z**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def mean(values: NDArray[np.float64]) -> float | None:
    """The mean of the values that are known; None where none is, as of a network without classes."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def calibration(score: NDArray[np.float64], right: NDArray[np.bool_]) -> Calibration:
    """Compare confidence and accuracy in :data:`BINS` bins of equal width.

    Args:
        score: (N,) probability of the predicted class, N at least 1.
        right: (N,) whether the prediction is right.

    Example:
        >>> import numpy as np
        >>> round(calibration(np.array([0.9, 0.9, 0.6]), np.array([True, False, True])).error, 3)
        0.4
    """
    place = np.clip((score * BINS).astype(int), 0, BINS - 1)
    count = np.bincount(place, minlength=BINS)
    there = count > 0
    confidence = np.bincount(place, score, BINS)[there] / count[there]
    accuracy = np.bincount(place, right.astype(float), BINS)[there] / count[there]
    error = float(np.average(np.abs(confidence - accuracy), weights=count[there]))
    return Calibration(confidence, accuracy, count[there], error, float(score.mean() - right.mean()))


def confusions(rows: Rows) -> list[Confusion]:
    """All pairs of classes that are confused, the most frequent first."""
    wrong = np.flatnonzero(rows.wrong)
    if not len(wrong):
        return []
    pairs, which, count = np.unique(
        np.stack([rows.label[wrong], rows.predicted[wrong]], axis=1), axis=0, return_inverse=True, return_counts=True
    )
    score = np.bincount(which.reshape(-1), rows.score[wrong]) / count
    of_label = dict(zip(*(each.tolist() for each in np.unique(rows.label, return_counts=True)), strict=True))
    order = np.lexsort((-score, -count))
    return [
        Confusion(
            label := int(pairs[at, 0]), int(pairs[at, 1]), int(count[at]), count[at] / of_label[label], float(score[at])
        )
        for at in order
    ]


def by_class(rows: Rows) -> list[ClassNumbers]:
    """Every class that has rows, by index."""
    group = rows.group
    order = np.argsort(group, kind="stable")
    cuts = np.flatnonzero(np.diff(group[order])) + 1
    found = []
    for members in np.split(order, cuts) if len(order) else ():
        category = int(group[members[0]])
        if category == NONE:
            continue
        right = int(rows.right[members].sum()) if rows.has_labels else None
        found.append(ClassNumbers(category, members, right, mean(rows.score[members])))
    return found
