"""Reading a run: with camkit, and without."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from camkit.datasets import Run, load, run
from camkit.datasets.schema import COLUMNS
from camkit.errors import CamkitError, UsageError
from tests.datasets.pictures import classifier, squeezed, write_classes

pandas = pytest.importorskip("pandas")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("reading")
    data = write_classes(place / "data", 6)
    (data / "espresso" / "broken.png").write_bytes(b"")
    run(data, classifier(), place / "run", ["GradCAM", "EigenCAM"], workers=0, shard_rows=5)
    return place / "run"


@pytest.fixture
def found(out: Path) -> Run:
    return load(out)


def test_what_there_is(found: Run) -> None:
    assert len(found) == 14
    assert found.methods == ["GradCAM", "EigenCAM"]
    assert found.columns == [*COLUMNS, "GradCAM/norm2", "EigenCAM/norm2"]
    assert found.classes is not None
    assert "14 images" in repr(found)


def test_filters(found: Run) -> None:
    assert found.filter(errors=True).ids == ["espresso/broken.png"]
    good = found.filter(errors=False)
    assert len(good) == 13
    assert set(good.filter(label="espresso").table["label"].to_pylist()) == {2}
    top = good.row(0)["predicted"]
    assert all(row["predicted"] == top for row in good.filter(predicted=top).table.to_pylist())
    low, high = 0.2, 0.4
    inside = good.filter(score=(low, high)).table["score"].to_pylist()
    assert inside == [each for each in good.table["score"].to_pylist() if low <= each <= high]
    by_score = good.sort("score", descending=True).table["score"].to_pylist()
    assert by_score == sorted(by_score, reverse=True)
    assert good.sort("score").take([0]).ids == [good.ids[int(np.argmin(good.table["score"].to_numpy()))]]


@pytest.mark.parametrize(
    ("condition", "meaning"),
    [
        ("score < 0.5 and label != predicted", lambda r: r["score"] < 0.5 and r["label"] != r["predicted"]),
        ("label == 'Espresso'", lambda r: r["label"] == 2),
        ("label in ['espresso', 'cup'] or not score > 0.3", lambda r: r["label"] in (2, 3) or not r["score"] > 0.3),
        ("0.2 <= score < 0.4", lambda r: 0.2 <= r["score"] < 0.4),
        ("score - label_score > 0.1", lambda r: r["score"] - r["label_score"] > 0.1),
        ("logit > -1", lambda r: r["logit"] > -1),
        ("-logit < +1", lambda r: r["logit"] > -1),
        ("width / height > 1.4", lambda r: r["width"] / r["height"] > 1.4),
        ("height / width == 2 / 3 or 1 / 3 > 0.3", lambda r: True),
        ("width * 100000000 > 1", lambda r: True),
        ("-(width - height) + predicted == -20", lambda r: r["predicted"] == 0),
        ("label == +2", lambda r: r["label"] == 2),
        ("width == 60 and error == None", lambda r: r["width"] == 60),
        ("id == 'espresso/000.png'", lambda r: r["id"] == "espresso/000.png"),
    ],
)
def test_conditions(found: Run, condition: str, meaning: object) -> None:
    rows = [row for row in found.table.to_pylist() if row["error"] is None]
    assert found.filter(condition, errors=False).ids == [row["id"] for row in rows if meaning(row)]  # type: ignore[operator]


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("__import__('os').system('true')", "a condition has no"),
        ("score.real > 1", "a condition has no"),
        ("scor < 1", "closest: score"),
        ("score <", "can't read the condition"),
        ("score", "a condition has no 'score'"),
        ("(lambda: 1)() == 1", "a condition has no"),
        ("score < 'a'", "doesn't fit the columns"),
        ("-id == 1", "doesn't fit the columns"),
        ("label == 99999999999999999999", "can't read the condition"),
        ("label in [99999999999999999999]", "can't read the condition"),
        ("label == '99999999999999999999'", "can't read the condition"),
        ("label == 'dragon'", "no class 'dragon'"),
        ("[x for x in (1,)] == 1", "a condition has no"),
    ],
)
def test_conditions_run_no_code(found: Run, condition: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        found.filter(condition)


def test_pictures_need_to_know_where_the_network_looked(tmp_path: Path) -> None:
    data = write_classes(tmp_path / "data", 1)
    run(data, classifier().model, tmp_path / "run", transform=lambda image: squeezed(image.rotate(45)), workers=0)
    for original_size in (True, False):
        with pytest.raises(CamkitError, match="where the network looked in espresso/000.png isn't known"):
            load(tmp_path / "run").picture(0, original_size=original_size)


def test_maps_by_number_and_by_id(found: Run) -> None:
    shuffled = found.filter(errors=False).take([7, 2, 11])
    maps = shuffled.maps("GradCAM")
    assert maps.shape == (3, 1, 16, 16)
    assert maps.dtype == torch.float32
    for number, name in enumerate(shuffled.ids):
        assert torch.equal(maps[number], shuffled.map(number, "GradCAM"))
        assert torch.equal(maps[number], found.map(name, "gradcam", "norm2"))
    assert found.maps("GradCAM").isnan().flatten(1).any(1).sum() == 1


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda r: r.map(0), "has several methods; name one: GradCAM, EigenCAM"),
        (lambda r: r.map(0, "LayerCAM"), "has no maps of LayerCAM; it has GradCAM, EigenCAM"),
        (lambda r: r.map(0, "GradCAM", "norm1"), "no maps of 'norm1'.* it has norm2"),
        (lambda r: r.map(99, "GradCAM"), r"row 99 is outside 0\.\.13"),
        (lambda r: r.map("x.png", "GradCAM"), "no image 'x.png'"),
        (lambda r: r.sort("scor"), "closest: score"),
        (lambda r: r.to_arrow(["scor"]), "closest: score"),
        (lambda r: load("nowhere"), "no run in nowhere"),
    ],
)
def test_mistakes_are_answered(found: Run, call: object, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        call(found)  # type: ignore[operator]


def test_an_image_that_failed_says_why(found: Run) -> None:
    with pytest.raises(CamkitError, match="broken.png has no maps: .*is an empty file"):
        found.map("espresso/broken.png", "GradCAM")


def test_pictures_are_drawn_from_the_files(found: Run, out: Path) -> None:
    name = "tabby cat/003.png"
    small, whole = found.picture(name, "GradCAM"), found.picture(name, "GradCAM", original_size=True)
    assert small.shape == (32, 32, 3)
    assert whole.shape == (40, 60, 3)
    from camkit.visualize.overlay import overlay

    net = classifier()
    prepared = net.prepare(out.parent / "data" / name)
    expected = overlay(prepared.picture, found.finished(name, "GradCAM")[0])
    # Cut out and resized by OpenCV here, by Pillow there.
    assert np.abs(small.astype(int) - expected.astype(int)).mean() < 6


def test_an_image_that_changed_since_is_not_drawn(tmp_path: Path) -> None:
    data = write_classes(tmp_path / "data", 1)
    run(data, classifier(), tmp_path / "run", workers=0)
    from PIL import Image

    Image.new("RGB", (10, 10)).save(data / "espresso" / "000.png")
    (data / "tabby cat" / "000.png").unlink()
    found = load(tmp_path / "run")
    with pytest.raises(CamkitError, match="is 10 x 10 now, and was 60 x 40"):
        found.picture("espresso/000.png")
    with pytest.raises(CamkitError, match="no image"):
        found.picture("tabby cat/000.png")


def test_pandas(found: Run) -> None:
    frame = found.filter(errors=False).to_pandas()
    assert list(frame.columns) == list(COLUMNS)
    assert len(frame) == 13
    maps = found.filter(errors=False).to_pandas(["id", "GradCAM/norm2"])
    assert np.array_equal(maps["GradCAM/norm2"][0], found.map(maps["id"][0], "GradCAM").numpy().ravel())


def test_files_are_read_without_camkit(found: Run, out: Path) -> None:
    """By pyarrow and pandas; the schema says the maps' shape."""
    table = pq.read_table(out / "shards")
    kind = table.schema.field("GradCAM/norm2").type
    assert kind == pa.fixed_shape_tensor(pa.float32(), [16, 16], dim_names=["row", "column"])
    about = {key.decode(): value.decode() for key, value in table.schema.field("GradCAM/norm2").metadata.items()}
    assert (about["method"], about["layer"], about["shape"]) == ("GradCAM", "norm2", "[16, 16]")
    told = json.loads(table.schema.metadata[b"camkit.maps"])
    assert told["GradCAM/norm2"]["shape"] == [1, 16, 16]
    good = table.filter(pa.compute.is_null(table["error"]))
    maps = good["GradCAM/norm2"].combine_chunks()
    maps = maps.combine_chunks() if isinstance(maps, pa.ChunkedArray) else maps
    numbers = maps.to_numpy_ndarray()
    assert numbers.shape == (13, 16, 16)
    for name, each in zip(good["id"].to_pylist(), numbers, strict=True):
        assert np.array_equal(each, found.map(name, "GradCAM")[0].numpy())
    frame = pandas.read_parquet(out / "shards")
    assert sorted(frame["id"]) == sorted(found.ids)


def test_duckdb_reads_them(found: Run, out: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    asked = (
        f"""select id, "GradCAM/norm2" from '{out}/shards/*.parquet' where error is null and score > 0.2 order by id"""
    )
    rows = duckdb.sql(asked).fetchall()
    assert [name for name, _ in rows] == sorted(found.filter(errors=False, score=(0.2, 1)).ids)
    for name, numbers in rows:
        assert np.array_equal(np.array(numbers, np.float32), found.map(name, "GradCAM").numpy().ravel())


def test_maps_are_kept_as_streams_of_bytes_of_one_significance(out: Path) -> None:
    for shard in (out / "shards").iterdir():
        group = pq.ParquetFile(shard).metadata.row_group(0)
        columns = {group.column(n).path_in_schema: group.column(n) for n in range(group.num_columns)}
        maps = columns["GradCAM/norm2.list.element"]
        assert maps.compression == "ZSTD"
        assert "BYTE_STREAM_SPLIT" in maps.encodings
        assert not {"PLAIN_DICTIONARY", "RLE_DICTIONARY"} & set(maps.encodings)
