"""Activation checkpointing, switched off: its second forward would run without the hooks, and without their tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

from torch.utils import checkpoint


class _Plain:
    """In place of the autograd function of reentrant checkpointing: calls what is checkpointed."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve_rng_state: object, *args: Any) -> Any:
        return function(*args)


def _around(*args: Any, **kwargs: Any) -> Iterator[None]:
    """In place of what the other kind does before and after calling what is checkpointed."""
    yield


class _Switch:
    """Off as long as anybody wants it off; for all threads, as the functions that are called are everybody's.

    Whoever calls ``torch.utils.checkpoint.checkpoint``, by whatever name it was imported (checkpoint_sequential,
    torch's CheckpointWrapper, MMEngine, transformers), ends in one of these.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._users = 0
        self._kept: dict[str, Any] = {}

    def off(self) -> None:
        with self._lock:
            if not self._users:
                for name, plain in _REPLACED.items():
                    self._kept[name] = getattr(checkpoint, name)
                    setattr(checkpoint, name, plain)
            self._users += 1

    def back(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                for name, own in self._kept.items():
                    setattr(checkpoint, name, own)


_REPLACED = {
    name: plain
    for name, plain in (
        ("CheckpointFunction", _Plain),
        ("_checkpoint_without_reentrant_generator", _around),
        ("_checkpoint_without_reentrant_generator_impl", _around),  # since torch 2.14
    )
    if hasattr(checkpoint, name)
}
_SWITCH = _Switch()


@contextmanager
def uncheckpointed() -> Iterator[None]:
    """A context in which what is checkpointed is simply called."""
    _SWITCH.off()
    try:
        yield
    finally:
        _SWITCH.back()
