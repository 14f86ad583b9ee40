"""What users pass to metrics: in which forms, and what is said of what doesn't fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import camkit
from camkit.errors import UsageError
from camkit.metrics import METRICS, find_metric, measure, measure_methods
from camkit.models.classifier import Classifier
from tests.helpers.refusals import refusal
from tests.metrics.subjects import TARGETS, heats, network, pictures

MODEL, IMAGES, MAPS = network(), pictures(), heats()


def drops(maps: Any, targets: Any = TARGETS, model: Any = MODEL, **how: Any) -> Tensor:
    return measure("Average drop", maps, IMAGES, model, targets, **how)["Average drop"].values


EXPECTED = drops(MAPS)


@pytest.mark.parametrize(
    "maps",
    [MAPS.numpy(), MAPS.numpy()[:, ::-1][:, ::-1], MAPS[:, None], list(MAPS), MAPS.clone().requires_grad_()],
    ids=["array", "strides", "targets", "list", "graph"],
)
def test_maps_come_in_many_forms(maps: Any) -> None:
    assert_close(drops(maps), EXPECTED)


def test_an_explanation_knows_its_targets() -> None:
    explanation = camkit.EigenCAM(MODEL, ["conv2"]).explain(IMAGES, [[0, 3], [2, 1]])
    found = drops(explanation, None)
    assert_close(found, drops(explanation.maps, [[0, 3], [2, 1]]))
    assert found.shape == (4,)
    assert not torch.allclose(found, drops(explanation, [[1, 1], [1, 1]]))


def test_targets_come_in_many_forms() -> None:
    assert_close(drops(MAPS, torch.tensor(TARGETS)), EXPECTED)
    assert_close(drops(MAPS, np.array(TARGETS)), EXPECTED)
    assert_close(drops(MAPS, [[each] for each in TARGETS]), EXPECTED)
    assert_close(drops(MAPS, 2), drops(MAPS, [2, 2]))
    with torch.no_grad():
        assert_close(drops(MAPS, None), drops(MAPS, MODEL(IMAGES).argmax(1)))


def test_the_top_class_is_decided_on_the_image_as_it_is() -> None:
    found = measure("Deletion", MAPS, IMAGES, MODEL, batch_size=1)["Deletion"].curves["probability"]
    with torch.no_grad():
        assert_close(found[:, 0], MODEL(IMAGES).softmax(1).amax(1))


def test_sigmoid_heads() -> None:
    with torch.no_grad():
        chances = [MODEL(each).sigmoid()[[0, 1], TARGETS] for each in (IMAGES, IMAGES * MAPS[:, None])]
    expected = (chances[0] - chances[1]).relu() / chances[0]
    assert_close(drops(MAPS, probability="sigmoid"), expected)
    classifier = Classifier(MODEL, None, "sigmoid", "here", None, None, torch.device("cpu"), unprepared)
    assert_close(drops(MAPS, model=classifier), expected)
    assert_close(drops(MAPS, model=classifier, probability="softmax"), EXPECTED)


def unprepared(image: str) -> Any:
    raise NotImplementedError


def test_models_that_return_probabilities() -> None:
    assert_close(drops(MAPS, model=nn.Sequential(MODEL, nn.Softmax(1)), probability="none"), EXPECTED)


def test_a_classifier_s_output() -> None:
    half = Classifier(
        MODEL, None, "softmax", "here", None, None, torch.device("cpu"), unprepared, output=lambda logits: logits / 2
    )
    with torch.no_grad():
        chances = [(MODEL(each) / 2).softmax(1)[[0, 1], TARGETS] for each in (IMAGES, IMAGES * MAPS[:, None])]
    assert_close(drops(MAPS, model=half), (chances[0] - chances[1]).relu() / chances[0])


def test_maps_are_resized_where_that_is_asked_for() -> None:
    small = torch.rand(2, 5, 4, generator=torch.Generator().manual_seed(0)).double()
    resized = nn.functional.interpolate(small[:, None], (14, 12), mode="bilinear")[:, 0]
    assert_close(drops(small, resize=True), drops(resized))
    line = refusal(drops, UsageError, small)
    assert line == "the maps are 5 x 4, the images 14 x 12: pass resize=True to resize the maps bilinearly"


def test_several_methods_share_their_passes_and_keep_their_values() -> None:
    maps = {"one": MAPS, "other": MAPS.flip(1), "third": MAPS.flip(2)}
    names = ["Deletion", "ROADCombined", "ADCC"]
    cams: dict[str, Any] = dict.fromkeys(maps, camkit.EigenCAM(MODEL, ["conv2"]))
    found = measure_methods(names, maps, IMAGES, MODEL, TARGETS, explain=cams)
    for method, heat in maps.items():
        alone = measure(names, heat, IMAGES, MODEL, TARGETS, explain=cams[method])
        for name in names:
            assert_close(found[method][name].values, alone[name].values)
            assert_close(found[method][name].ties, alone[name].ties)


def test_options_go_to_those_that_have_them() -> None:
    found = measure(["Deletion", "ROAD MoRF"], MAPS, IMAGES, MODEL, TARGETS, pixels_per_step=50, percentages=(30,))
    assert found["Deletion"].options == {"pixels_per_step": 50, "baseline": "zeros", "area": "steps"}
    assert found["ROAD MoRF"].options == {"percentages": (30,), "noise": 0.01}
    assert found["ROAD MoRF"].name == "ROAD MoRF"
    configured = METRICS["Deletion"].configured(pixels_per_step=50)
    assert_close(measure(configured, MAPS, IMAGES, MODEL, TARGETS)["Deletion"].values, found["Deletion"].values)


@pytest.mark.parametrize("spelt", ["average drop", "AverageDrop", "average-drop", "average_drop"])
def test_names_in_any_spelling(spelt: str) -> None:
    assert find_metric(spelt) is METRICS["Average drop"]


def broken(place: tuple[int, ...], value: float) -> Tensor:
    maps = MAPS.clone()
    maps[place] = value
    return maps


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "metric": ({"metrics": "Deletoin"}, "no metric 'Deletoin'; closest: Deletion"),
    "twice": ({"metrics": ["Deletion", "deletion"]}, "name every metric once"),
    "none": ({"metrics": []}, "name every metric once, at least one; got none"),
    "option": ({"steps": 3}, "no metric has the option 'steps'"),
    "value": ({"pixels_per_step": 0}, "the option pixels_per_step of Deletion takes a whole number of at least 1"),
    "NaN": ({"maps": broken((1, 0, 0), float("nan"))}, "the maps of image 1 hold NaN or infinity"),
    "infinity": ({"maps": broken((0, 2, 2), float("inf"))}, "the maps of image 0 hold NaN or infinity"),
    "negative": (
        {"metrics": "Average drop", "maps": broken((0, 0, 0), -0.5)},
        "Average drop takes maps in [0, 1], the maps go from -0.5 to",
    ),
    "above one": (
        {"metrics": ["Average drop", "Average gain"], "maps": 200 * MAPS},
        "Average drop, Average gain take maps in [0, 1]",
    ),
    "one map": ({"maps": MAPS[0]}, "the maps must be (B, H, W) or (B, T, H, W), got (14, 12): add the batch dimension"),
    "volumes": ({"maps": MAPS[None, None]}, "got (1, 1, 2, 14, 12)"),
    "empty": ({"maps": MAPS[:0]}, "got (0, 14, 12)"),
    "words": ({"maps": "GradCAM"}, "or an Explanation; got str"),
    "lists": ({"maps": [MAPS[0], MAPS[0, :5]]}, "the maps have several sizes"),
    "count": ({"maps": MAPS[:1]}, "1 maps for 2 images"),
    "no model": ({"model": None}, "Deletion needs model: pass model="),
    "no images": ({"images": None}, "Deletion needs images: pass images="),
    "nothing": ({"images": None, "model": None}, "Deletion needs images and model: pass images=, model="),
    "no explainer": ({"metrics": "ADCC"}, "ADCC needs explain: pass explain="),
    "explainer": ({"metrics": "ADCC", "explain": "GradCAM"}, "explain is a CAM, or a function of (images, targets)"),
    "model": ({"model": "resnet50"}, "the model must be a torch.nn.Module, got str"),
    "images": ({"images": IMAGES.numpy()}, "images must be normalised floats (B, C, H, W), got ndarray"),
    "uint8": ({"images": IMAGES.byte()}, "images must be normalised floats (B, C, H, W), got (2, 3, 14, 12)"),
    "NaN in images": ({"images": IMAGES / 0 * 0}, "the images hold NaN or infinity"),
    "target": ({"targets": [3, 5]}, "category 5 is outside 0..4"),
    "negative target": ({"targets": -1}, "category -1 is outside 0..4"),
    "targets": ({"targets": [3, 1, 2]}, "3 targets for 2 images"),
    "rows": ({"targets": [[3, 1], [2, 0]]}, "2 targets per image for 1 map per image"),
    "score function": ({"targets": camkit.Logit(3)}, "targets are class indices"),
    "many maps": ({"maps": MAPS[:, None].expand(2, 2, 14, 12), "targets": None}, "pass targets, a list of 2 classes"),
    "probability": ({"probability": "logistic"}, "probability is one of softmax, sigmoid, none, or None"),
    "batch size": ({"batch_size": 0}, "batch_size is a number of images, at least 1"),
    "seed": ({"seed": -1}, "seed is a whole number from 0 on; got -1"),
    "regions": ({"regions": torch.ones(2, 3, 3)}, "regions must be (2, 14, 12), a mask per image"),
    "empty region": ({"regions": torch.zeros(2, 14, 12)}, "the region of image 0, 1 is empty"),
    "weights": ({"regions": torch.full((2, 14, 12), 0.5)}, "regions must be True or 1 inside"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_a_line(case: str) -> None:
    changes, expected = REFUSED[case]
    given = {"metrics": "Deletion", "maps": MAPS, "images": IMAGES, "model": MODEL, "targets": TARGETS} | changes
    assert expected in refusal(measure, UsageError, **given)


def test_a_single_score_has_no_softmax() -> None:
    single = nn.Sequential(MODEL, nn.Linear(5, 1).double())
    assert "pass probability='sigmoid'" in refusal(measure, UsageError, "Deletion", MAPS, IMAGES, single, 0)
    assert measure("Deletion", MAPS, IMAGES, single, 0, probability="sigmoid")["Deletion"].values.isfinite().all()


def test_an_explainer_that_returns_something_else() -> None:
    how = {"explain": lambda images, targets: MAPS[:1]}
    line = refusal(measure, UsageError, "ADCC", MAPS, IMAGES, MODEL, TARGETS, **how)
    assert line == "explain must return maps (2, 14, 12) of 2 images, got (1, 1, 14, 12)"


def test_methods_belong_together() -> None:
    line = refusal(measure_methods, UsageError, "Deletion", {"a": MAPS, "b": MAPS[:1]}, IMAGES, MODEL, TARGETS)
    assert "all methods need maps of the same images and targets" in line
    line = refusal(
        measure_methods,
        UsageError,
        "ADCC",
        {"a": MAPS, "b": MAPS},
        IMAGES,
        MODEL,
        TARGETS,
        explain={"a": camkit.EigenCAM(MODEL)},
    )
    assert line == "explain has nothing for b; it has a"
    assert refusal(measure_methods, UsageError, "Deletion", {}, IMAGES, MODEL, TARGETS) == "there are no maps"
    explained = {str(t): camkit.GradCAM(MODEL, ["conv2"]).explain(IMAGES, t) for t in (0, 1)}
    line = refusal(measure_methods, UsageError, "Deletion", explained, IMAGES, MODEL)
    assert line == "the methods explain different classes: pass targets"


def test_maps_of_score_functions_need_classes() -> None:
    explanation = camkit.GradCAM(MODEL, ["conv2"]).explain(IMAGES, camkit.Probability(1))
    assert "pass targets" in refusal(measure, UsageError, "Deletion", explanation, IMAGES, MODEL)
    assert measure("Deletion", explanation, IMAGES, MODEL, 1)["Deletion"].values.isfinite().all()


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if "explainer" in metric.needs])
def test_images_stay_as_they_are_whatever_explains_them_writes_to(name: str) -> None:
    def explain(images: Tensor, targets: Tensor) -> Tensor:
        return images.mul_(0.5).mean(1).abs()

    class Writing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, images: Tensor) -> Tensor:
            scores: Tensor = self.inner(images.mul_(0.5))
            return scores

    images = IMAGES.clone()
    measure(name, MAPS, images, Writing(), TARGETS, explain=explain)
    assert images.equal(IMAGES)
