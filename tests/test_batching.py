"""Chunks: of any size they give the same, they tell how far they are, and those that don't fit are halved once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from camkit import CAM
from camkit.batching import CACHE_BYTES, MOST, SHARE, Chunks, chunk_size
from camkit.errors import CamkitError, UsageError
from camkit.forward import Setup
from camkit.methods import METHODS
from tests.networks import SmallCNN, SmallViT, seeded
from tests.refusals import refusal

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
CHUNKED = ("ScoreCAM", "SS-CAM", "IS-CAM", "AblationCAM", "SmoothGradCAM++")
CPU = torch.device("cpu")


def options(method: str, **wanted: Any) -> dict[str, Any]:
    return {name: value for name, value in wanted.items() if name in METHODS[method].options}


class Watched(SmallCNN):
    """Notes the batches that it sees; larger ones than ``most`` don't fit into its memory."""

    def __init__(self, most: int = 10**9) -> None:
        super().__init__()
        self.most = most
        self.seen: list[int] = []
        self.error: type[Exception] = torch.OutOfMemoryError

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(len(images))
        if len(images) > self.most:
            raise self.error("DefaultCPUAllocator: can't allocate memory")
        return super().forward(images)


@pytest.mark.parametrize("method", CHUNKED)
class TestChunks:
    @pytest.mark.parametrize(("make", "layer"), [(SmallCNN, "conv2"), (SmallViT, "layers.1.ln1")])
    def test_of_any_size_make_the_same_maps(self, method: str, make: Any, layer: str) -> None:
        model = seeded(make()).double()
        given = options(method, num_samples=5)
        expected = CAM(model, method, layer, **given).explain(IMAGES, [[0, 1], [2, 3]])
        for batch_size in (1, 2, 4, 7, 1000):
            found = CAM(model, method, layer, batch_size=batch_size, **given).explain(IMAGES, [[0, 1], [2, 3]])
            assert_close((found.maps, found.raw), (expected.maps, expected.raw), rtol=1e-6, atol=1e-7)

    @pytest.mark.parametrize("batch_size", [2, 3, 5, 12])
    def test_are_never_larger_than_asked_for(self, method: str, batch_size: int) -> None:
        model = seeded(Watched())
        CAM(model, method, "conv2", batch_size=batch_size, **options(method, num_samples=5))(IMAGES, 1)
        assert max(model.seen) == min(
            batch_size // 2 * 2 if method == "SmoothGradCAM++" else batch_size, largest(method)
        )

    @pytest.mark.parametrize("batch_size", [1, 4, None])
    @pytest.mark.parametrize("whole", [False, True])
    def test_tell_how_far_they_are(self, method: str, batch_size: int | None, whole: bool) -> None:
        class Weighted(SmallCNN):
            def forward(self, images: Tensor, weights: Any = ()) -> Tensor:
                return super().forward(images)

        told: list[tuple[int, int]] = []
        given = options(method, num_samples=5)
        kwargs = {"weights": [1, 2]} if whole else {}
        CAM(
            seeded(Weighted()),
            method,
            "conv2",
            batch_size=batch_size,
            progress=lambda done, total: told.append((done, total)),
            forward_kwargs=kwargs,
            **given,
        )(IMAGES, 1)
        (total,) = {total for _, total in told}
        assert total == 2 * given.get("num_samples", 1) * (1 if method == "SmoothGradCAM++" else 6)
        done = [done for done, _ in told]
        assert done == sorted(set(done))
        assert done[-1] == total

    def test_that_dont_fit_are_halved_once(self, method: str) -> None:
        given = options(method, num_samples=12)
        expected = CAM(seeded(SmallCNN()), method, "conv2", **given)(IMAGES, 1)
        model = seeded(Watched(most=4))
        made = CAM(model, method, "conv2", batch_size=6, **given)(IMAGES, 1)
        assert_close(made, expected, rtol=0, atol=1e-5)
        after = model.seen[model.seen.index(6) + 1 :]
        assert max(after) == (2 if method == "SmoothGradCAM++" else 3)

    def test_half_of_which_doesnt_fit_are_refused(self, method: str) -> None:
        model = seeded(Watched(most=2))
        cam = CAM(model, method, "conv2", batch_size=12, **options(method, num_samples=12))
        message = refusal(cam, CamkitError, IMAGES, 1)
        left = 3 if method in ("ScoreCAM", "AblationCAM") else 6  # the six channels are a chunk
        assert message.startswith(f"out of memory with {left} at a time, half of what was tried first: pass a smaller")
        assert [size for size in model.seen if size > 2] == [2 * left, left]

    def test_of_one_that_dont_fit_are_refused(self, method: str) -> None:
        class Full(SmallCNN):
            calls = 0

            def forward(self, images: Tensor) -> Tensor:
                self.calls += 1
                if self.calls > 4:
                    raise torch.OutOfMemoryError("CUDA out of memory")
                return super().forward(images)

        cam = CAM(seeded(Full()), method, "conv2", batch_size=1, **options(method, num_samples=12))
        one = "2" if method == "SmoothGradCAM++" else "a single one"
        assert refusal(cam, CamkitError, IMAGES, 1).startswith(
            f"out of memory with {one} at a time: use a smaller input"
        )


def largest(method: str) -> int:
    """Rows that go together where nothing bounds them."""
    return {"ScoreCAM": 6, "AblationCAM": 6, "SS-CAM": 30, "IS-CAM": 30, "SmoothGradCAM++": 10}[method]


def test_what_torch_says_on_a_cpu_is_understood() -> None:
    model = seeded(Watched(most=4))
    model.error = RuntimeError
    made = CAM(model, "ScoreCAM", "conv2", batch_size=6)(IMAGES, 1)
    assert model.seen[1:] == [6, 3, 3, 3, 3]
    assert_close(made, CAM(seeded(SmallCNN()), "ScoreCAM", "conv2")(IMAGES, 1), rtol=0, atol=1e-5)


class TestSize:
    def test_is_what_fits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("os.sysconf", lambda name: {"SC_AVPHYS_PAGES": 2**30, "SC_PAGE_SIZE": 4096}[name])
        assert chunk_size(2**20, CPU) == CACHE_BYTES // 2**20
        assert chunk_size(0, CPU) == MOST
        assert chunk_size(10**12, CPU) == 1

    def test_shrinks_where_memory_is_short(self, monkeypatch: pytest.MonkeyPatch) -> None:
        free = 2**24
        monkeypatch.setattr("os.sysconf", lambda name: {"SC_AVPHYS_PAGES": free // 4096, "SC_PAGE_SIZE": 4096}[name])
        assert chunk_size(2**16, CPU) == free // SHARE // 2**16

    def test_of_cuda_is_a_share_of_what_is_free(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (2**30, 2**34))
        assert chunk_size(2**20, torch.device("cuda")) == 2**30 // SHARE // 2**20

    @pytest.mark.parametrize("batch_size", [0, -1, 2.5, "8", True, torch.nan])
    def test_counts_images(self, batch_size: Any) -> None:
        with pytest.raises(UsageError, match="batch_size counts images, got"):
            CAM(seeded(SmallCNN()), "ScoreCAM", batch_size=batch_size)


class TestRows:
    def run(self, size: int, count: int, fits: int, each: int = 1) -> tuple[list[int], list[tuple[int, int]]]:
        told: list[tuple[int, int]] = []
        sizes: list[int] = []

        def step(chunk: slice) -> None:
            if chunk.stop - chunk.start > fits:
                raise torch.OutOfMemoryError("CUDA out of memory")
            sizes.append(chunk.stop - chunk.start)

        Chunks(Setup(progress=lambda *how: told.append(how)), size, count * each, each=each).run(count, step)
        return sizes, told

    def test_come_all_and_once(self) -> None:
        assert self.run(4, 10, 100)[0] == [4, 4, 2]
        assert self.run(4, 10, 3)[0] == [2] * 5
        assert self.run(100, 10, 5)[0] == [5, 5]

    def test_that_go_together_are_counted_one_by_one(self) -> None:
        sizes, told = self.run(8, 10, 100, each=3)
        assert sizes == [2] * 5
        assert told == [(6, 30), (12, 30), (18, 30), (24, 30), (30, 30)]

    def test_an_interrupt_goes_through(self) -> None:
        def step(chunk: slice) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            Chunks(Setup(), 4, 10).run(10, step)


def test_progress_of_several_layers_and_methods_comes_layer_by_layer() -> None:
    told: list[tuple[int, int]] = []
    CAM(seeded(SmallCNN()), "ScoreCAM", ["conv1", "conv2"], progress=lambda *how: told.append(how))(IMAGES, 1)
    assert told == [(6, 12), (12, 12)] * 2


@pytest.mark.parametrize("method", CHUNKED)
def test_networks_that_take_pairs_alone_get_pairs(method: str) -> None:
    """One that takes pairs alone gets both images, each with the same channel's mask."""

    class Pairs(SmallCNN):
        def forward(self, images: Tensor) -> Tensor:
            assert len(images) == 2
            return super().forward(images)

    given = options(method, num_samples=3)
    told: list[tuple[int, int]] = []
    made = CAM(seeded(Pairs()), method, "conv2", progress=lambda *how: told.append(how), **given)(IMAGES, 1)
    assert_close(made, CAM(seeded(SmallCNN()), method, "conv2", **given)(IMAGES, 1), rtol=0, atol=1e-5)
    assert told[-1][0] == told[-1][1]


def test_modules_are_left_alone_where_memory_runs_out() -> None:
    model: nn.Module = seeded(Watched(most=2))
    with pytest.raises(CamkitError):
        CAM(model, "AblationCAM", "conv2", batch_size=12)(IMAGES, 1)
    assert not [module for module in model.modules() if "forward" in module.__dict__]
