"""Thousands of calls in a row: memory that grows, or tensors that outlive their call, show here."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import torch

import camkit
from benchmarks.speed.cells import METHODS
from benchmarks.speed.memory import resident
from benchmarks.speed.networks import NETWORKS, build, images
from benchmarks.speed.timing import quiet

SETTLED = 100
"""Calls after which caches are full and memory must not grow."""
GROWTH = 0.01


def soak(calls: int, device: str = "cpu") -> dict[str, Any]:
    """Explain a batch again and again, in three ways, and look at what remains."""
    model, batch, layer = build("tiny", device), images("tiny", 4, device), NETWORKS["tiny"].source.late
    cam = camkit.CAM(model, "GradCAM", layer)
    smooth = camkit.AugSmooth(camkit.EigenSmooth(camkit.CAM(model, "LayerCAM", layer)))
    made: list[weakref.ref[torch.Tensor]] = []
    settled = tensors = 0
    with quiet():
        for call in range(calls):
            if call == SETTLED:
                settled, tensors = _memory(device), _tensors()
            match call % 3:
                case 0:
                    found = [cam(batch)]
                case 1:
                    found = [smooth.explain(batch, [[1, 2]] * len(batch)).maps]
                case _:
                    found = [each.maps for each in camkit.explain(model, batch, METHODS, target_layers=layer).values()]
            made += map(weakref.ref, found)
            del found
        end, left = _memory(device), _tensors()
    growth = end / settled - 1
    alive = sum(ref() is not None for ref in made)
    return {
        "calls": calls,
        "settled_after": SETTLED,
        "settled_bytes": settled,
        "end_bytes": end,
        "growth": growth,
        "maps_made": len(made),
        "maps_alive": alive,
        "tensors_more": left - tensors,
        "target": GROWTH,
        "met": growth <= GROWTH and alive == 0 and left <= tensors,
    }


def _memory(device: str) -> int:
    gc.collect()
    return torch.cuda.memory_allocated() if device == "cuda" else resident()


def _tensors() -> int:
    return sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())
