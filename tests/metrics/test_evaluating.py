"""Data sets and runs, evaluated: the same values as image by image, whatever the batch, and what fails is counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.testing import assert_close

pytest.importorskip("pyarrow")

import camkit
from camkit.datasets import run
from camkit.datasets.counting import Progress
from camkit.errors import CamkitError, UsageError
from camkit.metrics import compare, evaluating, measure, measure_methods
from camkit.metrics.evaluator import Evaluation
from camkit.models.classifier import Classifier
from tests.datasets.pictures import classifier, write_classes, write_pictures

METHODS = ["GradCAM", "LayerCAM"]
METRICS = ["Deletion", "Average drop"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Class folders: 3 images of one class, 4 of another."""
    return write_classes(tmp_path / "data", 3)


def evaluate(
    data: Path | None, network: Classifier | None = None, methods: Any = METHODS, metrics: Any = METRICS, **how: Any
) -> Evaluation:
    how = {"workers": 0} | how
    return evaluating.evaluate(data, network or classifier(), methods, metrics, **how)


def test_values_are_those_of_the_images_one_by_one(data: Path) -> None:
    found = evaluate(data).comparison
    network = classifier()
    for number, path in enumerate(sorted(data.rglob("*.png"))):
        inputs = network.prepare(path).inputs
        alone = compare(METRICS, METHODS, inputs, network, controls=("RandomCAM", "Random", "Gaussian", "Edges"))
        for metric in METRICS:
            assert found.items[metric][number].image == path.relative_to(data).as_posix()
            assert found.items[metric][number].target == alone.items[metric][0].target
            for method, values in alone.values[metric].items():
                assert_close(found.values[metric][method].values[number], values.values[0], rtol=1e-4, atol=1e-6)


def test_batches_change_nothing(data: Path) -> None:
    many, one = evaluate(data).comparison, evaluate(data, batch_size=1).comparison
    for metric in METRICS:
        assert many.items[metric] == one.items[metric]
        for method, values in many.values[metric].items():
            assert_close(values.values, one.values[metric][method].values, rtol=1e-4, atol=1e-6)


def test_images_of_several_sizes_are_measured_in_the_order_of_the_data_set(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", 2, (32, 48))
    write_pictures(data / "other", 3, (40, 32))
    found = evaluate(data, classifier(whole=True)).comparison
    names = ["000.png", "001.png", "other/000.png", "other/001.png", "other/002.png"]
    assert [item.image for item in found.items["Deletion"]] == names
    band = found.band("Deletion", "GradCAM", next(iter(found.values["Deletion"]["GradCAM"].curves)))
    assert len(band.mean) == len(band.steps)
    alone = evaluate(data / "other", classifier(whole=True)).comparison
    assert_close(found.values["Deletion"]["Random"].values[2:], alone.values["Deletion"]["Random"].values)


def test_broken_images_are_counted_and_the_first_three_named(data: Path) -> None:
    for number in range(5):
        (data / "espresso" / f"broken{number}.png").write_bytes(b"" if number else b"no picture")
    found = evaluate(data)
    assert (found.images, found.failed, len(found.failures)) == (7, 5, 3)
    assert found.failures[0].startswith("espresso/broken0.png: can't read")


class Picky(nn.Module):
    """A network that refuses images whose first pixel is dark."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = classifier().model

    def forward(self, images: Tensor) -> Tensor:
        if (images.flatten(1).mean(1) < -1.9).any():
            raise RuntimeError("too dark")
        made: Tensor = self.inner(images)
        return made


def test_an_image_that_the_network_fails_on_costs_no_other(data: Path) -> None:
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(data / "espresso" / "black.png")
    # Average drop darkens nothing: times the map, images become grey.
    found = evaluate(data, classifier(model=Picky().eval()), metrics="Average drop")
    assert (found.images, found.failed) == (7, 1)
    assert "espresso/black.png: " in found.failures[0]
    assert "too dark" in found.failures[0]


def test_nothing_that_can_be_measured_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"")
    with pytest.raises(CamkitError, match="none of the 1 images of .*: broken.png: .* is an empty file"):
        evaluate(tmp_path)


def test_one_image_is_data_too(data: Path) -> None:
    found = evaluate(data / "espresso" / "000.png")
    assert found.images == 1
    assert found.comparison.items["Deletion"][0].image == "000.png"
    assert found.comparison.summary("Deletion", "GradCAM").low is None


def test_a_run_s_maps_are_read_and_not_made_again(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (data / "espresso" / "broken.png").write_bytes(b"")
    run(data, classifier(), tmp_path / "run", METHODS, target="top:2", workers=0)
    fresh = evaluate(data, target="top:2").comparison
    monkeypatch.setattr("camkit.datasets.explaining.Explainer.explain", None)
    read = evaluate(None, methods=None, run=tmp_path / "run")
    assert (read.images, read.failed) == (7, 1)
    assert read.comparison.methods == METHODS
    for metric in METRICS:
        assert read.comparison.items[metric] == fresh.items[metric]
        assert len(read.comparison.items[metric]) == 14
        for method, values in fresh.values[metric].items():
            assert_close(read.comparison.values[metric][method].values, values.values, rtol=1e-4, atol=1e-6)


def test_what_explains_again_uses_the_run_s_settings(data: Path, tmp_path: Path) -> None:
    """A map that is made again of the image itself is the one that the run has."""
    how = {"eigen_smooth": True, "target_layers": "norm1"}
    run(data, classifier(), tmp_path / "run", METHODS, workers=0, **how)
    rows = camkit.datasets.load(tmp_path / "run")
    from camkit.metrics.explained import FromRun

    maps = FromRun(rows, classifier(), METHODS, with_random=True)
    inputs = classifier().prepare(data / rows.ids[0]).inputs
    for name in METHODS:
        again = maps.explainers()[name](inputs, torch.tensor(rows.row(0)["classes"]))
        assert_close(again, rows.finished(0, name), rtol=1e-4, atol=1e-4)


def test_a_run_of_another_network_is_refused(data: Path, tmp_path: Path) -> None:
    run(data, classifier(), tmp_path / "run", workers=0)
    with pytest.raises(CamkitError, match="was made with another checkpoint than cnn has now"):
        evaluate(None, classifier(12), None, run=tmp_path / "run")
    with pytest.raises(CamkitError, match="was made with another network and checkpoint than"):
        evaluate(None, classifier(model=Picky().eval()), None, run=tmp_path / "run")
    with pytest.raises(UsageError, match="has no maps of LayerCAM; it has GradCAM"):
        evaluate(None, methods="LayerCAM", run=tmp_path / "run")
    with pytest.raises(UsageError, match="no maps of mosaics"):
        evaluate(None, methods=None, metrics=None, run=tmp_path / "run", mosaic=2)


def test_boxes_give_regions_and_images_without_are_left_out_of_those_metrics_alone(data: Path, tmp_path: Path) -> None:
    boxes = tmp_path / "boxes.csv"
    lines = ["path,left,top,right,bottom", "espresso/000.png,0,0,30,40", "espresso/001.png,99,0,120,40"]
    boxes.write_text("\n".join(lines))
    metrics = ["Average drop", "Energy pointing game"]
    comparison = evaluate(data, metrics=metrics, boxes=boxes).comparison
    assert len(comparison.items["Average drop"]) == 7
    assert [item.image for item in comparison.items["Energy pointing game"]] == ["espresso/000.png"]
    assert any("1 image whose boxes lie outside the image: espresso/001.png" in line for line in comparison.notes)
    assert any("5 images without boxes or masks" in line for line in comparison.notes)
    # The box is the left half of the image, and so of the network's input.
    maps = camkit.explain(classifier().model, classifier().prepare(data / "espresso" / "000.png").inputs, "GradCAM")
    heat = maps["GradCAM"].maps[0, 0].double()
    half = float(heat[:, :16].sum() / heat.sum())
    assert float(comparison.values["Energy pointing game"]["GradCAM"].values[0]) == pytest.approx(half)


def test_of_several_targets_those_with_an_object_of_their_class_are_measured(data: Path, tmp_path: Path) -> None:
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("path,left,top,right,bottom,label\nespresso/000.png,0,0,30,40,cup\n")
    found = evaluate(data, metrics="Pointing game", boxes=boxes, target=["cup", "tabby cat"]).comparison
    assert found.items["Pointing game"] == [("espresso/000.png", 3)]
    assert "7 images without an object" not in "".join(found.notes)


def test_labels_are_explained_where_they_are_asked_for(data: Path) -> None:
    items = evaluate(data, metrics="Average drop", target="label").comparison.items["Average drop"]
    assert {(item.image.partition("/")[0], item.target) for item in items} == {("espresso", 2), ("tabby cat", 0)}


def test_a_run_is_no_data_and_that_is_said(data: Path, tmp_path: Path) -> None:
    run(data, classifier(), tmp_path / "run", workers=0)
    with pytest.raises(UsageError, match="is a run: measure its maps with --run"):
        evaluate(tmp_path / "run")


def test_boxes_of_images_without_any_region_are_an_error(data: Path, tmp_path: Path) -> None:
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("path,left,top,right,bottom\nespresso/000.png,99,0,120,40\n")
    with pytest.raises(CamkitError, match="none of the 7 images has a region: "):
        evaluate(data, metrics="Pointing game", boxes=boxes)
    both = evaluate(data, metrics=["Pointing game", "Average drop"], boxes=boxes).comparison
    assert both.metrics == ["Average drop"]
    assert both.notes[-1] == "Pointing game: no image has a region"


def two_sided(network: Classifier) -> Classifier:
    """A classifier by the mean of colours, sure of four classes."""

    class Colours(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
            weights = torch.zeros(4, 3, 3, 3)
            for number, colour in enumerate(((1, -1, -1), (-1, 1, -1), (-1, -1, 1), (1, 1, -1))):
                weights[number, :, 1, 1] = torch.tensor(colour, dtype=torch.float32)
            self.features[0].weight.data = weights
            self.features[0].bias.data.zero_()

        def forward(self, images: Tensor) -> Tensor:
            made: Tensor = 9 * self.features(images).mean((2, 3))
            return made

    return replace(network, model=Colours().eval(), classes=None)


def write_colours(folder: Path) -> Path:
    """A picture of each of its classes, and a grey one."""
    folder.mkdir()
    colours = {"r": (255, 0, 0), "g": (0, 255, 0), "b": (0, 0, 255), "y": (255, 255, 0), "grey": (127, 127, 127)}
    for name, colour in colours.items():
        Image.fromarray(np.full((40, 60, 3), colour, np.uint8)).save(folder / f"{name}.png")
    return folder


def test_mosaics_are_made_of_images_of_distinct_classes(tmp_path: Path) -> None:
    write_colours(tmp_path / "data")
    said: list[str] = []
    network = two_sided(classifier())
    found = evaluate(tmp_path / "data", network, "GradCAM", None, mosaic=2, target_layers="features", say=said.append)
    assert found.comparison.metrics == ["GridPG", "Pointing game"]
    assert found.images == 1
    assert sorted(found.comparison.items["GridPG"][0].image.split(" + ")) == ["b.png", "g.png", "r.png", "y.png"]
    assert said == ["left out of mosaics: 1 image without a class of a probability of 0.5 or more"]
    # Each colour lights its own cell, and yellow those of red and green too, at their strength.
    grid = found.comparison.values["GridPG"]
    assert float(grid["GradCAM"].values.mean()) > 0.6
    assert float(grid["Gaussian"].values.mean()) == pytest.approx(0.25, abs=1e-6)
    with pytest.raises(UsageError, match="needs images of 9 classes"):
        evaluate(tmp_path / "data", network, "GradCAM", None, mosaic=3, target_layers="features")


def test_progress_ends_at_the_end(data: Path) -> None:
    seen: list[Progress] = []
    evaluate(data, progress=seen.append)
    assert (seen[-1].done, seen[-1].total, seen[-1].failed) == (7, 7, 0)
    assert [each.done for each in seen] == sorted(each.done for each in seen)
    assert any(each.done % 1 for each in seen), "also within a batch"


def test_maps_and_images_are_not_kept(data: Path) -> None:
    values = evaluate(data).comparison.values["Deletion"]["GradCAM"]
    held = [values.values, *values.curves.values()]
    assert all(each.ndim <= 2 and len(each) == 7 for each in held)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"metrics": "Deletio"}, "no metric 'Deletio'; closest: Deletion"),
        ({"metrics": ["Deletion", "deletion"]}, "name every metric once"),
        ({"methods": "GradCAN"}, "no method 'GradCAN'"),
        ({"methods": "DFF"}, "DFF finds concepts of its own"),
        ({"methods": ["Random"]}, "no method 'Random'"),
        ({"metrics": "Pointing game"}, "Pointing game needs boxes or masks: pass --boxes FILE, or --mosaic 2"),
        ({"boxes": "x.csv"}, "none of the metrics reads boxes"),
        ({"boxes": "x.csv", "mosaic": 2}, "mosaics have regions of their own"),
        ({"metrics": None, "mosaic": 1}, "n at least 2"),
        ({"controls": ["Rand"]}, "no control 'Rand'"),
        ({"metric_options": {"pixels": 3}}, "no metric has the option 'pixels'"),
        ({"target": "label", "data": "flat"}, "needs labels, and no image has one"),
        ({"limit": 0}, "limit is a whole number of at least 1"),
        ({"data": None}, "name an image, a folder or a list, or a run"),
        ({"data": "nothing"}, "no folder or list"),
        ({"target_layers": "nowhere"}, "nowhere"),
    ],
)
def test_bad_arguments_are_refused(how: dict[str, Any], message: str, data: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path / "flat", 2)
    where = how.pop("data", "data")
    with pytest.raises(UsageError, match=message):
        evaluate(None if where is None else tmp_path / where, **how)


def test_random_states_keep_their_course(data: Path) -> None:
    network = classifier()
    before = torch.get_rng_state()
    evaluate(data, network, workers=1)
    assert torch.get_rng_state().equal(before)


def test_rows_of_a_run_are_maps(data: Path, tmp_path: Path) -> None:
    run(data, classifier(), tmp_path / "run", METHODS, target="top:2", workers=0)
    network = classifier()
    rows = camkit.datasets.load(tmp_path / "run").take([1, 4])
    images = torch.cat([network.prepare(data / name).inputs for name in rows.ids])
    made = camkit.explain(network.model, images, METHODS, [rows.row(row)["classes"] for row in range(2)])
    expected = measure_methods("Average drop", made, images, network)
    found = measure_methods("Average drop", rows, images, network)
    assert list(found) == METHODS
    for name in METHODS:
        assert_close(found[name]["Average drop"].values, expected[name]["Average drop"].values, rtol=1e-4, atol=1e-6)
    one = measure_methods("Average drop", {"LayerCAM": rows}, images, network)["LayerCAM"]["Average drop"]
    assert one.values.equal(found["LayerCAM"]["Average drop"].values)
    beside = compare("Average drop", rows, images, network)
    assert (beside.methods, beside.items["Average drop"][0].target) == (METHODS, rows.row(0)["classes"][0])
    with pytest.raises(UsageError, match="several methods: GradCAM, LayerCAM; measure_methods takes them all"):
        measure("Average drop", rows, images, network)


def test_rows_of_a_run_with_one_method_are_maps_alone(data: Path, tmp_path: Path) -> None:
    (data / "espresso" / "broken.png").write_bytes(b"")
    run(data, classifier(), tmp_path / "run", "EigenCAM", workers=0)
    rows = camkit.datasets.load(tmp_path / "run")
    with pytest.raises(CamkitError, match="broken.png has no maps"):
        measure("Sparseness", rows)
    assert measure("Sparseness", rows.filter(errors=False))["Sparseness"].values.shape == (7,)
    with pytest.raises(UsageError, match="no such rows"):
        measure("Sparseness", rows.take([]))


def test_a_mosaic_that_fails_is_named_by_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> None:
        raise CamkitError("too large")

    monkeypatch.setattr("camkit.metrics.explained.FromNetwork.of_targets", failing)
    data = write_colours(tmp_path / "data")
    with pytest.raises(CamkitError, match=r": ([rgby]\.png \+ ){3}[rgby]\.png: too large$"):
        evaluate(data, two_sided(classifier()), "GradCAM", None, mosaic=2, target_layers="features")
