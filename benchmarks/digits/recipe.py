"""How the checkpoint came about: seeded, on one core, from training digits alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn
from torch.nn import functional

from benchmarks.digits.canvases import draw
from benchmarks.digits.network import DigitsCNN, DigitsViT
from benchmarks.provenance import RESULTS

CHECKPOINT = RESULTS / "digits_vit.pth"
CNN_CHECKPOINT = RESULTS / "digits_cnn.pth"
STEPS = 2000
BATCH = 64
RATE = 3e-3
DECAY = 0.05
STAGES = (
    (0.65, ((24, 24), (24, 32), (32, 24))),
    (0.85, ((36, 36), (24, 48), (48, 24), (36, 36))),
    (1.00, ((48, 48), (48, 96), (48, 48), (96, 48))),
)
"""Canvas sizes, taken in turn until that part of the steps is done. On small canvases digits are learnt in a fraction
of the time; the large ones then teach to pass over background."""


Net = TypeVar("Net", bound=nn.Module)


def train(steps: int = STEPS, seed: int = 0, watch: Callable[[DigitsViT, int], object] | None = None) -> DigitsViT:
    """Train the transformer; the same ``steps`` and ``seed`` give the same one on the same machine.

    Args:
        steps: how many batches.
        seed: of weights and canvases.
        watch: is called with the network and the number of steps done: before the first one, and after each.
    """
    return _train(DigitsViT, steps, seed, watch or (lambda model, step: None))


def train_cnn(steps: int = STEPS, seed: int = 0) -> DigitsCNN:
    """Train the convolutional network on the same canvases."""
    return _train(DigitsCNN, steps, seed, lambda model, step: None)


def _train(make: Callable[[], Net], steps: int, seed: int, watch: Callable[[Net, int], object]) -> Net:
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.2)
    total = 0.0
    watch(model, 0)
    for step in range(steps):
        sizes = next(sizes for end, sizes in STAGES if step < end * steps)
        batch = draw("training", BATCH, sizes[step % len(sizes)], generator, single=0.5)
        loss = functional.binary_cross_entropy_with_logits(model(batch.images), batch.presence)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        total += loss.item()
        watch(model, step + 1)
        if (step + 1) % 100 == 0:
            print(f"step {step + 1} of {steps}: loss {total / 100:.4f}", flush=True)
            total = 0.0
    return model.eval()


def load(path: Path = CHECKPOINT) -> DigitsViT:
    """The network as ``python -m benchmarks.digits --train`` left it."""
    model = DigitsViT()
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def load_cnn(path: Path = CNN_CHECKPOINT) -> DigitsCNN:
    """The convolutional network as ``python -m benchmarks.digits --train`` left it."""
    model = DigitsCNN()
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()
