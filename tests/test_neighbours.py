"""What people type who come from grad-cam, torchcam or Captum is answered in one line that says what to write."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

import camkit
from camkit import CAM, AugSmooth, EigenSmooth
from camkit.errors import UsageError
from camkit.neighbours import ATTRIBUTES, CALL, CONSTRUCTOR
from tests.helpers.networks import SmallCNN, seeded
from tests.helpers.refusals import refusal

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class TestLayersInPlaceOfTheMethod:
    """CAM(model, [layer]), the order of arguments of other packages."""

    @pytest.mark.parametrize(
        ("given", "layers"),
        [
            (["conv2"], "['conv2']"),
            (("conv1", "conv2"), "['conv1', 'conv2']"),
            ("conv2", "['conv2']"),
            (nn.Conv2d(1, 1, 1), "[layer]"),
            ([nn.Conv2d(1, 1, 1)], "[layer]"),
            ([], "[layer]"),
        ],
    )
    def test_is_answered_with_what_to_write(self, given: Any, layers: str) -> None:
        message = refusal(CAM, UsageError, seeded(SmallCNN()), given)
        assert message == (
            f"CAM takes the method before the layers: write camkit.GradCAM(model, {layers}), or camkit.CAM(model, "
            f'"GradCAM", {layers})'
        )

    def test_what_to_write_works(self) -> None:
        model = seeded(SmallCNN())
        message = refusal(CAM, UsageError, model, ["conv2"])
        for code in re.findall(r"camkit\.\w+\(.*?\]\)", message):
            assert eval(code, {"camkit": camkit, "model": model})(IMAGES).shape == (2, 16, 16)

    def test_a_misspelt_method_is_one(self) -> None:
        assert "no method 'GradCAN'; closest: GradCAM" in refusal(CAM, UsageError, seeded(SmallCNN()), "GradCAN")

    def test_a_method_is_a_name(self) -> None:
        message = refusal(CAM, UsageError, seeded(SmallCNN()), 3)
        assert message == "a method is a name such as 'GradCAM', got int"


@pytest.mark.parametrize("make", [CAM, camkit.GradCAM, camkit.ScoreCAM, camkit.FullGrad])
@pytest.mark.parametrize("name", CONSTRUCTOR)
def test_arguments_of_constructors(name: str, make: Any) -> None:
    message = refusal(make, UsageError, seeded(SmallCNN()), **{name: None})
    assert message == f"camkit has no argument {name!r}: write {CONSTRUCTOR[name]}"


@pytest.mark.parametrize("wrap", [lambda cam: cam, EigenSmooth, AugSmooth], ids=["plain", "eigen", "aug"])
@pytest.mark.parametrize("name", CALL)
def test_arguments_of_calls(name: str, wrap: Any) -> None:
    cam = wrap(camkit.GradCAM(seeded(SmallCNN()), ["conv2"]))
    given = {name: IMAGES} if name in ("input_tensor", "inputs", "input", "x") else {"images": IMAGES, name: 1}
    message = refusal(cam, UsageError, **given)
    assert message == f"camkit has no argument {name!r}: write {CALL[name]}"


@pytest.mark.parametrize("wrap", [lambda cam: cam, EigenSmooth, AugSmooth], ids=["plain", "eigen", "aug"])
@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes(name: str, wrap: Any) -> None:
    cam = wrap(camkit.GradCAM(seeded(SmallCNN())))
    with pytest.raises(AttributeError) as caught:
        getattr(cam, name)
    assert str(caught.value) == f"GradCAM has no attribute {name!r}: {ATTRIBUTES[name]}"
    assert not hasattr(cam, name)


def test_what_nobody_has_is_no_argument_either() -> None:
    cam = camkit.GradCAM(seeded(SmallCNN()), ["conv2"])
    assert refusal(cam, UsageError, IMAGES, colour=1) == "a CAM is called with (images, targets), not with 'colour'"
    with pytest.raises(AttributeError, match="^GradCAM has no attribute 'colour'$"):
        cam.colour  # noqa: B018


@pytest.mark.parametrize(("typed", "meant"), [("target_layrs", "target_layers"), ("batchsize", "batch_size")])
def test_misspelt_settings(typed: str, meant: str) -> None:
    message = refusal(camkit.GradCAM, UsageError, seeded(SmallCNN()), **{typed: 1})
    assert message.startswith(f"CAM has no argument, and GradCAM no option, {typed!r}; closest: {meant}")


def test_misspelt_options() -> None:
    message = refusal(camkit.ScoreCAM, UsageError, seeded(SmallCNN()), topk=3)
    assert message.startswith("ScoreCAM has no option 'topk'; closest: top_k")
