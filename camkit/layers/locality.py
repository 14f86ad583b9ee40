"""Test a layout: perturb a quarter of the image and see where the layer's output changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from camkit.compat import float64
from camkit.engine.hooks import Capture
from camkit.engine.tensors import floats
from camkit.layers.survey import noise_like
from camkit.typing import Activations, Images

QUARTER = 0.25
FOCUS = 0.35
"""Share of the change in the most changed quarter of positions; below it the change is everywhere alike."""
TRACE = 0.01
"""How much of the noise there is outside the quarter that is tried."""
AGREEMENT = 0.4
"""How much of that share must lie on the perturbed quarter of the image: 0 is chance, 1 is all."""


@dataclass(frozen=True)
class Trial:
    """One layer's outputs for noise, and for noise inverted in its upper right, and in its lower left quarter."""

    plain: Any
    right: Any
    left: Any

    @property
    def is_blind(self) -> bool:
        """Whether the layer doesn't depend on the image at all."""
        leaves = [floats(output) for output in (self.plain, self.right, self.left)]
        return all(plain.equal(right) and plain.equal(left) for plain, right, left in zip(*leaves, strict=True))

    def verdict(self, transform: Callable[[Any], Activations]) -> bool | None:
        """Whether with this layout the positions that change most are those where the image was perturbed.

        None if the test can't decide, because the change is much the same everywhere, as behind uniform attention.
        False also if the layer doesn't depend on the image.
        """
        try:
            plain, right, left = (float64(transform(output)) for output in (self.plain, self.right, self.left))
        except RuntimeError:  # another shape: its first dimension isn't the batch
            return False
        changes = [_energy(right - plain), _energy(left - plain).flip(0, 1)]
        totals = [float(change.sum()) for change in changes]
        if not all(total < float("inf") for total in totals):
            return None
        if not all(totals):
            return False
        focus = sum(_largest_quarter(change) for change in changes) / 2
        if focus < FOCUS:
            return None
        agreement = (sum(_upper_right(change) for change in changes) / 2 - QUARTER) / (focus - QUARTER)
        return agreement > AGREEMENT


def tilted(images: Images) -> Images:
    """The images with noise in their upper right quarter, and a trace of it everywhere else."""
    noise = noise_like(images)
    height, width = images.shape[-2] // 2, images.shape[-1] // 2
    share = torch.full_like(images, TRACE)
    share[..., :height, width:] = 1
    return images + share * (noise - images)


def seems_turned(change: Tensor) -> bool:
    """Whether the change (B, C, *S) that :func:`tilted` images make lies in the lower left, not in the upper right."""
    energy = _energy(float64(change))
    total = float(energy.sum())
    if not 0 < total < float("inf"):
        return False
    here, there = _upper_right(energy), _upper_right(energy.flip(0, 1))
    return there > 2 * here and there > FOCUS


def trials(
    layers: Mapping[str, nn.Module], images: Images, forward: Callable[[Images], Any], calls: Mapping[str, int]
) -> dict[str, Trial]:
    """Run the locality test of all ``layers`` at once, in three forwards.

    Returns:
        In the order of execution; layers that don't run are left out.
    """
    plain = noise_like(images)
    inverted = plain.amin() + plain.amax() - plain
    half_height, half_width = plain.shape[-2] // 2, plain.shape[-1] // 2
    right, left = plain.clone(), plain.clone()
    right[..., :half_height, half_width:] = inverted[..., :half_height, half_width:]
    left[..., half_height:, :half_width] = inverted[..., half_height:, :half_width]
    outputs = []
    with torch.no_grad():
        for shown in (plain, right, left):
            with Capture(layers, roots=False, calls=calls) as capture:
                forward(shown)
            outputs.append(capture.outputs)
    ran = [name for name in outputs[0] if all(name in each for each in outputs)]
    return {name: Trial(*(each[name] for each in outputs)) for name in ran}


def _energy(change: Tensor) -> Tensor:
    """The squared change per position, (H, W), of (B, C, *S)."""
    energy = change.square().sum((0, 1))
    return energy.sum(0) if energy.ndim == 3 else energy


def _upper_right(energy: Tensor) -> float:
    """The share of the upper right quarter; cells that its border cuts count in part."""
    rows, columns = (
        (side / 2 - torch.arange(side, dtype=energy.dtype, device=energy.device)).clamp(0, 1) for side in energy.shape
    )
    return float((energy * rows[:, None] * columns.flip(0)).sum() / energy.sum())


def _largest_quarter(energy: Tensor) -> float:
    """The share of the quarter of positions with the largest energy, with a fraction of one where four don't divide."""
    sizes = energy.flatten().sort(descending=True).values
    counted = (sizes.numel() * QUARTER - torch.arange(sizes.numel(), dtype=sizes.dtype, device=sizes.device)).clamp(
        0, 1
    )
    return float((sizes * counted).sum() / sizes.sum())
