"""What must hold on a GPU: nothing waits for it, nothing stays on it, and the maps are those of a CPU."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import camkit
from camkit import CAM, AugSmooth, EigenSmooth
from camkit.errors import NonFiniteError
from tests.helpers.cases import NETWORKS, images_of
from tests.helpers.kinds import CASES, options
from tests.helpers.kinds import SIX as METHODS
from tests.helpers.networks import SmallCNN, SmallViT, seeded

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
WRAPPERS: dict[str, Any] = {
    "plain": lambda cam: cam,
    "eigen-smooth": EigenSmooth,
    "aug-smooth": AugSmooth,
    "both": lambda cam: AugSmooth(EigenSmooth(cam)),
}


@pytest.fixture(autouse=True)
def full_precision() -> Iterator[None]:
    """TF32 keeps ten bits: off, for convolutions and products."""
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, products


@contextmanager
def no_waiting() -> Iterator[None]:
    """Any operation that makes the host wait for the device is an error."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_cpu_and_cuda_agree(method: str, network: str, wrapper: str) -> None:
    make, layers, size = NETWORKS[network]
    model, images = seeded(make()), images_of(size)
    on_cpu = WRAPPERS[wrapper](CAM(model, method, layers))(images, [[2, 0], [1, 4]])
    on_cuda = WRAPPERS[wrapper](CAM(model.cuda(), method, layers))(images, [[2, 0], [1, 4]])
    assert on_cuda.device.type == "cuda"
    assert_close(on_cuda.cpu(), on_cpu, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("make", "method", "layer"), CASES)
def test_every_method_agrees(make: Any, method: str, layer: str | None) -> None:
    given = options(method, num_samples=3, num_concepts=2)
    images, categories = IMAGES.double(), [[2, 0], [1, 4]]
    on_cpu = CAM(seeded(make()).double(), method, layer, **given).explain(images, categories)
    on_cuda = CAM(seeded(make()).double().cuda(), method, layer, batch_size=4, **given).explain(images, categories)
    assert on_cuda.maps.device.type == "cuda"
    assert_close(on_cuda.maps.cpu(), on_cpu.maps, rtol=0, atol=1e-4)
    assert_close(on_cuda.targets.cpu(), on_cpu.targets)


def test_chunks_that_dont_fit_are_halved() -> None:
    class Hungry(SmallCNN):
        def forward(self, images: Tensor) -> Tensor:
            if len(images) > 4:
                torch.empty(2**50, device="cuda")
            return super().forward(images)

    expected = CAM(seeded(SmallCNN()).cuda(), "AblationCAM", "conv2")(IMAGES, 1)
    assert_close(CAM(seeded(Hungry()).cuda(), "AblationCAM", "conv2", batch_size=6)(IMAGES, 1), expected)


def targets() -> dict[str, Any]:
    """Everything that class targets can be."""
    return {
        "top class": None,
        "one": 2,
        "one per image": [2, 3],
        "several": [[0, 1, 2], [3, 4, 0]],
        "on the device": torch.tensor([2, 3], device="cuda"),
        "several on the device": torch.tensor([[0, 1, 2], [3, 4, 0]], device="cuda"),
    }


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize(("make", "layers"), [(SmallCNN, ["conv1", "conv2"]), (SmallViT, ["layers.1.ln1"])])
def test_nothing_waits_between_images_and_maps(method: str, wrapper: str, make: Any, layers: list[str]) -> None:
    model, images = seeded(make()).cuda(), IMAGES.cuda()
    cam = WRAPPERS[wrapper](CAM(model, method, layers))
    for asked in targets().values():
        expected = cam(images, asked)  # plans are made in the first call
        with no_waiting():
            maps = cam(images, asked)
        assert_close(maps, expected, rtol=0, atol=1e-5)


def test_nothing_waits_with_the_default_layer_once_it_is_known() -> None:
    cam = CAM(seeded(SmallCNN()).cuda())
    images = IMAGES.cuda()
    expected = cam(images)
    with no_waiting():
        maps = cam(images)
    assert_close(maps, expected)


def test_targets_on_the_device_are_those_on_the_host() -> None:
    cam = CAM(seeded(SmallCNN()).cuda(), "GradCAM", "conv2")
    made = targets()
    assert_close(cam(IMAGES, made["on the device"]), cam(IMAGES, made["one per image"]))
    assert_close(cam(IMAGES, made["several on the device"]), cam(IMAGES, made["several"]))


def test_a_category_that_does_not_exist_is_nan_in_a_call_and_an_error_when_explained() -> None:
    cam = CAM(seeded(SmallCNN()).cuda(), "GradCAM", "conv2")
    wrong = torch.tensor([2, 5], device="cuda")
    assert cam(IMAGES, wrong)[1].isnan().all()
    with pytest.raises(NonFiniteError, match="the score of image 1 is NaN"):
        cam.explain(IMAGES, wrong)


def test_no_memory_stays_allocated() -> None:
    model, images = seeded(SmallCNN()).cuda(), IMAGES.cuda()
    cam = AugSmooth(EigenSmooth(CAM(model, "LayerCAM", ["conv1", "conv2"])))

    def allocated() -> int:
        for _ in range(5):
            cam.explain(images, [[0, 1], [2, 3]])
            camkit.explain(model, images, list(METHODS), target_layers="conv2")
        gc.collect()
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()

    settled = allocated()
    assert [allocated() for _ in range(3)] == [settled] * 3


@pytest.mark.parametrize("method", METHODS)
def test_bfloat16(method: str) -> None:
    model, images = seeded(SmallCNN()), IMAGES
    exact = CAM(model, method, "conv2")(images, 1)
    maps: Tensor = CAM(model.cuda().bfloat16(), method, "conv2")(images, 1)
    assert maps.dtype == torch.float32
    correlation = torch.corrcoef(torch.stack([maps.cpu().flatten(), exact.flatten()]))[0, 1]
    assert correlation > 0.98


def test_random_networks_and_metrics_are_the_cpus() -> None:
    from camkit.metrics import METRICS, measure

    def found(device: str) -> dict[str, Any]:
        model, images = seeded(SmallCNN(), 11).to(device), IMAGES.double().to(device)
        cam = CAM(model.double(), "EigenCAM", "norm2")
        before = [each.clone() for each in model.state_dict().values()]
        regions = torch.ones(2, 16, 16, dtype=torch.bool)
        made = measure(list(METRICS), cam(images), images, cam, [2, 0], regions=regions, seed=3)
        assert all(map(torch.equal, model.state_dict().values(), before))
        return made

    on_cuda = found("cuda")
    for name, on_cpu in found("cpu").items():
        assert_close(on_cuda[name].values, on_cpu.values, rtol=1e-3, atol=1e-3)
