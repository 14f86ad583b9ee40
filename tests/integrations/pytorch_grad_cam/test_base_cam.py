"""All CAM classes, called as grad-cam's documentation and tests do."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor, nn
from torch.testing import assert_close

import camkit
from camkit.errors import EmptyMapWarning, ForwardError, UsageError
from camkit.integrations.pytorch_grad_cam import BaseCAM, EigenCAM, GradCAM, LayerCAM, RandomCAM, ScoreCAM
from camkit.integrations.pytorch_grad_cam.activations_and_gradients import ActivationsAndGradients
from tests.helpers.networks import SmallCNN, seeded
from tests.helpers.refusals import refusal
from tests.integrations.pytorch_grad_cam.networks import (
    CLASSES,
    NETWORKS,
    SIZES,
    OneByOne,
    categories,
    cnn,
    images,
)

NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
SMOOTHING = [(False, False), (True, False), (False, True), (True, True)]
"""aug_smooth, eigen_smooth."""


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("wanted", [None, (1, 3)])
def test_all_classes(name: str, network: str, size: tuple[int, int], wanted: tuple[int, int] | None) -> None:
    np.random.seed(0)  # noqa: NPY002 (RandomCAM)
    model, layers, layout = NETWORKS[network](size)
    targets = None if wanted is None else categories(*wanted)
    found = []
    for aug_smooth, eigen_smooth in SMOOTHING:
        with CLASSES[name](model=model, target_layers=layers, reshape_transform=layout) as cam:
            cam.batch_size = 4
            maps = cam(input_tensor=images(size), targets=targets, aug_smooth=aug_smooth, eigen_smooth=eigen_smooth)
        assert maps.shape == (2, *size)
        assert maps.dtype == np.float32
        assert 0 <= maps.min() <= maps.max() <= 1
        assert maps.std((1, 2)).min() > 0
        found.append(maps)
        with torch.no_grad():
            assert_close(cam.outputs, model(images(size)))
    plain, augmented, component, _ = found
    assert abs(plain - augmented).max() > 1e-3
    if name not in ("EigenCAM", "EigenGradCAM", "KPCA_CAM", "SegEigenCAM"):  # principal components already
        assert abs(plain - component).max() > 1e-3
    assert hooks(model) == 0


@NEEDS_CUDA
@pytest.mark.cuda
@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("network", NETWORKS)
def test_all_classes_on_cuda(name: str, network: str) -> None:
    model, layers, layout = NETWORKS[network]()
    np.random.seed(0)  # noqa: NPY002
    on_cpu = CLASSES[name](model, layers, layout)(images(), categories(1, 3))
    np.random.seed(0)  # noqa: NPY002
    cam = CLASSES[name](model, layers, layout, use_cuda=True)
    assert cam.device.type == "cuda"
    assert_allclose(cam(images(), categories(1, 3)), on_cpu, atol=1e-4)


@pytest.mark.parametrize("name", CLASSES)
def test_maps_are_camkits_own(name: str) -> None:
    model, layers, _ = cnn()
    if name == "RandomCAM":
        pytest.skip("another map in every call")
    method = camkit.METHODS[CLASSES[name].camkit_method]
    options = {"utility": "score"} if name == "ShapleyCAM" else {}
    ours = camkit.CAM(model, method.name, layers if method.takes_layers else None, **options)(images(), [1, 3])
    assert_allclose(CLASSES[name](model, layers)(images(), categories(1, 3)), ours.numpy(), atol=1e-6)


def test_random_maps_follow_numpys_seed() -> None:
    model, layers, _ = cnn()
    cam = RandomCAM(model, layers)
    made = []
    for seed in (0, 0, 1):
        np.random.seed(seed)  # noqa: NPY002
        made.append(cam(images()))
    assert (made[0] == made[1]).all()
    assert abs(made[0] - made[2]).max() > 0.01
    assert abs(cam(images()) - made[2]).max() > 0.01


def test_one_channel() -> None:
    model = seeded(SmallCNN())
    model.conv1 = seeded(nn.Conv2d(1, 6, 3, stride=2, padding=1))
    with GradCAM(model=model, target_layers=[model.conv2]) as cam:
        maps = cam(input_tensor=images((40, 30), batch=16, channels=1), targets=None)
    assert maps.shape == (16, 40, 30)
    assert maps.std((1, 2)).min() > 0


@pytest.mark.parametrize("name", ["GradCAM", "ShapleyCAM", "AblationCAM", "EigenCAM"])
def test_a_loop_of_a_hundred_leaves_nothing_behind(name: str) -> None:
    model, layers, _ = cnn()
    kept: list[weakref.ref[Tensor]] = []

    def tensors() -> int:
        gc.collect()
        return sum(issubclass(type(each), Tensor) for each in gc.get_objects())

    settled = 0
    for number in range(100):
        with CLASSES[name](model=model, target_layers=layers) as cam:
            cam(input_tensor=images(), targets=categories(1, 3))
            kept.append(weakref.ref(cam.activations_and_grads.activations[0]))
        assert cam.activations_and_grads.activations == []
        assert hooks(model) == 0
        del cam
        if number == 2:
            settled = tensors()
    gc.collect()
    assert not any(each() is not None for each in kept)
    assert tensors() <= settled + 10
    assert all(parameter.grad is None for parameter in model.parameters())


@NEEDS_CUDA
@pytest.mark.cuda
def test_a_loop_of_a_hundred_leaves_no_memory_allocated() -> None:
    model, layers, _ = cnn()
    model.cuda()
    allocated = []
    for _ in range(100):
        with GradCAM(model=model, target_layers=layers) as cam:
            cam(input_tensor=images().cuda(), targets=categories(1, 3))
        allocated.append(torch.cuda.memory_allocated())
    assert allocated[-1] <= allocated[2]


def test_the_model_stays_as_it_was() -> None:
    """In the middle of a training step, with gradients that are being accumulated."""
    model, layers, _ = cnn()
    model.train()
    model(images()).sum().backward()
    before = [parameter.grad.clone() for parameter in model.parameters()]
    GradCAM(model, layers)(images(), categories(1, 3), aug_smooth=True)
    assert model.training
    assert_close([parameter.grad for parameter in model.parameters()], before)


def test_release_and_another_layout_as_scripts_put_it() -> None:
    """MMPretrain's vis_cam.py puts its own object in place of the CAM's."""
    model, layers, layout = NETWORKS["vit"]()
    expected = LayerCAM(model, layers, layout)(images(), categories(1, 3))
    cam = LayerCAM(model=model, target_layers=layers, use_cuda=False)
    cam.activations_and_grads.release()
    seen: list[tuple[int, ...]] = []

    def watched(output: Tensor) -> Tensor:
        seen.append(tuple(output.shape))
        assert layout is not None
        return layout(output)

    cam.activations_and_grads = ActivationsAndGradients(cam.model, cam.target_layers, watched)
    assert_allclose(cam(images(), categories(1, 3)), expected, atol=1e-6)
    assert set(seen) == {(2, 17, 8)}


def test_activations_and_gradients_of_the_last_call() -> None:
    model, layers, _ = cnn()
    cam = GradCAM(model, layers)
    cam(images(), categories(1, 3), aug_smooth=True)
    by_hand = ActivationsAndGradients(model, layers)
    output = by_hand(images())
    (output[0, 1] + output[1, 3]).backward()
    assert_close(cam.activations_and_grads.activations, sorted_by_size(by_hand.activations, cam))
    assert_close(cam.activations_and_grads.gradients, sorted_by_size(by_hand.gradients, cam))
    model.zero_grad()


def sorted_by_size(tensors: list[Tensor], cam: BaseCAM) -> list[Tensor]:
    """In the order that the layers were named in, here the other way round than they run."""
    assert len(tensors) == len(cam.target_layers or [])
    return tensors[::-1]


class TestSubclassesOfScripts:
    """What people build on BaseCAM."""

    def test_weights_by_channel(self) -> None:
        class Own(BaseCAM):
            def get_cam_weights(self, input_tensor: Any, layer: Any, targets: Any, activations: Any, grads: Any) -> Any:
                assert layer in self.target_layers
                assert len(targets) == len(input_tensor) == len(activations)
                return grads.mean((2, 3))

        for targets in (None, categories(1, 3)):
            for aug_smooth, eigen_smooth in SMOOTHING:
                model, layers, layout = cnn()
                how = {"aug_smooth": aug_smooth, "eigen_smooth": eigen_smooth}
                expected = GradCAM(model, layers, layout)(images(), targets, **how)
                assert_allclose(Own(model, layers, layout)(images(), targets, **how), expected, atol=1e-5)

    def test_maps_of_a_layer_made_from_camkits(self) -> None:
        class Twice(GradCAM):
            def get_cam_image(self, *args: Any, **kwargs: Any) -> Any:
                return 2 * super().get_cam_image(*args, **kwargs)

        model, layers, _ = cnn()
        expected = GradCAM(model, layers)(images(), categories(1, 3))
        assert_allclose(Twice(model, layers)(images(), categories(1, 3)), expected, atol=1e-5)

    def test_without_gradients(self) -> None:
        class Own(BaseCAM):
            def __init__(self, *args: Any) -> None:
                super().__init__(*args, uses_gradients=False)

            def get_cam_image(  # type: ignore[override]
                self, i: Any, layer: Any, t: Any, activations: Any, grads: Any, eigen: Any
            ) -> Any:
                assert grads is None
                return activations.sum(1)

        model, layers, _ = cnn()
        assert Own(model, layers)(images()).shape == (2, 16, 16)

    def test_the_images_gradient(self) -> None:
        class Own(BaseCAM):
            def __init__(self, *args: Any) -> None:
                super().__init__(*args, compute_input_gradient=True)

            def get_cam_image(self, input_tensor: Any, *rest: Any) -> Any:
                return input_tensor.grad.abs().sum(1).numpy()

        model, layers, _ = cnn()
        given = images().requires_grad_()
        model(given)[range(2), [1, 3]].sum().backward()
        assert given.grad is not None
        expected = given.grad.abs().sum(1).numpy()
        expected = expected - expected.min((1, 2), keepdims=True)
        expected = expected / expected.max((1, 2), keepdims=True)
        assert_allclose(Own(model, layers)(images(), categories(1, 3)), expected, atol=1e-5)
        model.zero_grad()

    def test_that_compute_nothing_are_told_what_is_missing(self) -> None:
        model, layers, _ = cnn()
        with pytest.raises(NotImplementedError, match="implement get_cam_weights"):
            BaseCAM(model, layers)(images())

    def test_second_derivatives_are_refused(self) -> None:
        model, layers, _ = cnn()
        assert "detach=False" in refusal(BaseCAM, UsageError, model, layers, detach=False)


def test_augmentations_of_ones_own() -> None:
    class Flip:
        def augment_image(self, given: Tensor) -> Tensor:
            return given.flip(-1)

        def deaugment_mask(self, maps: Tensor) -> Tensor:
            assert maps.shape[1] == 1
            return maps.flip(-1)

    model, layers, _ = cnn()
    cam = GradCAM(model, layers, tta_transforms=[Flip()])
    expected = GradCAM(model, layers)(images().flip(-1), categories(1, 3))[:, :, ::-1]
    assert_allclose(cam(images(), categories(1, 3), aug_smooth=True), expected, atol=1e-6)
    with torch.no_grad():
        assert_close(cam.outputs, model(images()))


@contextmanager
def one_warning() -> Iterator[None]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    assert [each.category for each in caught] == [EmptyMapWarning]
    assert "has a single position (grid 1x1)" in str(caught[0].message)
    assert caught[0].filename == __file__


def test_a_layer_of_one_position_gives_an_empty_map_and_a_warning() -> None:
    """grad-cam's map is empty too; with other layers it changes nothing."""
    model = seeded(OneByOne())
    with one_warning():
        maps = (cam := GradCAM(model, [model.late]))(images((8, 8)), categories(1, 3))
    assert maps.shape == (2, 8, 8)
    assert not maps.any()
    assert cam.outputs.shape == (2, 5)
    with one_warning():
        both = GradCAM(model, [model.late, model.early])(images((8, 8)), categories(1, 3))
    assert_allclose(both, GradCAM(model, [model.early])(images((8, 8)), categories(1, 3)))


class TestBadCalls:
    """One line each."""

    def test_another_number_of_targets_than_images(self) -> None:
        model, layers, _ = cnn()
        message = refusal(GradCAM(model, layers), UsageError, images(), categories(1))
        assert message == (
            "1 target for 2 images: one per image; for several of one image repeat it, images.repeat(n, 1, 1, 1)"
        )
        assert "3 targets for 2 images" in refusal(EigenCAM(model, layers), UsageError, images(), categories(1, 2, 3))

    def test_a_list_per_image(self) -> None:
        model, layers, _ = cnn()
        assert "one per image" in refusal(GradCAM(model, layers), UsageError, images(), [[1, 2], [3, 4]])

    def test_a_category_that_isnt_there(self) -> None:
        model, layers, _ = cnn()
        message = refusal(GradCAM(model, layers), UsageError, images(), categories(1, 7))
        assert message == "category 7 is outside 0..4"

    def test_layers_that_arent_there(self) -> None:
        model, *_ = cnn()
        message = refusal(GradCAM, UsageError, model, [nn.ReLU()])
        assert message == "the ReLU given as target layer is not a submodule of the model"
        assert "no target layer given" in refusal(GradCAM, UsageError, model, [])

    def test_images_that_the_model_fails_on(self) -> None:
        model, layers, _ = cnn()
        assert "the model fails on images" in refusal(GradCAM(model, layers), ForwardError, images(channels=1))

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
    def test_a_gpu_that_isnt_there(self) -> None:
        model, layers, _ = cnn()
        assert "use_cuda=True needs a CUDA device" in refusal(ScoreCAM, UsageError, model, layers, use_cuda=True)
