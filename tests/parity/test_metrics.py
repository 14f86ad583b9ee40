"""Metrics of torchcam 0.5.0 and grad-cam 1.5.7 where these are right, and where they and Quantus 0.6.0 are wrong."""

from __future__ import annotations

import math
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import camkit
from camkit.metrics import measure
from tests.metrics.subjects import TARGETS, heats, network, pictures

pytestmark = pytest.mark.peers
MODEL, IMAGES, RECTIFIED = network(), pictures(23, 17), heats(23, 17)
MAPS = torch.rand(2, 23, 17, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
"""Without ties."""


NUMPY = pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")
"""grad-cam compares tensors with NumPy's numbers."""


def softmaxed(number: int) -> Any:
    return lambda output: output.softmax(-1)[number]


def extractor(maps: Tensor) -> Any:
    """What torchcam asks for maps, which hands out those given."""
    return type(
        "Extractor",
        (),
        {
            "model": MODEL,
            "__call__": lambda self, *given, **how: [maps],
            "fuse_cams": lambda self, cams: cams[0],
            "_hooks_off": lambda self: nullcontext(),
        },
    )()


@pytest.mark.parametrize("maps", [MAPS, RECTIFIED], ids=["without ties", "with ties"])
def test_torchcam_s_deletion_and_insertion(maps: Tensor) -> None:
    """20 steps of as many pixels, zeros in place of both, the trapezoid over the true shares."""
    from torchcam.metrics import DeletionInsertionMetric

    for number in range(2):
        metric = DeletionInsertionMetric(extractor(maps[number : number + 1]), lambda logits: logits.softmax(-1))
        metric.update(IMAGES[number : number + 1], TARGETS[number])
        theirs = metric.summary()
        ours = measure(
            ["Deletion", "Insertion"],
            maps[number : number + 1],
            IMAGES[number : number + 1],
            MODEL,
            TARGETS[number],
            pixels_per_step=math.ceil(23 * 17 / 20),
            baseline="zeros",
            area="share",
        )
        for name, key in (("Deletion", "deletion_auc"), ("Insertion", "insertion_auc")):
            assert float(ours[name].values) == pytest.approx(theirs[key], abs=1e-7)
            shares = ours[name].steps.float()  # which torchcam's are
            rounded = float(torch.trapezoid(ours[name].curves["probability"], shares, dim=1))
            assert rounded == pytest.approx(theirs[key], abs=1e-8)


def test_torchcam_s_average_drop_and_increase() -> None:
    from torchcam.metrics import ClassificationMetric

    metric = ClassificationMetric(extractor(MAPS), lambda logits: logits.softmax(-1))
    metric.update(IMAGES, TARGETS)
    theirs = metric.summary()
    ours = measure(["Average drop", "Increase in confidence"], MAPS, IMAGES, MODEL, TARGETS)
    with torch.no_grad():
        before = MODEL(IMAGES).softmax(1)[[0, 1], TARGETS]
    drop = (ours["Average drop"].values * before / (before + 1e-7)).mean()
    assert float(drop) == pytest.approx(theirs["avg_drop"], abs=1e-8)
    assert float(ours["Increase in confidence"].values.mean()) == theirs["conf_increase"]


def test_xplique_s_formulas() -> None:
    """AverageDrop, AverageGain and AverageIncrease of xplique 2.0.2, which divide by p + 1e-8."""
    with torch.no_grad():
        before, after = (MODEL(each).softmax(1)[[0, 1], TARGETS] for each in (IMAGES, IMAGES * MAPS[:, None]))
    names = ["Average drop", "Average gain", "Increase in confidence"]
    ours = {name: each.values for name, each in measure(names, MAPS, IMAGES, MODEL, TARGETS).items()}
    assert_close(ours["Average drop"], (before - after).relu() / (before + 1e-8), atol=1e-6, rtol=0)
    assert_close(ours["Average gain"], (after - before).relu() / (1 - before + 1e-8), atol=1e-6, rtol=0)
    assert_close(ours["Increase in confidence"], (after > before).double())


def test_grad_cam_s_confidence_change() -> None:
    from pytorch_grad_cam.metrics.cam_mult_image import CamMultImageConfidenceChange, DropInConfidence

    given = (IMAGES, MAPS.numpy(), [lambda output, t=target: output[t] for target in TARGETS], MODEL)
    ours = measure("Confidence change", MAPS, IMAGES, MODEL, TARGETS)["Confidence change"].values
    np.testing.assert_allclose(CamMultImageConfidenceChange()(*given), ours, atol=1e-5)
    # What grad-cam calls a drop is not divided by the probability.
    np.testing.assert_allclose(DropInConfidence()(*given), (-ours).relu(), atol=1e-5)


def without_noise() -> Any:
    """grad-cam's noise has no seed."""
    return patch("pytorch_grad_cam.metrics.road.torch.randn_like", torch.zeros_like)


@NUMPY
def test_grad_cam_s_road() -> None:
    from pytorch_grad_cam.metrics import road

    targets = [softmaxed(target) for target in TARGETS]
    names = ["ROAD MoRF", "ROAD LeRF", "ROADCombined"]
    ours = measure(names, MAPS, IMAGES, MODEL, TARGETS, noise=0)
    with torch.no_grad():
        before = MODEL(IMAGES).softmax(1)[[0, 1], TARGETS].numpy()
    single = network().float()
    for theirs, name in (
        (road.ROADMostRelevantFirstAverage(), "ROAD MoRF"),
        (road.ROADLeastRelevantFirstAverage(), "ROAD LeRF"),
    ):
        with without_noise():
            found = theirs(IMAGES.float(), MAPS.numpy(), targets, single)
        np.testing.assert_allclose(found + before, ours[name].values, atol=1e-3)
    with without_noise():
        found = road.ROADCombined()(IMAGES.float(), MAPS.numpy(), targets, single)
    np.testing.assert_allclose(found, ours["ROADCombined"].values, atol=1e-3)


@NUMPY
def test_grad_cam_s_arcc() -> None:
    """Its docstring says geometric mean, its code takes the harmonic one."""
    from pytorch_grad_cam.metrics.arcc import ARCC

    cam, single = camkit.EigenCAM(MODEL, ["conv2"]), network().float()

    def explain(input_tensor: Tensor, targets: Any) -> Any:
        return cam(input_tensor.double(), TARGETS).numpy()

    with without_noise():
        found = ARCC(explain)(IMAGES.float(), MAPS.float().numpy(), [softmaxed(t) for t in TARGETS], single)
    ours = measure("ARCC", MAPS, IMAGES, MODEL, TARGETS, noise=0, explain=cam)["ARCC"].values
    # The mean is steep where ROAD is near 0: compared by what it is the mean of.
    np.testing.assert_allclose(1 / (found + 1e-2), 1 / (ours + 1e-2), rtol=5e-2)


def test_grad_cam_s_road_removes_everything_from_maps_with_ties() -> None:
    """Of a map with 95 % zeros every percentile is 0, and all pixels are at least that."""
    from pytorch_grad_cam.metrics.perturbation_confidence import RemoveMostRelevantFirst

    heat = torch.zeros(20, 20)
    heat.view(-1)[:20] = torch.arange(1, 21) / 20
    removed: list[int] = []

    def imputer(image: Tensor, kept: Tensor) -> Tensor:
        removed.append(int((kept == 0).sum()))
        return image

    for percentile in (10, 50, 90):
        RemoveMostRelevantFirst(percentile, imputer)(torch.zeros(3, 20, 20), heat)
    assert removed == [400, 400, 400]

    sizes: list[int] = []

    def impute(pixels: Any, missing: Any) -> Any:
        sizes.append(int(missing.sum()))
        return pixels[:, missing]

    images = torch.randn(1, 3, 20, 20)
    with patch("camkit.metrics.road.impute", impute):
        measure("ROAD MoRF", heat[None], images, network().float(), 0, percentages=(10, 50, 90))
    assert sorted(sizes) == [40, 200, 360]


def test_torchcam_scores_the_map_of_the_probability() -> None:
    """Its metrics apply the softmax before the CAM, whose gradients are then others."""
    from torchcam.methods import GradCAM
    from torchcam.metrics import ClassificationMetric

    model = network()
    asked: list[Tensor] = []
    shown = camkit.GradCAM(model, ["conv2"])(IMAGES, TARGETS)
    with GradCAM(model, "conv2") as theirs:
        fuse = theirs.fuse_cams

        def kept(cams: list[Tensor]) -> Tensor:
            asked.append(fuse(cams))
            return asked[-1]

        watched = SimpleNamespace(
            model=model,
            _hooks_off=theirs._hooks_off,
            fuse_cams=kept,
        )
        kind = type("Watched", (), {"__call__": lambda self, *given, **how: theirs(*given, **how)})
        watching = kind()
        vars(watching).update(vars(watched))
        ClassificationMetric(watching, lambda logits: logits.softmax(-1)).update(IMAGES, TARGETS)
    scored = nn.functional.interpolate(asked[0].detach()[:, None], (23, 17), mode="bilinear")[:, 0]
    own = camkit.GradCAM(model, ["conv2"])(IMAGES, [camkit.Probability(target) for target in TARGETS])
    assert float((scored - shown).abs().max()) > 0.3
    assert float((scored - own).abs().max()) < 0.3


def quantus() -> Any:
    return pytest.importorskip("quantus")


class Gray(nn.Module):
    """Takes images of one channel, as Quantus' ROAD needs them."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network().float()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.inner(images.expand(-1, 3, -1, -1))
        return logits


def quantus_road(model: nn.Module, images: Tensor, targets: Tensor, batch_size: int) -> dict[int, float]:
    """The share of images whose class is still predicted, by percentage removed."""
    metric = quantus().ROAD(noise=0, percentages=[1], disable_warnings=True, display_progressbar=False)
    found: dict[int, float] = metric(
        model=model.eval(),
        x_batch=images.float().numpy(),
        y_batch=targets.numpy(),
        a_batch=heats(23, 17, len(images))[:, None].float().numpy(),
        batch_size=batch_size,
        device="cpu",
        softmax=True,
    )
    return found


def test_quantus_road_breaks_on_colours() -> None:
    """With maps of one channel."""
    with pytest.raises(IndexError):
        quantus_road(network().float(), IMAGES, torch.tensor(TARGETS), 2)
    assert measure("ROADCombined", MAPS, IMAGES, MODEL, TARGETS)["ROADCombined"].values.isfinite().all()


def test_quantus_road_keeps_a_single_batch() -> None:
    """Of four images two are given their own class: together that is a half, in batches of two all or nothing."""
    gray, model = pictures(23, 17, 4)[:, :1], Gray().eval()
    with torch.no_grad():
        top = model(gray.float()).argmax(1)
    targets = torch.where(torch.arange(4) < 2, top, (top + 1) % 5)
    together, apart = (quantus_road(model, gray, targets, size)[1] for size in (4, 2))
    assert together == 0.5
    assert apart in (0, 1)
    ours = [
        measure("ROAD MoRF", heats(23, 17, 4), gray.float(), model, targets, batch_size=size)["ROAD MoRF"].values
        for size in (4, 2)
    ]
    assert_close(ours[0], ours[1])
