"""What is remembered of a model: bounded, least recently used first, and forgotten when the model changes."""

from __future__ import annotations

import gc
import weakref
from threading import Barrier, Thread
from typing import Any

import pytest
import torch
from torch import nn

from camkit import CAM
from camkit.engine.cache import MOST, ModelCache, cache_of
from camkit.engine.model_state import borrowed
from tests.helpers.forwards import count_forwards
from tests.helpers.networks import SmallCNN, SmallViT, seeded

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class TestFacts:
    def test_are_kept_and_found(self) -> None:
        cache = ModelCache()
        assert cache.find("key") is None
        assert cache.keep("key", 3) == 3
        assert cache.find("key") == 3
        assert cache.keep("key", 4) == 4
        assert (cache.find("key"), len(cache)) == (4, 1)

    def test_are_found_out_once(self) -> None:
        cache, asked = ModelCache(), []

        def make() -> int:
            asked.append(1)
            return 7

        assert [cache.remember("key", make) for _ in range(3)] == [7, 7, 7]
        assert len(asked) == 1

    def test_that_could_not_be_found_out_leave_nothing(self) -> None:
        cache = ModelCache()
        with pytest.raises(ZeroDivisionError):
            cache.remember("key", lambda: 1 // 0)
        assert (cache.find("key"), len(cache)) == (None, 0)

    def test_are_no_more_than_so_many(self) -> None:
        cache = ModelCache()
        for number in range(3 * MOST):
            cache.keep(number, number)
        assert len(cache) == MOST
        assert cache.find(2 * MOST - 1) is None
        assert [cache.find(number) for number in (2 * MOST, 3 * MOST - 1)] == [2 * MOST, 3 * MOST - 1]

    @pytest.mark.parametrize("use", ["find", "keep", "remember"])
    def test_that_were_used_last_go_last(self, use: str) -> None:
        cache = ModelCache()
        for number in range(MOST):
            cache.keep(number, number)
        if use == "find":
            cache.find(0)
        elif use == "keep":
            cache.keep(0, 0)
        else:
            cache.remember(0, lambda: pytest.fail("it was known"))
        cache.keep("new", 1)
        assert (cache.find(0), cache.find(1), cache.find("new")) == (0, None, 1)

    def test_may_be_kept_by_several_threads(self) -> None:
        cache, barrier = ModelCache(), Barrier(4)

        def work(own: int) -> None:
            barrier.wait()
            for number in range(500):
                cache.keep((own, number), number)
                assert cache.find((own, number)) in (number, None)

        threads = [Thread(target=work, args=(own,)) for own in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(cache) == MOST


class TestChanges:
    """Everything is forgotten when the model's modules change."""

    @pytest.fixture
    def model(self) -> Any:
        model = seeded(SmallCNN())
        with borrowed(model) as cache:
            cache.keep("fact", 1)
        return model

    def fact(self, model: nn.Module) -> int | None:
        with borrowed(model) as cache:
            found: int | None = cache.find("fact")
            return found

    def test_none_and_facts_stay(self, model: Any) -> None:
        model.train()
        model.head.weight.data.zero_()
        model.head.weight = nn.Parameter(torch.ones(5, 6))
        assert self.fact(model) == 1

    def test_a_module_that_is_replaced(self, model: Any) -> None:
        model.norm2 = nn.Identity()
        assert self.fact(model) is None

    def test_a_module_in_place_of_one_that_is_gone(self, model: Any) -> None:
        """Also where it has the same address in memory."""
        for _ in range(20):
            del model.norm2
            model.norm2 = nn.BatchNorm2d(6)
            assert self.fact(model) is None
            with borrowed(model) as cache:
                cache.keep("fact", 1)

    def test_a_module_that_comes_or_goes(self, model: Any) -> None:
        model.extra = nn.Identity()
        assert self.fact(model) is None
        with borrowed(model) as cache:
            cache.keep("fact", 1)
        del model.extra
        assert self.fact(model) is None

    def test_a_module_deep_inside(self) -> None:
        model = seeded(SmallViT())
        with borrowed(model) as cache:
            cache.keep("fact", 1)
        model.layers[1].mlp[1] = nn.ReLU()
        assert self.fact(model) is None


class TestModels:
    def test_have_one_cache_each(self) -> None:
        one, other = seeded(SmallCNN()), seeded(SmallCNN())
        assert cache_of(one) is cache_of(one)
        assert cache_of(one) is not cache_of(other)

    def test_that_are_equal_are_told_apart(self) -> None:
        class Equal(SmallCNN):
            def __eq__(self, other: object) -> bool:
                return isinstance(other, Equal)

            def __hash__(self) -> int:
                return 1

        one, other = seeded(Equal()), seeded(Equal())
        other.norm2 = nn.Identity()
        assert cache_of(one) is not cache_of(other)
        assert [list(CAM(model).target_layers(IMAGES)) for model in (one, other)] == [["norm2"], ["norm1"]]

    @pytest.mark.parametrize("make", [SmallCNN, SmallViT])
    def test_are_not_kept_alive(self, make: type[nn.Module]) -> None:
        model = seeded(make())
        CAM(model)(IMAGES)
        alive, cache = weakref.ref(model), weakref.ref(cache_of(model))
        del model
        gc.collect()
        assert alive() is None
        assert cache() is None

    def test_new_ones_know_nothing_of_those_that_are_gone(self) -> None:
        """Also where one gets the address of another."""
        for _ in range(20):
            model = seeded(SmallCNN())
            runs = count_forwards(model)
            CAM(model)(IMAGES, 1)
            assert runs == [1, 1, 2]
            del model

    def test_get_one_cache_from_several_threads(self) -> None:
        models = [seeded(SmallCNN()) for _ in range(50)]
        barrier = Barrier(4)
        found: list[list[ModelCache]] = []

        def work() -> None:
            barrier.wait()
            found.append([cache_of(model) for model in models])

        threads = [Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(caches == [cache_of(model) for model in models] for caches in found)
