"""Test a layout: perturb a quarter of the image and see where the layer's output changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from camkit.compat import float64
from camkit.engine.hooks import Capture
from camkit.engine.tensors import floats
from camkit.layers.survey import is_flat, noise_like
from camkit.typing import Activations, Images

QUARTER = 0.25
FOCUS = 0.35
"""Share of the change in the most changed quarter of positions; below it the change is everywhere alike."""
STRONG = 0.6
"""The same where chance must be ruled out: tokens that begin without the image change in some pattern, too."""
TRACE = 0.01
"""How much of the noise there is outside the quarter that is tried."""
AGREEMENT = 0.35
"""How much of that share must lie on the perturbed quarters of the image: 0 is chance, 1 is all.

A layout that is right about one quarter alone gets a third at most.
"""


@dataclass(frozen=True)
class Trial:
    """One layer's outputs for noise, and for noise inverted in its upper right, and in its upper left quarter."""

    plain: Any
    right: Any
    left: Any
    is_flat: bool = False
    """Whether the images have one side only: halves are tried then."""

    @property
    def is_blind(self) -> bool:
        """Whether the layer doesn't depend on the image at all."""
        leaves = [floats(output) for output in (self.plain, self.right, self.left)]
        return all(plain.equal(right) and plain.equal(left) for plain, right, left in zip(*leaves, strict=True))

    def verdict(self, transform: Callable[[Any], Activations], least: float = FOCUS) -> bool | None:
        """Whether with this layout the positions that change most are those where the image was perturbed.

        None if the test can't decide, because the change is much the same everywhere, as behind uniform attention.
        False also if the layer doesn't depend on the image.

        Args:
            transform: the layout.
            least: the share of the change that must be in the most changed quarter of positions.
        """
        changes = self._changes(transform)
        if changes is None:
            return False
        totals = [float(change.sum()) for change in changes]
        if not all(total < float("inf") for total in totals):
            return None
        if not all(totals):
            return False
        focus = self._focus(changes)
        if (focus - self._part) / (1 - self._part) < (least - QUARTER) / (1 - QUARTER):
            return None
        return self.agreement(transform) > AGREEMENT

    def agreement(self, transform: Callable[[Any], Activations]) -> float:
        """How much of the most changed positions' share lies where the image was perturbed: 0 is chance, 1 is all."""
        changes = self._changes(transform) or []
        found = sum(_upper_right(change, is_flat=self.is_flat) for change in changes) / 2
        return (found - self._part) / (self._focus(changes) - self._part)

    @property
    def _part(self) -> float:
        return 2 * QUARTER if self.is_flat else QUARTER

    def _focus(self, changes: Sequence[Tensor]) -> float:
        return sum(_largest(change, self._part) for change in changes) / 2

    def _changes(self, transform: Callable[[Any], Activations]) -> list[Tensor] | None:
        """The energies of the two changes, both as if the upper right had been perturbed; None for another shape."""
        try:
            plain, right, left = (float64(transform(output)) for output in (self.plain, self.right, self.left))
        except RuntimeError:  # its first dimension isn't the batch
            return None
        return [_energy(right - plain), _energy(left - plain).flip(*((0, 1) if self.is_flat else (1,)))]


def tilted(images: Images) -> Images:
    """The images with noise in their upper right quarter, and a trace of it everywhere else."""
    noise = noise_like(images)
    share = torch.full_like(images, TRACE)
    share[_corners(images)[0]] = 1
    return images + share * (noise - images)


def in_other_corner(change: Tensor) -> bool | None:
    """Whether the change (B, C, *S) that :func:`tilted` images make lies in the lower left, not in the upper right.

    None where neither stands out.
    """
    energy = _energy(float64(change))
    total = float(energy.sum())
    if not 0 < total < float("inf"):
        return None
    here, there = _upper_right(energy), _upper_right(energy.flip(0, 1))
    if max(here, there) < FOCUS or max(here, there) < 2 * min(here, there):
        return None
    return there > here


def trials(
    layers: Mapping[str, nn.Module], images: Images, forward: Callable[[Images], Any], calls: Mapping[str, int]
) -> dict[str, Trial]:
    """Run the locality test of all ``layers`` at once, in three forwards.

    Returns:
        In the order of execution; layers that don't run are left out.
    """
    plain = noise_like(images)
    inverted = plain.amin() + plain.amax() - plain
    right, left = plain.clone(), plain.clone()
    for changed, corner in zip((right, left), _corners(plain), strict=True):
        changed[corner] = inverted[corner]
    outputs = []
    with torch.no_grad():
        for shown in (plain, right, left):
            with Capture(layers, roots=False, calls=calls) as capture:
                forward(shown)
            outputs.append(capture.outputs)
    ran = [name for name in outputs[0] if all(name in each for each in outputs)]
    flat = is_flat(images.shape[2:])
    return {name: Trial(outputs[0][name], outputs[1][name], outputs[2][name], flat) for name in ran}


def _corners(images: Images) -> tuple[Any, Any]:
    """Where the upper right and the upper left quarter are, of signals the right and the left half.

    Of all ways to turn and mirror an image only one leaves both where they are.
    """
    height, width = (1 if images.ndim == 3 else images.shape[-2]) // 2, images.shape[-1] // 2
    right, left = slice(width, None), slice(width)
    if not width:  # a column
        return (..., slice(height), slice(None)), (..., slice(height, None), slice(None))
    if not height:
        return (..., right), (..., left)
    return (..., slice(height), right), (..., slice(height), left)


def _energy(change: Tensor) -> Tensor:
    """The squared change per position, (H, W), of (B, C, *S); of signals (1, L)."""
    energy = change.square().sum((0, 1))
    if energy.ndim == 1:
        return energy[None]
    return energy.sum(0) if energy.ndim == 3 else energy


def _upper_right(energy: Tensor, *, is_flat: bool = False) -> float:
    """The share of the upper right quarter; cells that its border cuts count in part. Of flat images, of the half."""
    rows, columns = (
        torch.ones_like(energy[0, :1])
        if is_flat and side == 1
        else (side / 2 - torch.arange(side, dtype=energy.dtype, device=energy.device)).clamp(0, 1)
        for side in energy.shape
    )
    return float((energy * rows[:, None] * columns.flip(0)).sum() / energy.sum())


def _largest(energy: Tensor, part: float) -> float:
    """The share of the part of positions with the largest energy, with a fraction of one where it isn't whole."""
    sizes = energy.flatten().sort(descending=True).values
    counted = (sizes.numel() * part - torch.arange(sizes.numel(), dtype=sizes.dtype, device=sizes.device)).clamp(0, 1)
    return float((sizes * counted).sum() / sizes.sum())
