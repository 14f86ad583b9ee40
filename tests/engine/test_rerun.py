"""Reruns on perturbations: in chunks of any size, halved once where they don't fit, or whole batches at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from camkit import CAM
from camkit.engine.network import Network
from camkit.engine.rerun import (
    CACHE_BYTES,
    MEMORY_SHARE,
    MOST_ROWS,
    Chunks,
    alone_or_whole,
    rerun,
    rerun_batch,
    rows_at_a_time,
)
from camkit.errors import CamkitError, ForwardError
from tests.helpers.kinds import options
from tests.helpers.networks import SmallCNN, SmallViT, seeded
from tests.helpers.refusals import OutOfMemory, refusal

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
CHUNKED = ("ScoreCAM", "SS-CAM", "IS-CAM", "AblationCAM", "SmoothGradCAM++")
CPU = torch.device("cpu")


class Watched(SmallCNN):
    """Notes the batches that it sees; larger ones than ``most`` don't fit into its memory."""

    def __init__(self, most: int = 10**9) -> None:
        super().__init__()
        self.most = most
        self.seen: list[int] = []
        self.error: type[Exception] = OutOfMemory

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(len(images))
        if len(images) > self.most:
            raise self.error("DefaultCPUAllocator: can't allocate memory")
        return super().forward(images)


@pytest.mark.parametrize("method", CHUNKED)
class TestMethods:
    """Of all methods that rerun the network, perturbations go through it in chunks."""

    @pytest.mark.parametrize(("make", "layer"), [(SmallCNN, "conv2"), (SmallViT, "layers.1.ln1")])
    def test_chunks_of_any_size_make_the_same_maps(self, method: str, make: Any, layer: str) -> None:
        model = seeded(make()).double()
        given = options(method, num_samples=5)
        expected = CAM(model, method, layer, **given).explain(IMAGES, [[0, 1], [2, 3]])
        for batch_size in (1, 2, 4, 7, 1000):
            found = CAM(model, method, layer, batch_size=batch_size, **given).explain(IMAGES, [[0, 1], [2, 3]])
            assert_close((found.maps, found.raw), (expected.maps, expected.raw), rtol=1e-6, atol=1e-7)

    @pytest.mark.parametrize("batch_size", [2, 3, 5, 12])
    def test_chunks_are_never_larger_than_asked_for(self, method: str, batch_size: int) -> None:
        model = seeded(Watched())
        CAM(model, method, "conv2", batch_size=batch_size, **options(method, num_samples=5))(IMAGES, 1)
        assert max(model.seen) == min(
            batch_size // 2 * 2 if method == "SmoothGradCAM++" else batch_size, largest(method)
        )

    @pytest.mark.parametrize("batch_size", [1, 4, None])
    @pytest.mark.parametrize("whole", [False, True])
    def test_progress_is_told(self, method: str, batch_size: int | None, whole: bool) -> None:
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

    def test_chunks_that_dont_fit_are_halved_once(self, method: str) -> None:
        given = options(method, num_samples=12)
        expected = CAM(seeded(SmallCNN()).double(), method, "conv2", **given)(IMAGES, 1)
        model = seeded(Watched(most=4)).double()
        made = CAM(model, method, "conv2", batch_size=6, **given)(IMAGES, 1)
        assert_close(made, expected, rtol=0, atol=1e-5)
        after = model.seen[model.seen.index(6) + 1 :]
        assert max(after) == (2 if method == "SmoothGradCAM++" else 3)

    def test_chunks_half_of_which_doesnt_fit_are_refused(self, method: str) -> None:
        model = seeded(Watched(most=2))
        cam = CAM(model, method, "conv2", batch_size=12, **options(method, num_samples=12))
        message = refusal(cam, CamkitError, IMAGES, 1)
        left = 3 if method in ("ScoreCAM", "AblationCAM") else 6  # the six channels are a chunk
        assert message.startswith(f"out of memory with {left} at a time, half of what was tried first: pass a smaller")
        assert [size for size in model.seen if size > 2] == [2 * left, left]

    def test_chunks_of_one_that_dont_fit_are_refused(self, method: str) -> None:
        class Full(SmallCNN):
            calls = 0

            def forward(self, images: Tensor) -> Tensor:
                self.calls += 1
                if self.calls > 4:
                    raise OutOfMemory("CUDA out of memory")
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
    model = seeded(Watched(most=4)).double()
    model.error = RuntimeError
    made = CAM(model, "ScoreCAM", "conv2", batch_size=6)(IMAGES, 1)
    assert model.seen[-5:] == [6, 3, 3, 3, 3]
    assert_close(made, CAM(seeded(SmallCNN()).double(), "ScoreCAM", "conv2")(IMAGES, 1), rtol=0, atol=1e-5)


class TestRowsAtATime:
    def test_are_what_fits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("os.sysconf", lambda name: {"SC_AVPHYS_PAGES": 2**30, "SC_PAGE_SIZE": 4096}[name])
        assert rows_at_a_time(2**20, CPU) == CACHE_BYTES // 2**20
        assert rows_at_a_time(0, CPU) == MOST_ROWS
        assert rows_at_a_time(10**12, CPU) == 1

    def test_are_fewer_where_memory_is_short(self, monkeypatch: pytest.MonkeyPatch) -> None:
        free = 2**24
        monkeypatch.setattr("os.sysconf", lambda name: {"SC_AVPHYS_PAGES": free // 4096, "SC_PAGE_SIZE": 4096}[name])
        assert rows_at_a_time(2**16, CPU) == free // MEMORY_SHARE // 2**16

    def test_of_cuda_are_a_share_of_what_is_free(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (2**30, 2**34))
        assert rows_at_a_time(2**20, torch.device("cuda")) == 2**30 // MEMORY_SHARE // 2**20


class TestChunks:
    def sizes(self, size: int, count: int, fits: int, each: int = 1) -> tuple[list[int], list[tuple[int, int]]]:
        told: list[tuple[int, int]] = []
        sizes: list[int] = []

        def step(chunk: slice) -> None:
            if chunk.stop - chunk.start > fits:
                raise OutOfMemory("CUDA out of memory")
            sizes.append(chunk.stop - chunk.start)

        chunks = Chunks(size, count * each, lambda *how: told.append(how), each=each)
        list(chunks.run(count, step))
        return sizes, told

    def test_come_all_and_once(self) -> None:
        assert self.sizes(4, 10, 100)[0] == [4, 4, 2]
        assert self.sizes(4, 10, 3)[0] == [2] * 5
        assert self.sizes(100, 10, 5)[0] == [5, 5]

    def test_that_go_together_are_counted_one_by_one(self) -> None:
        sizes, told = self.sizes(8, 10, 100, each=3)
        assert sizes == [2] * 5
        assert told == [(6, 30), (12, 30), (18, 30), (24, 30), (30, 30)]

    def test_an_interrupt_goes_through(self) -> None:
        def step(chunk: slice) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            list(Chunks(4, 10).run(10, step))


class Rerun:
    """A network with noted chunks of perturbations, each of which returns its image's and its own number."""

    def __init__(self, *, only: int | None = None, fits: int = 10**9, **how: Any) -> None:
        self.told: list[tuple[int, int]] = []
        self.network = Network(nn.Identity(), progress=lambda *how: self.told.append(how), **how)
        self.seen: list[tuple[int | None, list[int]]] = []
        self._only, self._fits = only, fits

    def change(self, image: int | None, items: Tensor) -> Tensor:
        self.seen.append((image, items.tolist()))
        if len(items) > self._fits:
            raise OutOfMemory("CUDA out of memory")
        if self._only not in (None, len(items)):
            raise ForwardError("it takes batches of another size")
        owners = torch.arange(len(items)) if image is None else torch.full_like(items, image)
        return torch.stack([owners, items], 1)

    def __call__(self, items: Tensor) -> Tensor:
        return rerun(self.network, self.change, items, row_bytes=0)


ITEMS = torch.tensor([[5, 3, 9], [2, 2, 7]])
EXPECTED = torch.tensor([[[0, 5], [0, 3], [0, 9]], [[1, 2], [1, 2], [1, 7]]])


class TestRerun:
    def test_runs_the_perturbations_of_one_image_after_the_other(self) -> None:
        run = Rerun(batch_size=2)
        assert_close(run(ITEMS), EXPECTED)
        assert run.seen == [(0, [5, 3]), (0, [9]), (1, [2, 2]), (1, [7])]
        assert run.told == [(2, 6), (3, 6), (5, 6), (6, 6)]

    def test_asks_the_memory_where_no_size_is_given(self) -> None:
        run = Rerun()
        assert_close(run(ITEMS), EXPECTED)
        assert run.seen == [(0, [5, 3, 9]), (1, [2, 2, 7])]

    @pytest.mark.parametrize("how", [{"forward_kwargs": {"weights": [1, 2]}}, {"only": 2}], ids=["told", "found out"])
    def test_runs_whole_batches_where_the_network_takes_no_others(self, how: dict[str, Any]) -> None:
        run = Rerun(**how)
        assert_close(run(ITEMS), EXPECTED)
        found_out = "only" in how
        assert run.seen == [(0, [5, 3, 9])] * found_out + [(None, [5, 2]), (None, [3, 2]), (None, [9, 7])]
        assert run.told == [(2, 6), (4, 6), (6, 6)]
        assert run.network.takes_whole_batches

    def test_finds_that_out_once(self) -> None:
        run = Rerun(only=2)
        run(ITEMS)
        run.seen.clear()
        run(ITEMS)
        assert [image for image, _ in run.seen] == [None] * 3

    def test_that_fails_on_whole_batches_too_is_an_error(self) -> None:
        with pytest.raises(ForwardError, match="another size"):
            Rerun(only=7)(ITEMS)

    def test_halves_what_does_not_fit(self) -> None:
        run = Rerun(batch_size=3, fits=1)
        assert_close(run(ITEMS), EXPECTED)
        assert [len(items) for _, items in run.seen] == [3, 1, 1, 1, 1, 1, 1]
        assert run.told[-1] == (6, 6)

    def test_halves_once(self) -> None:
        message = refusal(Rerun(batch_size=4, fits=1), CamkitError, torch.zeros(1, 8, dtype=torch.long))
        assert message.startswith("out of memory with 2 at a time, half of what was tried first: pass a smaller")

    def test_of_a_whole_batch_that_does_not_fit_is_an_error(self) -> None:
        run = Rerun(fits=1, forward_kwargs={"weights": [1, 2]})
        assert refusal(run, CamkitError, ITEMS).startswith("out of memory with 2 at a time: use a smaller input")

    def test_runs_without_a_graph_and_not_in_inference_mode(self) -> None:
        modes: list[tuple[bool, bool]] = []

        def change(image: int | None, items: Tensor) -> Tensor:
            modes.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
            return items

        rerun(Network(nn.Identity()), change, ITEMS, row_bytes=0)
        assert set(modes) == {(False, False)}


class TestRerunBatch:
    def run(self, network: Network, *, rows: int, fails_on: int | None = None, quiet: bool = False) -> list[range]:
        seen: list[range] = []

        def change(part: slice) -> range:
            seen.append(range(part.start, part.stop))
            if fails_on is not None and len(seen[-1]) >= fails_on:
                raise ForwardError("it takes batches of another size")
            return seen[-1]

        made = [number for part in rerun_batch(network, change, 5, 2, rows, quiet=quiet) for number in part]
        assert made == [0, 1, 2, 3, 4]
        return seen

    @pytest.mark.parametrize(("rows", "sizes"), [(1, [1] * 5), (4, [2, 2, 1]), (5, [2, 2, 1]), (100, [5])])
    def test_runs_as_many_perturbations_of_all_images_as_make_so_many_rows(self, rows: int, sizes: list[int]) -> None:
        told: list[tuple[int, int]] = []
        network = Network(nn.Identity(), progress=lambda *how: told.append(how))
        assert [len(part) for part in self.run(network, rows=rows)] == sizes
        assert told[-1] == (10, 10)
        assert [done for done, _ in told] == [2 * sum(sizes[: n + 1]) for n in range(len(sizes))]

    def test_may_be_quiet(self) -> None:
        network = Network(nn.Identity(), progress=lambda *how: pytest.fail("told"))
        self.run(network, rows=4, quiet=True)

    def test_runs_them_one_by_one_where_the_network_fails_on_more(self) -> None:
        network = Network(nn.Identity())
        assert [len(part) for part in self.run(network, rows=8, fails_on=2)] == [4, 1, 1, 1, 1, 1]
        assert network.takes_whole_batches
        assert [len(part) for part in self.run(network, rows=8, fails_on=2)] == [1] * 5

    def test_that_fails_on_one_is_an_error(self) -> None:
        with pytest.raises(ForwardError, match="another size"):
            self.run(Network(nn.Identity()), rows=8, fails_on=1)


class TestAloneOrWhole:
    def test_tries_the_first_image_alone(self) -> None:
        network = Network(nn.Identity())
        assert alone_or_whole(network, lambda image: image) == 0
        assert not network.takes_whole_batches

    def test_tries_all_together_where_that_fails(self) -> None:
        def attempt(image: int | None) -> str:
            if image is not None:
                raise ForwardError("it takes pairs")
            return "together"

        network = Network(nn.Identity())
        assert alone_or_whole(network, attempt) == "together"
        assert network.takes_whole_batches

    def test_tries_all_together_where_that_is_known(self) -> None:
        network = Network(nn.Identity(), forward_kwargs={"weights": [1, 2]})
        assert alone_or_whole(network, lambda image: image) is None


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
    made = CAM(seeded(Pairs()).double(), method, "conv2", progress=lambda *how: told.append(how), **given)(IMAGES, 1)
    assert_close(made, CAM(seeded(SmallCNN()).double(), method, "conv2", **given)(IMAGES, 1), rtol=0, atol=1e-5)
    assert told[-1][0] == told[-1][1]


def test_modules_are_left_alone_where_memory_runs_out() -> None:
    model: nn.Module = seeded(Watched(most=2))
    with pytest.raises(CamkitError):
        CAM(model, "AblationCAM", "conv2", batch_size=12)(IMAGES, 1)
    assert not [module for module in model.modules() if "forward" in module.__dict__]


@pytest.mark.parametrize("method", ["ScoreCAM", "AblationCAM"])
def test_statistics_of_the_batch_are_those_of_the_images(method: str) -> None:
    model = seeded(SmallCNN())
    model.norm2 = nn.BatchNorm2d(6, track_running_stats=False).eval()
    model.double()
    maps = [CAM(model, method, "conv1", batch_size=size)(IMAGES, 1) for size in (1, 8)]
    assert_close(*maps)
