"""What is remembered of a model for as long as it lives: one bounded structure per model."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from threading import RLock
from typing import Any, TypeVar

from torch import nn

Fact = TypeVar("Fact")

MOST = 256
"""How many facts are kept of a model; the least recently used go first. Facts hold no tensors."""


class ModelCache:
    """Facts about one model: layouts, default layers, attention blocks, what it does with its layers' outputs.

    Everything is forgotten when the model's modules change.

    Attributes:
        lock: one thread at a time runs the model.
        in_use: whether the model is borrowed, by the thread that holds the lock.
        is_altered: whether the model has other parameters for a while: default layers stay those chosen before.
        changes: how often the model's modules were seen to have changed.
    """

    def __init__(self) -> None:
        self.lock = RLock()
        self.in_use = False
        self.is_altered = False
        self.changes = 0
        self._facts: OrderedDict[Hashable, Any] = OrderedDict()
        self._modules: list[int] = []
        self._alive: list[weakref.ref[nn.Module]] = []

    def __len__(self) -> int:
        return len(self._facts)

    def find(self, key: Hashable) -> Any:
        """The fact, or None."""
        with self.lock:
            if key in self._facts:
                self._facts.move_to_end(key)
            return self._facts.get(key)

    def keep(self, key: Hashable, fact: Fact) -> Fact:
        """Remember a fact, and return it."""
        with self.lock:
            self._facts[key] = fact
            self._facts.move_to_end(key)
            while len(self._facts) > MOST:
                self._facts.popitem(last=False)
        return fact

    def remember(self, key: Hashable, make: Callable[[], Fact]) -> Fact:
        """The fact, found out with ``make`` where it isn't known."""
        found: Fact | None = self.find(key)
        return self.keep(key, make()) if found is None else found

    @contextmanager
    def altered(self) -> Iterator[None]:
        """A context in which the model has other parameters for a while: what is found out in it is forgotten."""
        facts, self._facts = self._facts, self._facts.copy()
        was, self.is_altered = self.is_altered, True
        try:
            yield
        finally:
            self._facts, self.is_altered = facts, was

    def check(self, modules: Mapping[int, nn.Module]) -> None:
        """Forget everything if the model has other modules than before.

        Args:
            modules: by their ids, in any order that is always the same.
        """
        ids = list(modules)
        if ids == self._modules:
            return
        self._facts.clear()
        self.changes += 1
        self._modules = ids
        self._alive = [weakref.ref(module, self._is_gone) for module in modules.values()]

    def _is_gone(self, ref: weakref.ref[nn.Module]) -> None:
        # Another module may take over the id.
        self._modules = []


_CACHES: dict[int, ModelCache] = {}


def cache_of(model: nn.Module) -> ModelCache:
    """The model's cache, which goes when the model goes.

    By identity: a model may define equality, and then be unhashable.
    """
    key = id(model)
    found = _CACHES.get(key)
    if found is None:
        made = ModelCache()
        found = _CACHES.setdefault(key, made)  # another thread may have been faster
        if found is made:
            weakref.finalize(model, _CACHES.pop, key, None)
    return found
