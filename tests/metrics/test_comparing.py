"""Methods beside controls: what is compared, what is said of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import camkit
from camkit.errors import UsageError
from camkit.metrics import CONTROLS, METRICS, Comparison, Values, compare
from camkit.metrics.collecting import joined, reordered
from camkit.metrics.comparison import Item
from camkit.metrics.plotting import plot
from tests.helpers.networks import SmallCNN, seeded

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(3))
MODEL = seeded(SmallCNN(), 11)
METRIC = "Deletion"


def made(ours: list[float], control: list[float], *, name: str = METRIC) -> Comparison:
    """A comparison of a method with random maps."""
    values = {
        method: Values(torch.tensor(each, dtype=torch.float64), {"all": torch.tensor([each, each]).T.double()})
        for method, each in (("GradCAM", ours), ("Random", control))
    }
    items = [Item(str(number), 0) for number in range(len(ours))]
    return Comparison({name: values}, {name: items}, ["Random"])


def test_controls_stand_beside_the_methods() -> None:
    found = compare(METRIC, ["GradCAM", "LayerCAM"], IMAGES, MODEL, 3)
    assert found.methods == ["GradCAM", "LayerCAM"]
    assert list(found.values[METRIC]) == ["GradCAM", "LayerCAM", "RandomCAM", *CONTROLS]
    assert found.items[METRIC] == [Item("0", 3), Item("1", 3), Item("2", 3)]


def test_maps_and_names_of_methods_give_the_same() -> None:
    named = compare(METRIC, ["GradCAM"], IMAGES, MODEL, 3, seed=2)
    mapped = compare(METRIC, camkit.explain(MODEL, IMAGES, "GradCAM", 3), IMAGES, MODEL, seed=2)
    for method, values in named.values[METRIC].items():
        assert values.values.equal(mapped.values[METRIC][method].values), method
    assert named.items == mapped.items


def test_randomcam_stands_beside_maps_where_there_is_a_network_and_a_layer() -> None:
    explained = camkit.explain(MODEL, IMAGES, "GradCAM", 3, ["norm1"])
    found = compare(METRIC, {"mine": explained["GradCAM"]}, IMAGES, MODEL)
    assert found.controls == ("RandomCAM", *CONTROLS)
    assert found.items[METRIC][0].target == 3
    bare = compare(METRIC, {"mine": explained["GradCAM"].maps}, IMAGES, MODEL, 3)
    assert bare.controls == CONTROLS
    asked = compare(METRIC, {"mine": explained["GradCAM"].maps}, IMAGES, MODEL, 3, ["norm1"], controls=["RandomCAM"])
    assert asked.values[METRIC]["RandomCAM"].values.equal(found.values[METRIC]["RandomCAM"].values)


def test_a_cam_s_output_is_the_one_that_named_methods_explain() -> None:
    def reversed_scores(output: Tensor) -> Tensor:
        return output.flip(1)

    cam = camkit.GradCAM(MODEL, ["norm2"], output=reversed_scores)
    found = compare(METRIC, "GradCAM", IMAGES, cam, 3, ["norm2"], controls=["Random"])
    alone = compare(METRIC, {"GradCAM": cam(IMAGES, 3)}, IMAGES, cam, 3, controls=["Random"])
    assert found.values[METRIC]["GradCAM"].values.equal(alone.values[METRIC]["GradCAM"].values)


def test_randomcam_is_a_control_where_methods_are_named() -> None:
    found = compare(METRIC, "GradCAM", IMAGES, MODEL, controls=("RandomCAM", "Random"))
    assert (found.methods, list(found.controls)) == (["GradCAM"], ["RandomCAM", "Random"])
    both = compare(METRIC, ["GradCAM", "RandomCAM"], IMAGES, MODEL, controls=("Random",))
    assert both.methods == ["GradCAM", "RandomCAM"]


def test_several_targets_of_an_image_count_as_one_image() -> None:
    found = compare(METRIC, "GradCAM", IMAGES, MODEL, [[0, 1]] * 3, ids=["a", "b", "c"])
    assert found.items[METRIC][:3] == [Item("a", 0), Item("a", 1), Item("b", 0)]
    summary = found.summary(METRIC, "GradCAM")
    assert summary.count == 3
    assert summary.mean == pytest.approx(float(found.values[METRIC]["GradCAM"].values.mean()))


def test_a_method_that_differs_is_said_to_and_how() -> None:
    assert METRICS[METRIC].better == "lower"
    ours, control = [0.1 + 0.01 * number for number in range(8)], [0.5] * 8
    assert made(ours, control).verdict(METRIC, "GradCAM") == "better than Random (p = 0.0078)"
    assert made(control, ours).verdict(METRIC, "GradCAM") == "worse than Random (p = 0.0078)"


def test_a_method_that_is_like_the_control_is_not_distinguishable_from_random() -> None:
    found = made([0.1, 0.9, 0.2, 0.8, 0.3, 0.7], [0.9, 0.1, 0.8, 0.2, 0.7, 0.3])
    assert found.verdict(METRIC, "GradCAM") == "not distinguishable from random, p = 1"
    assert found.verdicts() == ["Deletion: GradCAM is not distinguishable from random, p = 1"]


@pytest.mark.parametrize(("count", "said"), [(1, "1 image is"), (5, "5 images are")])
def test_too_few_images_tell_nothing_and_that_is_said(count: int, said: str) -> None:
    found = made([0.0] * count, [1.0] * count)
    assert found.verdict(METRIC, "GradCAM") == f"{said} too few to tell it from the controls"


def test_json_holds_everything_and_reads_back() -> None:
    found = compare([METRIC], ["GradCAM"], IMAGES, MODEL, 3, ids=["a", "b", "c"])
    told = json.loads(found.to_json())
    assert told == json.loads(json.dumps(found.to_dict()))
    assert (told["format"], told["version"]) == ("camkit metrics", 1)
    metric = told["metrics"][METRIC]
    assert (metric["images"], metric["targets"], metric["better"]) == (["a", "b", "c"], [3, 3, 3], "lower")
    ours = metric["methods"]["GradCAM"]
    assert ours["mean"] == pytest.approx(sum(ours["values"]) / 3)
    assert ours["low"] <= ours["mean"] <= ours["high"]
    assert set(ours["p"]) == {"RandomCAM", *CONTROLS}
    curve = next(iter(ours["curves"].values()))
    assert len(curve["steps"]) == len(curve["mean"]) == len(curve["low"]) == len(curve["high"])
    assert "p" not in metric["methods"]["Random"]


def test_the_plot_has_a_panel_for_each_metric() -> None:
    one = plot(made([0.1, 0.2], [0.3, 0.4]))
    two = plot(Comparison({**made([0.1], [0.2]).values, "Average drop": made([0.1], [0.2]).values[METRIC]},
                          {METRIC: [Item("a", 0)], "Average drop": [Item("a", 0)]}, ["Random"]))  # fmt: skip
    assert one.ndim == 3
    assert two.shape[1] > 1.8 * one.shape[1]
    assert len({tuple(pixel) for pixel in one.reshape(-1, 3).tolist()}) > 50


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"methods": {}}, "no method to compare"),
        ({"controls": ["Rondom"]}, "no control 'Rondom'; there are: RandomCAM, Random, Gaussian, Edges"),
        ({"methods": {"Edges": torch.zeros(3, 32, 32)}}, "'Edges' is the name of a control"),
        ({"model": None}, "can't be computed without a model"),
        ({"model": None, "methods": {"mine": torch.zeros(3, 32, 32)}, "controls": ["RandomCAM"]}, "without a model"),
        ({"ids": ["a"]}, "3 images have 1 ids"),
        ({"images": torch.zeros(3, 3, 32)}, "images must be normalised floats"),
        ({"methods": {"mine": torch.zeros(3, 16, 16)}}, "resize=True"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    usual = {"metrics": METRIC, "methods": ["GradCAM"], "images": IMAGES, "model": MODEL}
    with pytest.raises(UsageError, match=message):
        compare(**usual | arguments)


def test_a_curve_that_doesn_t_exist_is_refused() -> None:
    with pytest.raises(UsageError, match="Deletion has no curve 'none'; it has: all"):
        made([1.0], [1.0]).band(METRIC, "GradCAM", "none")


def test_batches_of_several_sizes_are_one_at_the_same_steps() -> None:
    """A straight line stays one, at the steps of the longest curve."""
    short, long = torch.linspace(0, 1, 3, dtype=torch.float64), torch.linspace(0, 1, 7, dtype=torch.float64)
    parts = [
        Values(torch.tensor([float(number)]), {"line": 2 * steps[None]}, steps, notes={0: f"of {number}"})
        for number, steps in enumerate((short, long))
    ]
    found = joined(parts)
    assert found.values.tolist() == [0, 1]
    assert found.notes == {0: "of 0", 1: "of 1"}
    torch.testing.assert_close(found.curves["line"], (2 * long).expand(2, 7))
    turned = reordered(found, [1, 0])
    assert turned.values.tolist() == [1, 0]
    assert turned.notes == {1: "of 0", 0: "of 1"}


def test_the_table_s_file_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(made([1.0], [2.0]).to_json())
    assert json.loads((tmp_path / "a.json").read_text())["methods"] == ["GradCAM"]
