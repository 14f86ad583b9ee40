"""Accuracy, calibration and confusions, against loops and textbook values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="runs need pyarrow: pip install 'camkit[datasets]'")
pytest.importorskip("sklearn", reason="reports need scikit-learn: pip install 'camkit[report]'")

from camkit.datasets import load
from camkit.report.numbers import BINS, by_class, calibration, confusions, interval
from camkit.report.rows import read_rows
from tests.report.runs import write_run


def test_calibration_is_the_loop_over_bins() -> None:
    random = np.random.default_rng(0)
    score, right = random.random(500), random.random(500) < 0.6
    score[:2] = (0.0, 1.0)
    expected = 0.0
    for number in range(BINS):
        low, high = number / BINS, (number + 1) / BINS
        inside = [at for at in range(500) if low <= score[at] < high or (number == BINS - 1 and score[at] == 1)]
        if inside:
            gap = abs(score[inside].mean() - right[inside].mean())
            expected += len(inside) / 500 * gap
    found = calibration(score, right)
    assert found.error == pytest.approx(expected, rel=1e-12)
    assert found.count.sum() == 500
    assert found.excess == pytest.approx(score.mean() - right.mean(), rel=1e-12)


def test_a_network_that_is_as_right_as_it_says_is_calibrated() -> None:
    assert calibration(np.full(10, 0.7), np.arange(10) < 7).error == pytest.approx(0, abs=1e-12)


def test_wilsons_interval() -> None:
    """Values of Newcombe 1998, table I: 81 of 263, 0 of 20, 1 of 29."""
    assert interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert interval(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)
    assert interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


def test_confusions_come_by_frequency(tmp_path: Path) -> None:
    label = [0, 0, 0, 0, 1, 1, 2, None]
    predicted = [0, 1, 1, 2, 0, 1, 2, 3]
    run = load(write_run(tmp_path, label, predicted, score=[0.9, 0.8, 0.6, 0.7, 0.95, 0.9, 0.9, 0.9]))
    found = confusions(read_rows(run, run.manifest.columns[0]))
    assert [(each.label, each.predicted, each.count) for each in found] == [(0, 1, 2), (1, 0, 1), (0, 2, 1)]
    assert [each.share for each in found] == [0.5, 0.5, 0.25]
    assert [each.score for each in found] == pytest.approx([0.7, 0.95, 0.7])


def test_classes_count_labels_where_there_are_any_else_predictions(tmp_path: Path) -> None:
    run = load(write_run(tmp_path / "labelled", [0, 0, 2, None], [0, 1, 2, 3]))
    found = by_class(read_rows(run, run.manifest.columns[0]))
    assert [(each.category, len(each.rows), each.accuracy) for each in found] == [(0, 2, 0.5), (2, 1, 1.0)]
    run = load(write_run(tmp_path / "bare", [None] * 3, [1, 1, 2]))
    found = by_class(read_rows(run, run.manifest.columns[0]))
    assert [(each.category, len(each.rows), each.accuracy) for each in found] == [(1, 2, None), (2, 1, None)]


@pytest.mark.parametrize(
    ("explained", "subject", "target"),
    [
        ([[1, 0], [2, 1]], "predicted", [0, 0]),
        ([[0, 1], [1, 2]], "predicted", [1, 1]),
        ([[0], [1]], "label", [0, 0]),
        ([[3], [3]], "first", [0, 0]),
    ],
)
def test_whose_map_a_row_is_judged_by(
    tmp_path: Path, explained: list[list[int]], subject: str, target: list[int]
) -> None:
    maps = np.zeros((2, len(explained[0]), 7, 7), dtype=np.float32)
    run = load(write_run(tmp_path, [0, 1], [1, 2], maps=maps, explained=explained))
    rows = read_rows(run, run.manifest.columns[0])
    assert (rows.subject, rows.target.tolist()) == (subject, target)
    assert rows.category.tolist() == [each[at] for each, at in zip(explained, target, strict=True)]
