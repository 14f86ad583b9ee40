"""What a network tells about its token sequences: the grids it works on, and the tokens that have no place."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from camkit.capture import is_float, watching
from camkit.shapes import Images

Grid = tuple[int, ...]
_EARLY = 4  # the first outputs of each length: the very first may hold nothing of the image


@dataclass(frozen=True)
class Survey:
    """What was seen in two forwards.

    Attributes:
        grids: the spatial shapes of feature maps on the way and the sizes that modules were called with
            (``hw_shape``, ``H, W``), in order of appearance.
        extra_tokens: length of a sequence to the number of tokens (in front, at the back) that don't depend on the
            image where such a sequence first appears, in front of any attention: class, distillation, registers.
    """

    grids: dict[Grid, None] = field(default_factory=dict)
    extra_tokens: dict[int, tuple[int, int]] = field(default_factory=dict)


def survey(model: nn.Module, image: Images, forward: Callable[[Images], Any]) -> Survey:
    """Look at every module's output for ``image`` and for one with noise on top.

    Args:
        model: the network.
        image: (1, C, H, W) or (1, C, D, H, W).
        forward: calls the network.
    """
    seen = Survey()
    kept: dict[int, list[Tensor]] = {}
    dimensions = image.ndim - 2

    def look(args: tuple[Any, ...], output: Any) -> None:
        for grid in _sizes(args, dimensions):
            seen.grids.setdefault(grid)
        if _is_feature(output) and output.ndim == image.ndim:
            seen.grids.setdefault(tuple(output.shape[2:]))
            seen.grids.setdefault(tuple(output.shape[1:-1]))
        if _is_feature(output) and output.ndim == 3:
            sequences = kept.setdefault(output.shape[1], [])
            if len(sequences) < _EARLY:
                sequences.append(output.detach().clone())

    def compare(args: tuple[Any, ...], output: Any) -> None:
        if not _is_feature(output) or output.ndim != 3 or not kept.get(output.shape[1]):
            return
        length = output.shape[1]
        before = kept[length].pop(0)
        if length in seen.extra_tokens or output.shape != before.shape:
            return
        ends = _fixed_ends((output == before).all(2)[0])
        if sum(ends) < length:  # else no image was looked at: a table of position embeddings
            seen.extra_tokens[length] = ends

    # Noise is added, not put in place of the image: that may be the very same noise.
    other = image + torch.randn(image.shape, generator=torch.Generator().manual_seed(0)).to(image)
    with torch.no_grad():
        for shown, eye in ((image, look), (other, compare)):
            with watching(model, eye):
                forward(shown)
    return seen


def _is_feature(output: Any) -> TypeGuard[Tensor]:
    return is_float(output) and output.ndim > 0 and len(output) == 1


def _fixed_ends(same: Tensor) -> tuple[int, int]:
    """How many tokens in a row are the same for both images, in front and at the back."""
    changing = (~same).nonzero().flatten()
    if not len(changing):
        return len(same), 0
    return int(changing[0]), len(same) - 1 - int(changing[-1])


def _sizes(args: tuple[Any, ...], dimensions: int) -> Iterator[Grid]:
    """Sizes among a module's arguments: a tuple of as many whole numbers as there are dimensions, or such a run."""
    run: list[int] = []
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
