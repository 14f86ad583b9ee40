"""Runs: the same rows whatever the way, on which map they agree with one image's, and how they go on."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

import camkit
from camkit.datasets import load, run
from camkit.datasets.manifest import VERSION
from camkit.errors import CamkitError, UsageError
from tests.datasets.pictures import (
    assert_same_rows,
    classifier,
    rows_of,
    squeezed,
    write_broken,
    write_classes,
    write_pictures,
)
from tests.helpers.networks import AnySizeViT, SmallViT, seeded


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "data", 11)


def test_a_map_is_what_one_image_gives(data: Path, tmp_path: Path) -> None:
    net = classifier()
    run(data, net, tmp_path / "run", ["GradCAM", "LayerCAM"], batch_size=1, workers=0)
    found = load(tmp_path / "run")
    for name in found.ids:
        inputs = net.prepare(data / name).inputs
        for method, alone in camkit.explain(net.model, inputs, ["GradCAM", "LayerCAM"]).items():
            (layer,) = alone.layers
            assert torch.equal(found.map(name, method), alone.raw[layer][0])
            assert torch.equal(found.finished(name, method), alone.maps[0])
        row = found.row(name)
        assert row["classes"] == alone.targets[0].tolist() == [row["predicted"]]
        assert_close(torch.tensor(row["score"]), alone.logits[0].softmax(0).max())
        assert_close(torch.tensor(row["logit"]), alone.scores[0, 0])
        assert (row["height"], row["width"], row["input_height"], row["input_width"]) == (40, 60, 32, 32)
        assert (row["box_left"], row["box_top"], row["box_right"], row["box_bottom"]) == (0, 0, 60, 40)


@pytest.mark.parametrize(
    "way",
    [{"batch_size": 4}, {"workers": 2}, {"shuffle": 5}, {"shard_rows": 3}, {"workers": 1, "batch_size": 1}],
    ids=str,
)
def test_rows_depend_on_no_order_batch_or_worker(data: Path, tmp_path: Path, way: dict[str, int]) -> None:
    run(data, classifier(), tmp_path / "plain", workers=0)
    run(data, classifier(), tmp_path / "other", **{"workers": 0, **way})
    assert_same_rows(tmp_path / "other", tmp_path / "plain")


def test_images_of_many_sizes_are_kept_with_their_shapes(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for number in range(12):
        write_pictures(data / str(number), 1, (24 + 4 * (number % 3), 24 + 4 * (number % 4)))
    net = classifier(whole=True, model=seeded(AnySizeViT()))
    run(data, net, tmp_path / "run", batch_size=2, workers=0)
    found = load(tmp_path / "run")
    assert found.manifest.columns[0].is_ragged
    for name in found.ids:
        alone = camkit.GradCAM(net.model).explain(net.prepare(data / name).inputs)
        assert_close(found.map(name), next(iter(alone.raw.values()))[0], rtol=1e-4, atol=1e-6)
    with pytest.raises(UsageError, match="several sizes"):
        found.maps()
    row = next(iter(rows_of(found).values()))
    column = found.manifest.columns[0].name
    assert len(row[column]) == row[f"{column}.shape"][0] * row[f"{column}.shape"][1]


def test_targets(tmp_path: Path) -> None:
    data, net = write_classes(tmp_path / "data"), classifier()

    def explained(target: object) -> dict[str, list[int]]:
        out = tmp_path / str(target)
        run(data, net, out, target=target, workers=0)
        assert load(out).map(0).shape[0] == len(load(out).row(0)["classes"])
        return {name: row["classes"] for name, row in rows_of(out).items()}

    rows = rows_of(tmp_path / "predicted") if explained("predicted") else {}
    top = {name: row["predicted"] for name, row in rows.items()}
    label = {name: row["label"] for name, row in rows.items()}
    assert set(label.values()) == {0, 2}
    assert explained("label") == {name: [label[name]] for name in rows}
    assert explained("both") == {name: [top[name], label[name]] for name in rows}
    assert explained(["cup", 0]) == {name: [3, 0] for name in rows}
    for name, classes in explained("top:3").items():
        assert classes[0] == top[name]
        assert len(set(classes)) == 3
        inputs = net.prepare(data / name).inputs
        assert classes == net.model(inputs)[0].argsort(descending=True)[:3].tolist()


def test_methods_that_find_concepts_say_their_classes(data: Path, tmp_path: Path) -> None:
    run(data, classifier(), tmp_path / "run", ["DFF", "GradCAM"], workers=0, num_concepts=3)
    found = load(tmp_path / "run")
    assert found.map(0, "DFF").shape[0] == 3
    row = found.row(0)
    assert len(row["DFF.classes"]) == len(row["DFF.logits"]) == 3
    assert len(row["classes"]) == 1


def test_concepts_are_each_image_s_own(data: Path, tmp_path: Path) -> None:
    """Whatever images are in the batch, and in whatever order."""
    for name, way in (("alone", {"batch_size": 1}), ("batch", {"batch_size": 8, "shuffle": 3})):
        run(data, classifier(), tmp_path / name, ["DFF", "GradCAM"], workers=0, num_concepts=2, **way)
    assert_same_rows(tmp_path / "batch", tmp_path / "alone")
    run(data, classifier(), tmp_path / "dff", "DFF", workers=0, num_concepts=2)
    assert torch.equal(load(tmp_path / "dff").map("003.png"), load(tmp_path / "alone").map("003.png", "DFF"))


def test_smoothing_and_autocast(data: Path, tmp_path: Path) -> None:
    net = classifier()
    run(data, net, tmp_path / "aug", aug_smooth=True, eigen_smooth=True, workers=0)
    run(data, net, tmp_path / "half", autocast="bf16", workers=0)
    run(data, net, tmp_path / "plain", workers=0)
    inputs = net.prepare(data / "000.png").inputs
    (alone,) = camkit.explain(net.model, inputs, "GradCAM", eigen_smooth=True, aug_smooth=True).values()
    assert_close(load(tmp_path / "aug").map("000.png"), alone.raw["norm2"][0], rtol=1e-4, atol=1e-6)
    half, plain = (load(tmp_path / name).map("000.png") for name in ("half", "plain"))
    assert not torch.equal(half, plain)
    assert_close(half, plain, rtol=0, atol=0.1 * float(plain.abs().max()))


def test_half_precision_maps_keep_what_is_small(data: Path, tmp_path: Path) -> None:
    net = classifier()
    with torch.no_grad():
        net.model.head.weight *= 1e-7
    for kind in ("float32", "float16"):
        run(data, net, tmp_path / kind, map_dtype=kind, workers=0)
    exact, short = (load(tmp_path / kind).maps() for kind in ("float32", "float16"))
    assert 0 < exact.abs().max() < 1e-6
    top = exact.abs().amax((2, 3), keepdim=True)
    assert ((short - exact).abs() <= top / 2048).all()
    sizes = [load(tmp_path / kind).nbytes for kind in ("float32", "float16")]
    assert sizes[1] < sizes[0]


def test_goes_on_where_it_stopped(data: Path, tmp_path: Path) -> None:
    run(data, classifier(), tmp_path / "whole", workers=0)
    out = tmp_path / "run"
    assert run(data, classifier(), out, workers=0, limit=4).new == 4
    shards = {path.name: path.read_bytes() for path in (out / "shards").iterdir()}
    summary = run(data, classifier(), out, workers=0)
    assert (summary.new, summary.done, summary.total) == (7, 11, 11)
    assert {path.name: path.read_bytes() for path in (out / "shards").iterdir()}.items() >= shards.items()
    assert_same_rows(out, tmp_path / "whole")
    assert run(data, classifier(), out, workers=0).new == 0


def test_a_folder_that_grew_is_finished(data: Path, tmp_path: Path) -> None:
    run(data, classifier(), tmp_path / "run", workers=0)
    write_pictures(data / "more", 3)
    summary = run(data, classifier(), tmp_path / "run", workers=0)
    assert (summary.new, summary.done) == (3, 14)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"methods": "LayerCAM"}, "methods GradCAM, now LayerCAM"),
        ({"methods": "ScoreCAM", "top_k": 2}, r"methods GradCAM, now ScoreCAM\(top_k=2"),
        ({"target": "top:2"}, "target predicted, now top:2"),
        ({"target_layers": "norm1"}, "target layers default, now norm1"),
        ({"aug_smooth": True}, "smoothing none, now aug"),
        ({"autocast": "bf16"}, "precision as loaded, now bf16"),
        ({"map_dtype": "float16"}, "map dtype float32, now float16"),
        ({"model": classifier(12)}, "checkpoint .*, now "),
        ({"model": classifier(whole=True)}, "preprocessing makes float32 3x32x32, now float32 3x375x500"),
        ({"model": replace(classifier(), activation="sigmoid")}, "activation softmax, now sigmoid"),
        ({"model": replace(classifier(), classes=tuple("abcde"))}, "classes .*, now "),
    ],
)
def test_other_settings_are_told_apart(data: Path, tmp_path: Path, other: dict[str, object], said: str) -> None:
    run(data, classifier(), tmp_path / "run", workers=0, limit=2)
    with pytest.raises(CamkitError, match=said):
        run(**{"data": data, "model": classifier(), "out": tmp_path / "run", "workers": 0, **other})
    assert len(load(tmp_path / "run")) == 2


class Brighter:
    """A transform whose text says nothing of its parameter."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, image: Image.Image) -> torch.Tensor:
        return squeezed(image) * self.factor


def brighter(image: Image.Image, factor: float) -> torch.Tensor:
    return squeezed(image) * factor


@pytest.mark.parametrize("made", [Brighter, lambda factor: partial(brighter, factor=factor)])
def test_parameters_of_a_transform_are_told_apart(data: Path, tmp_path: Path, made: Any) -> None:
    net, out = classifier().model, tmp_path / "run"
    run(data, net, out, transform=made(1.0), workers=0, limit=2)
    assert run(data, net, out, transform=made(1.0), workers=0, limit=3).new == 1
    with pytest.raises(CamkitError, match=r"settings: preprocessing makes black and white otherwise, by .* levels;"):
        run(data, net, out, transform=made(0.9999), workers=0)


def test_another_version_of_camkit_or_other_data_are_told_apart(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(data, classifier(), tmp_path / "run", workers=0)
    with pytest.raises(CamkitError, match="data .*, now "):
        run(write_pictures(tmp_path / "others", 3), classifier(), tmp_path / "run", workers=0)
    monkeypatch.setattr(camkit, "__version__", "99.0")
    with pytest.raises(CamkitError, match=r"camkit 0\..*, now 99.0"):
        run(data, classifier(), tmp_path / "run", workers=0)


def test_default_layers_are_chosen_once(data: Path, tmp_path: Path) -> None:
    """A later call takes the layers of the manifest, whatever image it meets first."""
    out = tmp_path / "run"
    run(data, classifier(), out, workers=0, limit=2)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["layers"] == {"GradCAM": ["norm2"]}
    manifest["layers"] = {"GradCAM": ["norm1"]}
    for column in manifest["maps"]:
        column.update(name="GradCAM/norm1", layer="norm1")
    (out / "manifest.json").write_text(json.dumps(manifest))
    for shard in (out / "shards").iterdir():
        shard.unlink()
    run(data, classifier(), out, workers=0)
    alone = camkit.GradCAM(classifier().model, ["norm1"]).explain(classifier().prepare(data / "010.png").inputs)
    assert_close(load(out).map("010.png"), alone.raw["norm1"][0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_among_good(tmp_path: Path, workers: int) -> None:
    expected = write_broken(tmp_path / "data")
    net = classifier()
    summary = run(tmp_path / "data", net, tmp_path / "run", workers=workers)
    rows = rows_of(tmp_path / "run")
    assert rows.keys() == expected.keys()
    assert summary.failed == sum(map(bool, expected.values()))
    for name, said in expected.items():
        assert (rows[name]["error"] is not None) == bool(said), rows[name]["error"]
        if said:
            assert said in rows[name]["error"]
            assert "\n" not in rows[name]["error"]
            assert all(map(math.isnan, rows[name]["GradCAM/norm2"]))
        else:
            alone = camkit.GradCAM(net.model).explain(net.prepare(tmp_path / "data" / name).inputs)
            assert_close(load(tmp_path / "run").map(name), alone.raw["norm2"][0], rtol=1e-4, atol=1e-6)


def test_failed_images_are_tried_again_when_asked(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", 5)
    good = (data / "002.png").read_bytes()
    (data / "002.png").write_bytes(b"")
    out = tmp_path / "run"
    assert run(data, classifier(), out, workers=0, shard_rows=2).failed == 1
    (data / "002.png").write_bytes(good)
    assert run(data, classifier(), out, workers=0).new == 0
    summary = run(data, classifier(), out, workers=0, retry_failed=True)
    assert (summary.new, summary.failed, summary.done) == (1, 0, 5)
    run(data, classifier(), tmp_path / "whole", workers=0)
    assert_same_rows(out, tmp_path / "whole")


def test_failed_images_beyond_the_limit_stay(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", 5)
    for name in ("001.png", "003.png"):
        (data / name).write_bytes(b"")
    run(data, classifier(), tmp_path / "run", workers=0)
    assert run(data, classifier(), tmp_path / "run", workers=0, retry_failed=True, limit=2).new == 1
    assert sorted(load(tmp_path / "run").filter(errors=True).ids) == ["001.png", "003.png"]


def test_labels_and_paths_that_changed_are_told(tmp_path: Path) -> None:
    write_pictures(tmp_path, 4)
    data, out = tmp_path / "list.csv", tmp_path / "run"

    def listed(first: str, label: int, broken: str = "broken.png") -> None:
        data.write_text(f"path,label,id\n{first},0,a\n001.png,{label},b\n{broken},2,c\n003.png,,d\n")

    (tmp_path / "broken.png").write_bytes(b"")
    listed("000.png", 1)
    run(data, classifier(), out, workers=0)
    for changed, said in (
        (("000.png", 4), r"labels of 1 images differ from the run's in .* \(b\): take another --out"),
        (("002.png", 1), r"paths of 1 images differ from the run's in .* \(a\): take another --out"),
        (("000.png", 1, "002.png"), r"paths of 1 images .* \(c\)"),
    ):
        listed(*changed)
        with pytest.raises(CamkitError, match=said):
            run(data, classifier(), out, workers=0)
    assert run(data, classifier(), out, workers=0, retry_failed=True).failed == 0


class Picky(torch.nn.Module):
    """Fails on a batch that holds a dark picture, and returns NaN for a bright one."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = seeded(SmallViT(size=(32, 32)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if (images.flatten(1).mean(1) < -1.5).any():
            raise ValueError("too dark")
        logits: torch.Tensor = self.inner(images)
        return torch.where((images.flatten(1).mean(1) > 1.5)[:, None], torch.nan, logits)


def test_an_image_that_the_network_fails_on_spoils_no_other(data: Path, tmp_path: Path) -> None:
    Image.new("RGB", (60, 40), "black").save(data / "005-dark.png")
    Image.new("RGB", (60, 40), "white").save(data / "005-bright.png")
    run(data, classifier(model=Picky()), tmp_path / "run", workers=0)
    errors = {row["id"]: row["error"] for row in rows_of(tmp_path / "run").values() if row["error"]}
    assert errors.keys() == {"005-dark.png", "005-bright.png"}
    assert "too dark" in errors["005-dark.png"]
    assert "NaN" in errors["005-bright.png"]


@pytest.mark.parametrize("colour", ["black", "white"])
def test_a_run_may_begin_with_images_that_the_network_fails_on(data: Path, tmp_path: Path, colour: str) -> None:
    for number in range(4):
        Image.new("RGB", (60, 40), colour).save(data / f"000-{number}.png")
    summary = run(data, classifier(model=Picky()), tmp_path / "run", workers=0)
    assert (summary.done, summary.failed) == (15, 4)
    for path in data.glob("0[01][0-9].png"):
        path.unlink()
    with pytest.raises(CamkitError, match="none of the first 4 images of .* can be explained: 000-0.png: .*(dark|NaN)"):
        run(data, classifier(model=Picky()), tmp_path / "none", workers=0)


class TwoOutputs(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = seeded(SmallViT(size=(32, 32)))

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        logits: torch.Tensor = self.inner(images)
        return {"animal": logits, "colour": logits[:, :3] * 2}


def test_a_run_says_which_of_several_outputs_it_explains(data: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    for new in (11, 0):
        summary = run(data, classifier(model=TwoOutputs()), tmp_path / "run", workers=0, say=lines.append)
        assert summary.new == new
        assert list(summary.notes) == lines == [lines[0]]
        assert "explaining 'animal'; take another with output=: 'colour'" in lines.pop()


def test_your_own_module_with_its_transform(data: Path, tmp_path: Path) -> None:
    net = classifier()
    run(data, net.model, tmp_path / "own", transform=squeezed, classes=net.classes, workers=0)
    run(data, net, tmp_path / "run", workers=0)
    assert_same_rows(tmp_path / "own", tmp_path / "run")
    with pytest.raises(UsageError, match="needs transform="):
        run(data, net.model, tmp_path / "none")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"data": "missing"}, "no folder or list missing"),
        ({"target": "nonsense"}, "no class 'nonsense'.*predicted, label, both, top:K"),
        ({"target": "top:0"}, "whole number of at least 1"),
        ({"target": "top:9"}, "has 5 classes"),
        ({"target": 7}, r"category 7 is outside 0\.\.4"),
        ({"target": ["label", "cup"]}, "together"),
        ({"target": ["cup", 3]}, "twice"),
        ({"target": "label"}, "11 of 11 images have none"),
        ({"batch_size": 0}, "batch_size is a whole number"),
        ({"workers": -1}, "workers is a number"),
        ({"methods": "GradCan"}, "closest: GradCAM"),
        ({"target_layers": "norm9"}, "closest: norm"),
        ({"engine": "dask"}, "engine is 'local' or 'ray'"),
        ({"autocast": "int8"}, "autocast takes bf16 or fp16"),
        ({"top_k": 3}, "top_k"),
    ],
)
def test_bad_input_leaves_nothing_behind(data: Path, tmp_path: Path, arguments: dict[str, object], said: str) -> None:
    given = {"data": data, "model": classifier(), "out": tmp_path / "run", "workers": 0, **arguments}
    with pytest.raises(UsageError, match=said):
        run(**given)
    assert not list(tmp_path.glob("run/shards/*"))
    assert not (tmp_path / "run" / "manifest.json").exists()


def test_a_folder_that_holds_something_else_is_left_alone(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "photos"
    write_pictures(out, 2)
    with pytest.raises(CamkitError, match="holds something else .*000.png"):
        run(data, classifier(), out, workers=0)
    (out / "manifest.json").write_text('{"name": "my app"}')
    with pytest.raises(CamkitError, match="isn't a run's"):
        run(data, classifier(), out, workers=0)
    with pytest.raises(CamkitError, match="can't"):
        run(data, classifier(), data / "000.png", workers=0)
    assert sorted(path.name for path in out.iterdir()) == ["000.png", "001.png", "manifest.json"]


def test_a_newer_run_is_not_touched(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(data, classifier(), out, workers=0, limit=1)
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps(manifest | {"version": VERSION + 1}))
    for call in (lambda: run(data, classifier(), out, workers=0), lambda: load(out)):
        with pytest.raises(CamkitError, match="written by a newer camkit"):
            call()


@pytest.mark.parametrize(
    "damage",
    [
        {"fingerprint": 3},
        {"fingerprint": {}},
        {"fingerprint": {"methods": {}}},
        {"about": None},
        {"layers": []},
        {"layers": {"GradCAM": None}},
        {"layers": {}},
        {"maps": {}},
        {"maps": [{}]},
        {"maps": [3]},
        {"boxes": None},
        {"boxes": {"kind": "whole", "side": "x", "input_size": 3}},
        {"class_count": "5"},
        {"classes": 5},
    ],
    ids=str,
)
def test_a_damaged_manifest_is_one_line(data: Path, tmp_path: Path, damage: dict[str, Any], made: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    manifest = json.loads((made / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps(manifest | damage))
    for call in (lambda: run(data, classifier(), out, workers=0), lambda: load(out)):
        with pytest.raises(CamkitError, match=r"manifest.json is damaged \(.+\): take another --out"):
            call()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one image."""
    place = tmp_path_factory.mktemp("made")
    run(write_pictures(place / "data", 1), classifier(), place / "run", workers=0)
    return place / "run"


def test_a_new_run_that_fails_before_its_first_shard_leaves_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where Ray lacks CPUs; one that has rows stays."""

    def fail(*given: Any, **named: Any) -> Any:
        yield from ()
        raise CamkitError("Ray has 1 CPUs")

    out = tmp_path / "run"
    with monkeypatch.context() as changed:
        changed.setattr("camkit.datasets.running.explain_locally", fail)
        with pytest.raises(CamkitError, match="Ray has 1 CPUs"):
            run(data, classifier(), out, workers=0)
    assert not out.exists()
    run(data, classifier(), out, workers=0, limit=2)
    monkeypatch.setattr("camkit.datasets.running.explain_locally", fail)
    with pytest.raises(CamkitError, match="Ray has 1 CPUs"):
        run(data, classifier(), out, workers=0)
    assert len(load(out)) == 2


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with pytest.raises(UsageError, match="no images in"):
        run(data, classifier(), tmp_path / "run", workers=0)
    (data / "a.png").write_bytes(b"")
    (data / "b.png").write_bytes(b"x")
    with pytest.raises(CamkitError, match="none of the 2 images of .* can be read: .*a.png is an empty file"):
        run(data, classifier(), tmp_path / "run", workers=0)


def test_storage_by_address(tmp_path: Path) -> None:
    """As s3:// goes, by fsspec, from an address to an address."""
    fsspec = pytest.importorskip("fsspec")
    data = write_pictures(tmp_path / "data", 4)
    memory = fsspec.filesystem("memory")
    for path in data.iterdir():
        memory.pipe_file(f"/camkit-data/{path.name}", path.read_bytes())
    run(data, classifier(), tmp_path / "run", workers=0)
    run("memory://camkit-data", classifier(), "memory://camkit-run", workers=0, limit=2)
    assert run("memory://camkit-data", classifier(), "memory://camkit-run", workers=0).new == 2
    assert_same_rows(load("memory://camkit-run"), tmp_path / "run")
    assert load("memory://camkit-run").picture("001.png").shape == (32, 32, 3)
    memory.rm("/camkit-run", recursive=True)
    memory.rm("/camkit-data", recursive=True)


def rounding_otherwise(image: Image.Image) -> torch.Tensor:
    """As another release might: pixels of what is resized are a grey level off, and the last digits others."""
    levels = torch.from_numpy(np.array(image.resize((32, 32), Image.Resampling.BILINEAR)).astype(int)).permute(2, 0, 1)
    if (levels.amax((1, 2)) > levels.amin((1, 2))).any():
        levels = (levels + torch.arange(levels.numel()).reshape(levels.shape) % 3 - 1).clamp(0, 255)
    return (levels / 255 - 0.5) * (1 + 1e-7) / 0.25


def test_a_resize_that_rounds_otherwise_goes_on(data: Path, tmp_path: Path) -> None:
    net, out = classifier().model, tmp_path / "run"
    run(data, net, out, transform=squeezed, workers=0, limit=2)
    assert run(data, net, out, transform=rounding_otherwise, workers=0, limit=3).new == 1
    with pytest.raises(CamkitError, match=r"preprocessing makes images of noise otherwise, by \d+ grey levels;"):
        run(data, net, out, transform=lambda image: squeezed(image.crop((1, 0, *image.size))), workers=0)


def test_a_run_of_the_first_version_goes_on(data: Path, tmp_path: Path) -> None:
    """Its manifest has a digest of the preprocessing, and the output as it was given."""
    net, out = classifier(model=TwoOutputs()), tmp_path / "run"
    run(data, net, out, output="animal", workers=0, limit=2)
    manifest = json.loads((out / "manifest.json").read_text())
    told = manifest["fingerprint"]
    told["preprocessing"] = told["preprocessing"]["digest"]
    (out / "manifest.json").write_text(json.dumps(manifest | {"version": 1}))
    assert run(data, net, out, output="animal", workers=0, limit=3).new == 1
    with pytest.raises(CamkitError, match=r"preprocessing \w{16}, now \w{16};"):
        run(data, classifier(whole=True, model=TwoOutputs()), out, output="animal", workers=0)


class Pair(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = seeded(SmallViT(size=(32, 32)))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits: torch.Tensor = self.inner(images)
        return logits, logits.flip(1)


def second(output: Any, which: int = 1) -> Any:
    return output[which]


def test_the_same_settings_in_other_words_go_on(data: Path, tmp_path: Path) -> None:
    """As the command line gives them, as text, and as the library may."""
    words = [
        {"output": "1", "target": "3", "num_extra_tokens": 1, "top_k": 2, "target_layers": "inner.layers.0"},
        {"output": 1, "target": 3, "target_layers": ["inner.layers.0"]},
        {"output": 1, "target": np.int64(3), "target_layers": ("inner.layers.0",), "methods": "scorecam"},
        {"output": "1", "target": ["3"], "target_layers": ["inner.layers.0"], "methods": ["Score-CAM"]},
    ]
    usual = {"methods": "ScoreCAM", "num_extra_tokens": 1, "top_k": 2, "workers": 0}
    for limit, each in enumerate(words, 1):
        given = usual | each
        assert run(data, classifier(model=Pair()), tmp_path / "run", **given, limit=limit).new == 1
    for other in ({"output": "0"}, {"output": 0}, {"output": None}, {"output": second}):
        with pytest.raises(CamkitError, match="output 1, now"):
            run(data, classifier(model=Pair()), tmp_path / "run", **(usual | words[0] | other))


def test_a_function_that_picks_the_output_goes_on(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for limit in (1, 2):  # a partial function's text has an address
        picked = partial(second, which=1)
        assert run(data, classifier(model=Pair()), out, output=picked, workers=0, limit=limit).new == 1
    with pytest.raises(CamkitError, match="output .*which=1.*, now .*which=0"):
        run(data, classifier(model=Pair()), out, output=partial(second, which=0), workers=0)


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("there", ["", "a", "a/b", "a/b/run", "a/b/run/lock"])
def test_a_refused_run_leaves_what_was_there(data: Path, tmp_path: Path, there: str) -> None:
    place = tmp_path / "place"
    (place / there).parent.mkdir(parents=True, exist_ok=True)
    (place / there).touch() if there.endswith("lock") else (place / there).mkdir(exist_ok=True)
    before = listing(place)
    for out in (place / "a" / "b" / "run", f"local://{place}/a/b/run"):
        for wrong in ({"target": 7}, {"target": "label"}, {"target_layers": "norm9"}):
            with pytest.raises(CamkitError, match=r"."):
                run(data, classifier(), out, workers=0, **wrong)
            if isinstance(out, Path):
                assert listing(place) == before
            assert not [path for path in (place / "a" / "b" / "run").glob("*") if path.name not in there]
    run(data, classifier(), place / "a" / "b" / "run", workers=0, limit=1)
    assert "a/b/run/manifest.json" in listing(place)
