"""Browsing a run: its rows chosen and sorted, its maps as the run kept them, images that have moved."""

from __future__ import annotations

import io
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from camkit.cli.main import main
from camkit.datasets import load, run
from camkit.explore.album import Album
from camkit.explore.explorer import Explorer
from camkit.explore.kept import Kept, Rows
from camkit.visualize.save import load_raw
from tests.datasets.pictures import classifier, write_pictures
from tests.explore.serving import Client, live, served
from tests.explore.test_server import file, floats


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A run of six pictures, one of them broken, with two methods and the two highest classes."""
    data = write_pictures(tmp_path / "data", 6)
    (data / "004.png").write_bytes(b"no picture")
    out = tmp_path / "run"
    run(data, classifier(), out, ["GradCAM", "EigenCAM"], "top:2", workers=0)
    return out


def explorer(out: Path, images: Path | None = None) -> Explorer:
    """The run, and the network beside it."""
    rows = Rows(load(out), images)
    album = Album(rows)
    return Explorer("run", album, {"run": Kept(rows, album), "a": live(album)}, columns=("id", "score"))


@pytest.fixture
def page(made: Path) -> Iterator[Client]:
    with served(explorer(made)) as client:
        yield client


def ids(page: Client, query: str) -> list[str]:
    """Which images are listed."""
    return [each["name"] for each in page.get(f"/api/images?{query}").told["images"]]


def test_rows_are_chosen_sorted_and_paged(page: Client, made: Path) -> None:
    rows = load(made)
    assert ids(page, "") == rows.ids
    by_score = rows.sort("score", descending=True).ids
    assert ids(page, "sort=score&descending=true") == by_score
    assert ids(page, "sort=score&descending=true&offset=2&limit=2") == by_score[2:4]
    middle = float(np.median([each for each in rows.table["score"].to_pylist() if each is not None]))
    assert ids(page, f"where=score+%3E+{middle}") == rows.filter(f"score > {middle}").ids
    assert page.get("/api/images?where=import+os").told["error"].startswith("can't read the condition")
    assert "there is no column 'scor'" in page.get("/api/images?where=scor+%3E+1").told["error"]
    assert "can't sort by" in page.get("/api/images?sort=nothing").told["error"]


def test_a_row_without_maps_says_why(page: Client) -> None:
    entry = page.get("/api/images?where=id+==+'004.png'").told["images"][0]
    assert "can't read" in entry["note"]
    assert "the run has no maps of it" in page.refusal("look", source="run", image=entry["id"])


def test_maps_are_those_that_the_run_kept(page: Client, made: Path) -> None:
    rows = load(made)
    about = rows.row("001.png")
    told = page.ask("look", source="run", image="given:001.png")
    assert [each["index"] for each in told["classes"]] == about["classes"]
    second = page.ask("map", source="run", image="given:001.png", category=about["classes"][1], signed=True)
    assert torch.equal(floats(second), rows.finished("001.png", "GradCAM")[1:2])
    assert second["grid"] == [16, 16]
    asked = {"source": "run", "image": "given:001.png", "category": about["classes"][0]}
    drawn = np.array(Image.open(io.BytesIO(file(page.ask("picture", **asked)))))
    assert np.array_equal(drawn, rows.picture("001.png", "GradCAM"))
    assert "didn't explain" in page.refusal("map", **{**asked, "category": about["classes"][0] + 1000})
    assert "takes the model" in page.refusal("place", **asked, x=0.5, y=0.5)


def test_the_model_explains_a_runs_images_anew(page: Client, made: Path) -> None:
    about = load(made).row("001.png")
    asked = {"image": "given:001.png", "category": about["classes"][0], "layers": ["norm2"]}
    torch.testing.assert_close(floats(page.ask("map", **asked)), floats(page.ask("map", **asked, source="run")))


def test_the_command_and_the_raw_map_are_the_runs(page: Client, made: Path, tmp_path: Path) -> None:
    about = load(made).row("001.png")
    asked = {"source": "run", "image": "given:001.png", "category": about["classes"][1], "method": "EigenCAM"}
    words = shlex.split(page.post("/api/command", asked).told["command"])
    assert words[:2] == ["camkit", "draw"]
    assert main([*words[1:], "--out", str(tmp_path / "drawn")]) == 0
    assert (tmp_path / "drawn" / "001.png").read_bytes() == file(page.ask("picture", **asked))
    (tmp_path / "raw.npz").write_bytes(file(page.ask("raw", **asked)))
    maps, told = load_raw(tmp_path / "raw.npz")
    assert np.array_equal(maps["EigenCAM/norm2"], load(made).map("001.png", "EigenCAM").numpy())
    assert told["id"] == "001.png"


def test_images_that_have_moved_are_found_or_left_out(made: Path, tmp_path: Path) -> None:
    rows = load(made)
    expected = rows.finished("001.png", "GradCAM")[:1]
    shutil.move(tmp_path / "data", tmp_path / "elsewhere")
    gone = explorer(made)
    assert "aren't there" in Rows(rows).lost()
    asked = {"source": "run", "image": "given:001.png"}
    with served(gone) as page:
        assert "--images" in page.ask("look", **asked)["note"]
        assert torch.equal(floats(page.ask("map", **asked)), expected)
        assert file(page.ask("picture", **asked)).startswith(b"\x89PNG")
        assert page.get("/api/small?id=given:001.png").status == 404
        assert "--images" in page.refusal("look", image="given:001.png")
    assert Rows(rows, tmp_path / "elsewhere").lost() == ""
    with served(explorer(made, tmp_path / "elsewhere")) as page:
        assert page.ask("look", **asked)["note"] == ""
        assert page.ask("look", image="given:001.png")["classes"]


def test_only_the_runs_images_are_served(page: Client, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "data" / "new.png")
    for name in ("new.png", "../data/001.png", str(tmp_path / "data" / "001.png")):
        assert page.get(f"/api/small?id=given:{name}").status == 404
