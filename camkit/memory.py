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
        known = self._known.get(key)
        if known is None:
            made = self._make()
            known = self._known.setdefault(key, made)  # another thread may have been faster
            if known is made:
                weakref.finalize(model, self._known.pop, key, None)
        return known
