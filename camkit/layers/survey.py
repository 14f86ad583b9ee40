"""Survey a network's token sequences: the grids it works on, and the tokens that don't depend on the image."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from camkit.engine.hooks import watching
from camkit.engine.tensors import is_float
from camkit.errors import ForwardError
from camkit.typing import Images

Grid = tuple[int, ...]
Extra = tuple[int, int]
"""The number of tokens without a place in front of the grid, and at the back."""
CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.GroupNorm,
    nn.LocalResponseNorm,
    nn.Upsample,
)
"""Modules whose second dimension is the channels, whatever their input."""
_EARLY = 4  # sequences kept of each length: the very first may be a table of position embeddings


@dataclass(frozen=True)
class Survey:
    """What two forwards showed, of the images and of noise.

    Attributes:
        grids: spatial shapes of convolutions' outputs, and sizes that modules were called with (``hw_shape``, ``H,
            W``), in order of appearance.
        other_grids: possible spatial shapes of other feature maps.
        extra_tokens: length of a sequence to the number of tokens that don't depend on the image (class, distillation,
            registers), where such a sequence first appears, in front of any attention. None if they stand between
            tokens that do.
        blind: lengths of sequences of which one doesn't depend on the image at all: learned queries, or tables of
            positions.
    """

    grids: dict[Grid, None] = field(default_factory=dict)
    other_grids: dict[Grid, None] = field(default_factory=dict)
    extra_tokens: dict[int, Extra | None] = field(default_factory=dict)
    blind: set[int] = field(default_factory=set)


def survey(model: nn.Module, images: Images, forward: Callable[[Images], Any]) -> Survey:
    """Compare every module's output for ``images`` with that for noise in their range.

    Args:
        model: the network.
        images: (B, C, H, W) or (B, C, D, H, W).
        forward: calls the network.
    """
    seen = Survey()
    kept: dict[int, list[Tensor]] = {}
    batch, size, dimensions = len(images), tuple(images.shape[2:]), images.ndim - 2

    def is_feature(output: Any) -> TypeGuard[Tensor]:
        return is_float(output) and output.ndim > 0 and len(output) == batch

    def look(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        for grid in _sizes(args, dimensions):
            seen.grids.setdefault(grid)
        if is_flat(size) and is_feature(output) and output.ndim == 3 and isinstance(module, CHANNELS_FIRST):
            seen.grids.setdefault(along_flat(size, output.shape[2]))
        if is_feature(output) and output.ndim == images.ndim:
            if isinstance(module, CHANNELS_FIRST):
                seen.grids.setdefault(tuple(output.shape[2:]))
            else:
                seen.other_grids.setdefault(tuple(output.shape[2:]))
                seen.other_grids.setdefault(tuple(output.shape[1:-1]))
        if is_feature(output) and output.ndim == 3 and not isinstance(module, CHANNELS_FIRST):
            sequences = kept.setdefault(output.shape[1], [])
            if len(sequences) < _EARLY:
                sequences.append(output.detach().clone())

    def compare(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not is_feature(output) or output.ndim != 3 or not kept.get(output.shape[1]):
            return
        if isinstance(module, CHANNELS_FIRST):
            return
        length = output.shape[1]
        before = kept[length].pop(0)
        if length in seen.extra_tokens or output.shape != before.shape:
            return
        same = (output == before).all(2).all(0)
        if same.all():
            seen.blind.add(length)
        else:
            seen.extra_tokens[length] = _ends(same)

    with torch.no_grad(), watching(model, look):
        forward(images)
    try:
        with torch.no_grad(), watching(model, compare):
            forward(noise_like(images))
    except ForwardError:
        pass  # some networks take no noise; the grids stand
    return seen


def is_flat(size: Sequence[int]) -> bool:
    """Whether images have one side only, as signals do."""
    return sum(side > 1 for side in size) == 1


def along_flat(size: Sequence[int], steps: int) -> Grid:
    """The grid of so many steps along the one side of flat images."""
    return tuple(steps if side > 1 else 1 for side in size)


def noise_like(images: Images) -> Images:
    """Uniform noise in the range of the images, always the same."""
    low, high = images.amin(), images.amax()
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(0)).to(images)
    return low + (high - low).where(high > low, 1) * noise


def _ends(same: Tensor) -> Extra | None:
    """How many tokens are the same for both images, in front and at the back; None if others are too."""
    changing = (~same).nonzero().flatten()
    front, back = int(changing[0]), len(same) - 1 - int(changing[-1])
    return (front, back) if front + back == int(same.sum()) else None


def _sizes(args: tuple[Any, ...], dimensions: int) -> Iterator[Grid]:
    """Spatial sizes among a module's arguments: a tuple of whole numbers, or successive whole numbers."""
    run: list[int] = []
    if dimensions == 1:  # any number could be one
        return
    for argument in (*args, None):
        if isinstance(argument, int) and not isinstance(argument, bool):
            run.append(argument)
            continue
        if len(run) == dimensions and math.prod(run) > 1:
            yield tuple(run)
        run = []
        is_size = isinstance(argument, tuple | list) and all(isinstance(each, int) for each in argument)
        if is_size and len(argument) == dimensions and math.prod(argument) > 1:
            yield tuple(argument)
