"""The network's passes: batches of one size, equal changes once, the model as it was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from threading import get_ident
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import camkit
from camkit.errors import CamkitError, ForwardError, NonFiniteError
from camkit.metrics import measure, measure_methods
from camkit.metrics.jobs import Jobs, Request
from camkit.metrics.perturbations import Changed
from tests.helpers.forwards import count_forwards, count_hooks
from tests.helpers.networks import SmallCNN, seeded
from tests.helpers.refusals import OutOfMemory, refusal
from tests.metrics.subjects import TARGETS, heats, network, pictures

IMAGES, MAPS = pictures(), heats()
STEPS = 15
"""Changed images of a deletion: 14 rows, and the image as it is."""


def test_batches_have_one_size_across_images_methods_and_metrics() -> None:
    model = network()
    seen = count_forwards(model)
    maps = {"one": MAPS, "other": MAPS.flip(2)}
    measure_methods(["Deletion", "Insertion", "Average drop"], maps, IMAGES, model, TARGETS, batch_size=8)
    total = 2 * (2 * (STEPS + STEPS + 1) + 1)  # the image as it is runs once for both methods
    assert seen == [8] * (total // 8) + [total % 8]


def test_equal_changes_run_once() -> None:
    model = network()
    seen = count_forwards(model)
    names = ["Average drop", "Average gain", "Increase in confidence", "Confidence change"]
    measure(names, MAPS, IMAGES, model, TARGETS, batch_size=3)
    assert sum(seen) == 4
    seen.clear()
    road = ["ROAD MoRF", "ROAD LeRF", "ROADCombined"]
    measure(road, MAPS, IMAGES, model, TARGETS, batch_size=3)
    assert sum(seen) == 2 * 18


def test_several_targets_share_what_does_not_depend_on_the_map() -> None:
    model = network()
    seen = count_forwards(model)
    maps = torch.stack([MAPS, MAPS.flip(1)], 1)
    found = measure("Average drop", maps, IMAGES, model, [[3, 0], [1, 2]], batch_size=4)["Average drop"].values
    assert sum(seen) == 2 + 4
    one = [measure("Average drop", maps[:, t], IMAGES, model, [[3, 1], [0, 2]][t]) for t in range(2)]
    assert_close(found.reshape(2, 2), torch.stack([each["Average drop"].values for each in one], 1))


class Lazy(SmallCNN):
    """Fails on all but whole batches of two images."""

    def forward(self, images: Tensor) -> Tensor:
        if len(images) != 2:
            raise RuntimeError("two images, please")
        return super().forward(images)


class Batchwise(SmallCNN):
    """Normalises by the batch's statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.BatchNorm2d(3, track_running_stats=False)

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(self.extra(images))


@pytest.mark.parametrize("kind", [Lazy, Batchwise])
def test_networks_that_take_whole_batches_only(kind: type[nn.Module]) -> None:
    """Get all images, in their order, with the same change."""
    model = seeded(kind()).double()
    found = measure(["Deletion", "ROADCombined"], MAPS, IMAGES, model, TARGETS)
    curve = []
    changing = IMAGES.clone()
    with torch.no_grad():
        curve.append(model(changing).softmax(1)[[0, 1], TARGETS])
        for rows in range(14):
            for image, heat in zip(changing, MAPS, strict=True):
                image.flatten(1)[:, (-heat.flatten()).argsort(stable=True)[12 * rows : 12 * rows + 12]] = 0
            curve.append(model(changing).softmax(1)[[0, 1], TARGETS])
    assert_close(found["Deletion"].curves["probability"], torch.stack(curve, 1), atol=1e-9, rtol=1e-9)
    assert found["ROADCombined"].values.isfinite().all()


def test_a_network_that_always_fails_says_so() -> None:
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise RuntimeError("never")

    assert "never" in refusal(measure, ForwardError, "Deletion", MAPS, IMAGES, Broken(), 0)


@pytest.mark.parametrize("limit", [4, 7])
def test_a_batch_that_does_not_fit_is_halved_once(limit: int) -> None:
    model, sizes = network(), []

    def look(module: nn.Module, args: tuple[Tensor]) -> None:
        sizes.append(len(args[0]))
        args[0].mul_(1 if len(args[0]) <= limit else 0)  # what was written to is not run again
        if len(args[0]) > limit:
            raise OutOfMemory("out of memory")

    expected = measure("Deletion", MAPS, IMAGES, model, TARGETS)["Deletion"].values
    with model.register_forward_pre_hook(look):
        found = measure("Deletion", MAPS, IMAGES, model, TARGETS, batch_size=8)["Deletion"].values
    assert_close(found, expected)
    assert sizes[:2] == [8, 4]
    assert set(sizes[1:-1]) == {4}


def test_less_than_half_a_batch_is_refused() -> None:
    model = network()

    def refuse(module: nn.Module, args: tuple[Tensor]) -> None:
        if len(args[0]) > 2:
            raise OutOfMemory("out of memory")

    with model.register_forward_pre_hook(refuse):
        line = refusal(measure, CamkitError, "Deletion", MAPS, IMAGES, model, TARGETS, batch_size=8)
    assert "out of memory with 4 at a time" in line
    assert "layer" not in line


def test_the_model_is_left_as_it_was() -> None:
    model = network().train()
    model.head.requires_grad_(False)  # type: ignore[union-attr]
    before = {name: each.clone() for name, each in model.state_dict().items()}
    state = torch.get_rng_state()
    measure(["Deletion", "ROADCombined"], MAPS, IMAGES.clone().requires_grad_(), model, TARGETS)
    assert model.training
    assert count_hooks(model) == 0
    assert [each.requires_grad for each in model.parameters()] == [True] * 8 + [False] * 2
    assert all(each.grad is None for each in model.parameters())
    assert_close(dict(model.state_dict()), before, atol=0, rtol=0)
    assert_close(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()


def test_in_inference_mode_and_with_inference_tensors() -> None:
    model = network()
    with torch.inference_mode():
        found = measure("Deletion", MAPS.clone(), IMAGES.clone(), model, TARGETS)["Deletion"].values
    assert_close(found.clone(), measure("Deletion", MAPS, IMAGES, network(), TARGETS)["Deletion"].values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_images_take_the_model_s_precision(dtype: torch.dtype) -> None:
    exact = measure(["Deletion", "ROADCombined"], MAPS, IMAGES, network(), TARGETS)
    found = measure(["Deletion", "ROADCombined"], MAPS, IMAGES, network().to(dtype), TARGETS)
    for name, each in found.items():
        assert each.values.dtype == torch.float64
        assert_close(each.values, exact[name].values, atol=1e-5 if dtype == torch.float32 else 0.1, rtol=0)


def test_channels_last_images() -> None:
    images = IMAGES.contiguous(memory_format=torch.channels_last)
    found = measure(["Deletion", "Insertion"], MAPS, images, network(), TARGETS)
    for name, each in measure(["Deletion", "Insertion"], MAPS, IMAGES, network(), TARGETS).items():
        assert_close(found[name].values, each.values)


class Writing(SmallCNN):
    """Normalises its input in place."""

    def forward(self, images: Tensor) -> Tensor:
        images.mul_(2)
        return super().forward(images)


def test_a_network_that_writes_to_its_input() -> None:
    model, images = seeded(Writing()).double(), IMAGES.clone()
    found = measure("Deletion", MAPS, images, model, TARGETS, batch_size=4)["Deletion"].values
    assert_close(images, IMAGES, atol=0, rtol=0)
    assert_close(found, measure("Deletion", MAPS, 2 * IMAGES, seeded(SmallCNN()).double(), TARGETS)["Deletion"].values)


class Named(nn.Module):
    """Returns its logits in a dict, beside something else."""

    def __init__(self, inner: nn.Module, values: float = 0.0) -> None:
        super().__init__()
        self.inner = inner
        self.values = values

    def forward(self, images: Tensor, extra: float = 0.0) -> dict[str, Tensor]:
        return {"features": images.mean((2, 3)), "logits": self.inner(images) + self.values + extra}


def test_logits_are_found_in_what_the_model_returns() -> None:
    expected = measure("Deletion", MAPS, IMAGES, network(), TARGETS)["Deletion"].values
    assert_close(measure("Deletion", MAPS, IMAGES, Named(network()), TARGETS)["Deletion"].values, expected)


def test_a_cam_s_network_is_called_as_the_cam_calls_it() -> None:
    cam = camkit.EigenCAM(Named(network()), ["inner.conv2"], output="features", forward_kwargs={"extra": 1.0})
    found = measure("Confidence change", MAPS, IMAGES, cam, [0, 2])["Confidence change"].values
    change = (IMAGES * MAPS[:, None]).mean((2, 3)) - IMAGES.mean((2, 3))
    assert_close(found, change[[0, 1], [0, 2]])


def test_scores_that_are_not_finite_are_an_error() -> None:
    line = refusal(measure, NonFiniteError, "Deletion", MAPS, IMAGES, Named(network(), float("nan")), TARGETS)
    assert line.startswith("map 0: the network's score is NaN or infinite on change 0 of Replaced(")


def test_progress_counts_changed_images() -> None:
    said: list[tuple[int, int]] = []
    measure("Deletion", MAPS, IMAGES, network(), TARGETS, batch_size=10, progress=lambda *each: said.append(each))
    assert said == [(10, 30), (20, 30), (30, 30)]


@dataclass(frozen=True)
class Slow:
    """Changed images that threads make."""

    made: list[int] = field(default_factory=list, hash=False, compare=False)
    of_map: bool = True

    def count(self, image: Tensor) -> int:
        return 20

    def images(self, image: Tensor, heat: Tensor, generator: torch.Generator) -> Iterator[Changed]:
        def make(number: int) -> Tensor:
            self.made.append(get_ident())
            return image + number

        for number in range(20):
            yield partial(make, number)


def test_threads_are_ahead_by_a_batch_and_no_more() -> None:
    slow = Slow()
    jobs = Jobs(IMAGES, 1, {"": MAPS[:, None]}, [Request(slow, "")], 0)
    source = jobs.by_image(4)
    first = next(source)
    assert len(slow.made) <= 5
    assert get_ident() not in slow.made
    rest = list(source)
    assert [(job.items[0], job.step) for job in [first, *rest]] == [(i, step) for i in range(2) for step in range(20)]
    assert_close(rest[-1].image, IMAGES[1] + 19)


def test_what_fails_in_a_thread_fails_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: Any) -> Tensor:
        raise ZeroDivisionError("in a thread")

    monkeypatch.setattr("camkit.metrics.road.impute", fail)
    with pytest.raises(ZeroDivisionError, match="in a thread"):
        measure("ROAD MoRF", MAPS, IMAGES, network(), TARGETS)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("name", ["Deletion", "Insertion", "ROADCombined", "Average drop"])
def test_on_a_gpu(name: str) -> None:
    model = network().float()
    expected = measure(name, MAPS, IMAGES.float(), model, TARGETS)[name].values
    found = measure(name, MAPS.cuda(), IMAGES.float().cuda(), model.cuda(), torch.tensor(TARGETS).cuda())[name].values
    assert found.device.type == "cpu"
    assert_close(found, expected, atol=1e-4, rtol=1e-3)
