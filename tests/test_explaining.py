"""Several methods from one forward: the same maps as one by one, for one forward and one backward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.testing import assert_close

import camkit
from camkit import CAM, AugSmooth, EigenSmooth
from camkit.errors import EmptyMapWarning, OutputWarning, UsageError
from tests.helpers.kinds import SIX as METHODS
from tests.helpers.networks import Returns, SmallCNN, SmallViT, seeded

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
CATEGORIES = [[0, 3, 1], [2, 2, 4]]


class Counts:
    """How often a network runs forward, and autograd backward."""

    def __init__(self, model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
        self.forwards = self.backwards = 0
        original = torch.autograd.grad

        def grad(*args: Any, **options: Any) -> Any:
            self.backwards += 1
            return original(*args, **options)

        monkeypatch.setattr(torch.autograd, "grad", grad)
        model.register_forward_hook(self._seen)

    def _seen(self, *_: Any) -> None:
        self.forwards += 1


@pytest.mark.parametrize("aug_smooth", [False, True])
@pytest.mark.parametrize(
    ("make", "layers"), [(SmallCNN, ["conv1", "norm2"]), (SmallViT, ["layers.1.ln1"])], ids=["cnn", "tokens"]
)
def test_eigen_smoothed_maps_are_those_of_each_method_alone(make: Any, layers: list[str], *, aug_smooth: bool) -> None:
    """Without EigenSmooth, tests.test_every_method has it of all methods."""
    model = seeded(make())
    together = camkit.explain(
        model, IMAGES, list(METHODS), CATEGORIES, layers, eigen_smooth=True, aug_smooth=aug_smooth
    )
    assert list(together) == list(METHODS)
    for name, found in together.items():
        cam = EigenSmooth(CAM(model, name, layers))
        alone = AugSmooth(cam, enabled=aug_smooth).explain(IMAGES, CATEGORIES)
        assert_close((found.maps, found.raw), (alone.maps, alone.raw))
        assert (found.method, found.layers, found.smoothing) == (name, alone.layers, alone.smoothing)
        assert_close((found.targets, found.scores, found.logits), (alone.targets, alone.scores, alone.logits))


def test_all_methods_and_categories_share_a_forward_and_a_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    model = seeded(SmallCNN())
    CAM(model, "LayerCAM", "conv2")(IMAGES)  # the first time, it is tried out where the layer's places lie
    counts = Counts(model, monkeypatch)
    camkit.explain(model, IMAGES, list(METHODS), CATEGORIES, "conv2")
    assert (counts.forwards, counts.backwards) == (1, 1)


def test_methods_without_gradients_run_no_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    model = seeded(SmallCNN())
    CAM(model, "EigenCAM", "conv2")(IMAGES)
    counts = Counts(model, monkeypatch)
    found = camkit.explain(model, IMAGES, "EigenCAM", CATEGORIES, "conv2")["EigenCAM"]
    assert (counts.forwards, counts.backwards) == (1, 0)
    assert_close(found.maps[:, 0], found.maps[:, 2])


def test_the_default_layer_and_the_top_class() -> None:
    model = seeded(SmallCNN())
    found = camkit.explain(model, IMAGES, ["gradcam", "LAYERCAM"])
    assert list(found) == ["GradCAM", "LayerCAM"]
    assert found["LayerCAM"].layers == ("norm2",)
    assert found["LayerCAM"].targets.tolist() == model(IMAGES).argmax(1, keepdim=True).tolist()


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ([], "name every method once, at least one; got none"),
        (["GradCAM", "gradcam"], "name every method once, at least one; got GradCAM, GradCAM"),
        (["GradCAN"], r"no method 'GradCAN'; closest: GradCAM"),
    ],
)
def test_refused_methods(methods: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        camkit.explain(seeded(SmallCNN()), IMAGES, methods)


def test_warnings_point_at_the_caller() -> None:
    model = seeded(Returns(lambda tensor: tensor))
    model.conv.weight.data.zero_()
    model.conv.bias.data.zero_()
    with pytest.warns(EmptyMapWarning, match="the activations of 'layer' are all zero") as caught:
        camkit.explain(model, IMAGES, ["GradCAM", "EigenCAM"], 0, "layer")
    assert {warning.filename for warning in caught} == {__file__}


def test_reading_goes_to_the_cam() -> None:
    class Two(SmallCNN):
        def forward(self, images: torch.Tensor) -> Any:
            logits = super().forward(images)
            return logits, -logits

    model = seeded(Two())
    with pytest.warns(OutputWarning):
        camkit.explain(model, IMAGES, "GradCAM", 1, "conv2")
    found = camkit.explain(model, IMAGES, "GradCAM", 1, "conv2", output=1)["GradCAM"]
    assert_close(found.logits, model(IMAGES)[1].detach())


def test_a_default_layer_that_is_dead_for_these_targets_is_chosen_anew_as_for_one_method() -> None:
    class Heads(SmallCNN):
        def forward(self, images: torch.Tensor) -> Any:
            early = self.norm1(self.conv1(images))
            late = self.norm2(self.conv2(early.detach()))
            return torch.stack([late.mean((1, 2, 3)), early.square().mean((1, 2, 3))], 1)

    model = seeded(Heads())
    assert CAM(model).explain(IMAGES, 0).layers == ("norm2",)
    found = camkit.explain(model, IMAGES, ["EigenCAM", "GradCAM"], 1)
    assert {explanation.layers for explanation in found.values()} == {("norm1",)}
