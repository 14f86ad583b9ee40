"""Activation checkpointing, switched off: its second forward would run without the hooks, and without their tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils import checkpoint

from camkit.compat import Shared


class _Plain:
    """In place of the autograd function of reentrant checkpointing: calls what is checkpointed."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve_rng_state: object, *args: Any) -> Any:
        return function(*args)


def _around(*args: Any, **kwargs: Any) -> Iterator[None]:
    """In place of what the other kind does before and after calling what is checkpointed."""
    yield


_REPLACED = {
    name: plain
    for name, plain in (
        ("CheckpointFunction", _Plain),
        ("_checkpoint_without_reentrant_generator", _around),
        ("_checkpoint_without_reentrant_generator_impl", _around),  # since torch 2.14
    )
    if hasattr(checkpoint, name)
}
"""What whoever calls ``torch.utils.checkpoint.checkpoint`` ends in, by whatever name it was imported
(checkpoint_sequential, torch's CheckpointWrapper, MMEngine, transformers)."""


@contextmanager
def _replaced() -> Iterator[None]:
    own = {name: getattr(checkpoint, name) for name in _REPLACED}
    for name, plain in _REPLACED.items():
        setattr(checkpoint, name, plain)
    try:
        yield
    finally:
        for name, each in own.items():
            setattr(checkpoint, name, each)


uncheckpointed = Shared(_replaced)
"""A context in which what is checkpointed is simply called."""
