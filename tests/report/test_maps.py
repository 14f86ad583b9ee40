"""Maps read in batches are those read one by one, and their share at the border is that of the picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

pytest.importorskip("pyarrow", reason="runs need pyarrow: pip install 'camkit[datasets]'")
pytest.importorskip("sklearn", reason="reports need scikit-learn: pip install 'camkit[report]'")

from camkit.datasets import Run, load, run
from camkit.report.clusters import FEWEST, count_clusters, find_clusters
from camkit.report.findings import find
from camkit.report.maps import UNIFORM, MapNumbers, measure_maps
from camkit.report.numbers import by_class
from camkit.report.rows import Rows, read_rows
from tests.datasets.pictures import classifier, write_pictures
from tests.report.runs import blobs, write_run

CENTRE = (3.0, 3.0)


def rows_of(path: Path) -> Rows:
    found = load(path)
    return read_rows(found, found.manifest.columns[0])


def read_in_batches(found: Run, method: str, at_once: int) -> dict[int, list[torch.Tensor]]:
    return {
        int(row): [torch.from_numpy(each[at]) for each in maps]
        for rows, maps in found.batches(method, at_once)
        for at, row in enumerate(rows)
    }


@pytest.mark.parametrize("map_dtype", ["float32", "float16"])
@pytest.mark.parametrize("whole", [False, True])
def test_batches_are_the_maps(tmp_path: Path, map_dtype: str, whole: bool) -> None:
    data = write_pictures(tmp_path / "data", 6, size=(40, 60))
    write_pictures(data / "tall", 5, size=(64, 40))
    (data / "broken.png").write_bytes(b"")
    run(
        data, classifier(whole=whole), tmp_path / "run", ["GradCAM", "LayerCAM"], "top:2", ["norm1", "norm2"],
        map_dtype=map_dtype, workers=0, batch_size=2, shard_rows=4,
    )  # fmt: skip
    found = load(tmp_path / "run").sort("id", descending=True)
    batches = read_in_batches(found, "LayerCAM", 3)
    assert len(batches) == 11
    assert found.row(found.ids.index("broken.png"))["error"] is not None
    assert found.ids.index("broken.png") not in batches
    for row, maps in batches.items():
        for layer, each in zip(("norm1", "norm2"), maps, strict=True):
            assert torch.equal(each, found.map(row, "LayerCAM", layer))


def test_the_share_at_the_border_is_that_of_the_finished_map(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    maps = blobs(random.uniform(0, 6, (9, 2)))
    rows = rows_of(write_run(tmp_path, [0] * 9, [0] * 9, maps=maps))
    found = measure_maps(rows, "GradCAM").border
    for row in range(9):
        drawn = rows.run.finished(row)[0].double()
        expected = 1 - drawn[8:-8, 8:-8].sum() / drawn.sum()
        # 32 pixels a side in place of 64: the same to what interpolation changes at the edges.
        assert_close(torch.tensor(found[row]), expected, rtol=0, atol=0.02)


def test_uniform_maps_have_the_uniform_share() -> None:
    """Of a map that is one everywhere but for one zero, since a constant map has no range."""
    from camkit.report.maps import BORDER, SIDE

    flat = np.ones((SIDE, SIDE))
    assert 1 - flat[BORDER:-BORDER, BORDER:-BORDER].sum() / flat.sum() == UNIFORM


def test_empty_maps_count_nowhere(tmp_path: Path) -> None:
    maps = blobs(np.full((4, 2), 3.0))
    maps[1] = -1
    rows = rows_of(write_run(tmp_path, [0] * 4, [0] * 4, maps=maps))
    found = measure_maps(rows, "GradCAM")
    assert found.there.tolist() == [True, False, True, True]
    assert_close(found.mean(np.arange(4)), found.mean(np.array([0])))
    assert found.mean(np.array([1])) is None
    assert found.mean_border(np.array([1])) is None


def planted(groups: list[tuple[int, tuple[float, float]]], tmp_path: Path, spread: float = 0.3) -> Rows:
    """One class per group: so many maps with their bumps around a place."""
    random = np.random.default_rng(1)
    centres = np.concatenate([random.normal(place, spread, (count, 2)) for count, place in groups])
    label = [number for number, (count, _) in enumerate(groups) for _ in range(count)]
    return rows_of(write_run(tmp_path, label, label, maps=blobs(centres), shard_rows=50))


def test_clusters_are_the_planted_ones(tmp_path: Path) -> None:
    rows = planted([(30, (0.0, 0.0)), (25, (6.0, 5.0)), (25, (0.0, 6.0))], tmp_path)
    found = find_clusters(measure_maps(rows, "GradCAM"), np.arange(80))
    assert sorted(tuple(sorted(each.rows.tolist())) for each in found) == [
        tuple(range(30)),
        tuple(range(30, 55)),
        tuple(range(55, 80)),
    ]
    for each in found:
        assert set(each.typical) <= set(each.rows)


def test_few_maps_are_not_clustered(tmp_path: Path) -> None:
    maps = measure_maps(planted([(FEWEST - 1, CENTRE)], tmp_path), "GradCAM")
    assert find_clusters(maps, np.arange(FEWEST - 1)) == []


def test_maps_that_are_all_the_same_make_clusters_without_fault(tmp_path: Path) -> None:
    maps = measure_maps(planted([(40, CENTRE)], tmp_path, spread=0), "GradCAM")
    found = find_clusters(maps, np.arange(40))
    assert sum(len(each.rows) for each in found) == 40


def test_the_eigengap_counts_the_parts_of_a_graph() -> None:
    block = np.ones((12, 12)) - np.eye(12)
    for parts in (1, 2, 5):
        assert count_clusters(np.kron(np.eye(parts), block)) == parts


def findings_of(rows: Rows, maps: MapNumbers) -> list[tuple[str, int | None]]:
    classes = by_class(rows)
    clusters = {each.category: find_clusters(maps, each.rows) for each in classes}
    return [(each.kind, each.category) for each in find(maps, classes, clusters, [], None)]


def test_a_class_that_is_told_by_its_border_stands_out(tmp_path: Path) -> None:
    rows = planted([(30, CENTRE), (30, (0.0, 0.5)), (30, CENTRE)], tmp_path)
    assert findings_of(rows, measure_maps(rows, "GradCAM")) == [("border", 1)]


def test_part_of_a_class_that_is_told_by_its_border_stands_out(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    centres = random.normal(3, 0.3, (90, 2))
    centres[:6] = random.normal(0, 0.3, (6, 2))
    centres[6:12] = random.normal((0, 6), 0.3, (6, 2))
    centres[30:42] = random.normal((6, 6), 0.2, (12, 2))
    label = [0] * 30 + [1] * 30 + [2] * 30
    rows = rows_of(write_run(tmp_path, label, label, maps=blobs(centres)))
    found = findings_of(rows, measure_maps(rows, "GradCAM"))
    assert ("cluster", 1) in found or ("border", 1) in found


def test_where_nothing_is_planted_nothing_stands_out(tmp_path: Path) -> None:
    rows = planted([(40, CENTRE)] * 3, tmp_path, spread=1.0)
    assert findings_of(rows, measure_maps(rows, "GradCAM")) == []
