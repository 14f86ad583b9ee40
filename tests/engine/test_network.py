"""A model as it is run: what it is taken out of, how it is called, and what is said when it fails."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camkit import CAM, ForwardError
from camkit.engine.network import Network, unwrap
from camkit.errors import UsageError
from tests.helpers.networks import SmallCNN, SmallViT, seeded
from tests.helpers.refusals import OutOfMemory, refusal

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class TestTheLayerThatFailed:
    @pytest.mark.parametrize("layers", [None, "norm2"], ids=["default layer", "layer given"])
    def test_wrong_channels(self, layers: str | None) -> None:
        message = r"fails on images \((2|1), 1, 16, 16\) in layer 'conv1' \(Conv2d\): .*input.*to have 3 channels"
        with pytest.raises(ForwardError, match=message) as error:
            CAM(seeded(SmallCNN()), target_layers=layers)(IMAGES[:, :1])
        assert isinstance(error.value.__cause__, RuntimeError)

    def test_wrong_size(self) -> None:
        with pytest.raises(ForwardError, match=r"fails on images \(2, 3, 8, 16\)"):
            CAM(seeded(SmallViT()), target_layers="layers.1.ln1")(IMAGES[:, :, :8])

    def test_too_small(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 5)), nn.Flatten())
        with pytest.raises(ForwardError, match=r"in layer '1.1' \(Conv2d\): Calculated padded input size"):
            CAM(seeded(model), target_layers="1.0")(IMAGES[:, :, :4, :4])

    def test_is_the_innermost_that_was_running(self) -> None:
        class Checks(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                assert x.shape[-1] == 7, "Input width (8) doesn't match model (7)."
                return x

        model = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ModuleDict({"check": Checks()})["check"], nn.Flatten())
        with pytest.raises(ForwardError, match=r"in layer '1' \(Checks\): Input width \(8\) doesn't match.*7\)$"):
            CAM(model, target_layers="0")(IMAGES)

    def test_a_failure_outside_all_layers_names_none(self) -> None:
        class Fails(SmallCNN):
            def forward(self, images: Tensor) -> Tensor:
                raise KeyError("mask")

        with pytest.raises(ForwardError, match=re.escape("the model fails on images (2, 3, 16, 16): mask")):
            CAM(seeded(Fails()), target_layers="conv1")(IMAGES)

    def test_lack_of_memory_stays_what_it_is(self) -> None:
        class Hungry(SmallCNN):
            def forward(self, images: Tensor) -> Tensor:
                raise OutOfMemory("CUDA out of memory")

        with pytest.raises(OutOfMemory):
            CAM(seeded(Hungry()), target_layers="conv1")(IMAGES)


class TestModels:
    def test_are_taken_out_of_their_wrappers(self) -> None:
        model = seeded(SmallCNN())
        compiled: Any = torch.compile(model)
        parallel: Any = nn.DataParallel(model)
        for wrapped in (model, parallel, compiled, torch.compile(parallel), nn.DataParallel(compiled)):
            assert unwrap(wrapped) is model
            assert Network(wrapped).model is model

    def test_by_torchscript_are_refused_with_what_to_do(self) -> None:
        scripted = torch.jit.trace(seeded(SmallCNN()), IMAGES)
        for wrapped in (scripted, nn.DataParallel(scripted)):
            message = refusal(CAM, UsageError, wrapped)
            assert message == (
                "a TorchScript module takes no hooks on its layers: pass the eager model it was made from"
            )

    @pytest.mark.parametrize("given", ["resnet50", None, torch.zeros(1), SmallCNN])
    def test_that_are_none_are_refused(self, given: Any) -> None:
        kind = type(given).__name__
        assert refusal(CAM, UsageError, given) == f"the model must be a torch.nn.Module, got {kind}"


class TestSettings:
    @pytest.mark.parametrize("batch_size", [0, -1, 2.5, "8", True, torch.nan])
    def test_a_batch_size_counts_images(self, batch_size: Any) -> None:
        message = refusal(Network, UsageError, SmallCNN(), batch_size=batch_size)
        assert message == f"batch_size is a number of images, at least 1; got {batch_size!r}"

    def test_progress_is_called(self) -> None:
        message = refusal(Network, UsageError, SmallCNN(), progress=True)
        assert message == "progress is called with how many of how many are through; got True"

    def test_another_output_leaves_the_network_alone(self) -> None:
        network = Network(SmallCNN(), output="main", forward_kwargs={"scale": 2}, batch_size=3)
        other = network.with_output("aux")
        assert (network.output, other.output) == ("main", "aux")
        assert (other.model, other.forward_kwargs, other.batch_size) == (network.model, {"scale": 2}, 3)

    def test_keyword_arguments_are_the_callers(self) -> None:
        given = {"scale": 2}
        network = Network(SmallCNN(), forward_kwargs=given)
        given["scale"] = 3
        assert network.forward_kwargs == {"scale": 2}


class TestWholeBatches:
    """Some networks can't be shown perturbations of one image alone."""

    @pytest.mark.parametrize(
        ("kwargs", "follow"),
        [
            ({}, False),
            ({"interpolate": True, "scale": 2.0, "kind": "mean"}, False),
            ({"weights": torch.ones(2)}, True),
            ({"weights": [1, 2]}, True),
            ({"scale": 2.0, "weights": (1, 2)}, True),
        ],
    )
    def test_where_arguments_may_belong_to_images(self, kwargs: dict[str, Any], follow: bool) -> None:
        network = Network(SmallCNN(), forward_kwargs=kwargs)
        assert network.kwargs_follow_batch is follow
        assert network.takes_whole_batches is follow

    def test_where_norms_take_the_batchs_statistics(self) -> None:
        model = seeded(SmallCNN())
        whole = []
        for norm in (model.norm2, nn.BatchNorm2d(6, track_running_stats=False)):
            model.norm2 = norm
            whole.append(Network(model).takes_whole_batches)
        assert whole == [False, True]

    def test_where_it_was_found_out(self) -> None:
        network = Network(SmallCNN())
        network.found_whole()
        assert network.takes_whole_batches
        assert network.with_output(1).takes_whole_batches


class TestImages:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    def test_take_the_models_dtype(self, dtype: torch.dtype) -> None:
        assert Network(seeded(SmallCNN()).to(dtype)).prepare(IMAGES).dtype == dtype

    def test_of_a_model_without_parameters_stay_as_they_are(self) -> None:
        assert Network(nn.Flatten()).prepare(IMAGES) is IMAGES

    @pytest.mark.parametrize(
        ("images", "message"),
        [
            (IMAGES.numpy(), "images must be a torch.Tensor (B, C, H, W), got ndarray"),
            (IMAGES[0], "images must be (B, C, H, W), volumes (B, C, D, H, W) or signals (B, C, L), got (3, 16, 16)"),
            ((IMAGES * 50).byte(), "images must be normalised floats as the model takes them, got torch.uint8"),
            (torch.zeros(1, 8, 3, 16, 16), "images (1, 8, 3, 16, 16) have their frames in front of the colours"),
            (IMAGES[:0], "images are empty: (0, 3, 16, 16)"),
        ],
    )
    def test_of_another_kind_are_refused(self, images: Any, message: str) -> None:
        assert refusal(Network(SmallCNN()).prepare, UsageError, images).startswith(message)
