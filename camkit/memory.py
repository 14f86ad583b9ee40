"""What is remembered of a model for as long as it lives."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

from torch import nn

Known = TypeVar("Known")


class PerModel(Generic[Known]):
    """One ``Known`` per model, made when first asked for and forgotten with it.

    By identity: a model may define equality, and then be unhashable.
    """

    def __init__(self, make: Callable[[], Known]) -> None:
        self._make = make
        self._known: dict[int, Known] = {}

    def of(self, model: nn.Module) -> Known:
        """What is known of ``model``."""
        key = id(model)
        if key not in self._known:
            self._known[key] = self._make()
            weakref.finalize(model, self._known.pop, key, None)
        return self._known[key]
