"""From the model's output to one score per image and target."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor

from camkit.compat import tree_leaves
from camkit.engine.outputs import parts
from camkit.engine.tensors import floats
from camkit.errors import NonFiniteError, UsageError
from camkit.typing import Categories, Chosen, ScoreFunction, Scores, Target, TargetRows, Targets


class NoClass:
    """What methods ask for that ask for no class: each image's top class, else all that the network returns for it.

    As a target it says whether a layer matters, whatever the network is for.
    """

    def __call__(self, row: Any) -> Tensor:
        """The sum of all finite numbers in one image's part of the output."""
        found = [leaf.float().where(leaf.isfinite(), 0).sum() for leaf in floats(_as_tree(row))]
        if not found:
            raise UsageError("the model returns no floating-point tensor")
        return torch.stack([each.to(found[0]) for each in found]).sum()

    def __repr__(self) -> str:
        return "the whole output"


NO_CLASS = NoClass()


def target_rows(targets: Targets, batch: int) -> TargetRows | NoClass | None:
    """One row of targets per image, all of one length, or None for each image's own top class.

    Args:
        targets: None, one target for all images, one per image, or a list of targets per image. A target is a class
            index or a callable from one image's output to a scalar.
        batch: the number of images.

    Raises:
        UsageError: a count that doesn't match the batch, rows of different lengths, or something that is no target.
    """
    if targets is None or targets is NO_CLASS:
        return targets
    if isinstance(targets, Tensor) and targets.device.type != "cpu" and targets.ndim in (1, 2):
        return _on_device(targets, batch)
    given = _plain(targets)
    if not _is_row(given):
        return [[_target(given)] for _ in range(batch)]
    if len(given) != batch:
        hint = f"; for several categories of one image pass a list per image: {[list(given)]}" if batch == 1 else ""
        raise UsageError(f"{len(given)} targets for {batch} image{'s' * (batch != 1)}{hint}")
    made = [[_target(target) for target in row] if _is_row(row) else [_target(row)] for row in map(_plain, given)]
    if all(row and all(each is NO_CLASS for each in row) for row in made):
        return NO_CLASS
    lengths = {len(row) for row in made}
    if len(lengths) > 1 or 0 in lengths:
        raise UsageError(f"every image needs the same number of targets, at least one; got {[len(r) for r in made]}")
    return made


def is_nested(targets: Targets) -> bool:
    """Whether ``targets`` holds a list per image, so that maps come as (B, K, H, W) and not as (B, H, W)."""
    if isinstance(targets, Tensor):
        return targets.ndim > 1
    given = _plain(targets)
    return _is_row(given) and any(_is_row(_plain(row)) for row in given)


def has_functions(targets: Targets) -> bool:
    """Whether there are score functions among the targets."""
    return any(callable(leaf) for leaf in tree_leaves(targets) if not isinstance(leaf, Tensor | NoClass))


def score_targets(rows: Tensor | Sequence[Any], wanted: TargetRows | NoClass | None) -> tuple[Chosen, Scores]:
    """Choose the targets and compute their scores.

    Args:
        rows: one per image, see :class:`camkit.engine.outputs.OutputPart`: (B, K) for class indices; score functions
            get ``rows[i]`` whatever it is.
        wanted: what :func:`target_rows` returns; None for each image's top class.

    Returns:
        What was chosen, and the scores (B, T), part of the graph of ``rows``.

    Raises:
        UsageError: a category outside 0..K-1, class indices for an output that isn't (B, K), or a score function that
            doesn't return one number.
    """
    if isinstance(wanted, NoClass):
        is_logits = isinstance(rows, Tensor) and rows.ndim == 2 and rows.shape[1] > 0
        wanted = None if is_logits else [[wanted] for _ in range(len(rows))]
    if wanted is None or _are_indices(wanted):
        logits = as_logits(rows)
        categories = _categories(logits, wanted)
        scores = logits.gather(1, categories)
        chosen: Chosen = categories
    elif isinstance(wanted, Tensor):
        # Not read back, which would synchronise: a category that doesn't exist gets a score, and gradients, of NaN.
        logits = as_logits(rows)
        wanted = wanted.to(logits.device, non_blocking=True)
        known = (wanted >= 0) & (wanted < logits.shape[1])
        found = logits.gather(1, wanted.clamp(0, logits.shape[1] - 1))
        scores = found * torch.where(known, 1.0, torch.nan).to(found.dtype)
        chosen = wanted
    else:
        scores = torch.stack([torch.stack([_one(rows, i, t) for t in row]) for i, row in enumerate(wanted)])
        chosen = tuple(tuple(row) for row in wanted)
    return chosen, scores


def require_finite(scores: Scores) -> None:
    """Check the scores, which synchronises a GPU.

    Raises:
        NonFiniteError: NaN or infinity among them.
    """
    bad = [image for image, row in enumerate(scores.tolist()) if not all(map(math.isfinite, row))]
    if bad:
        raise NonFiniteError(
            f"the score of image {', '.join(map(str, bad))} is NaN or infinite: check the checkpoint, the "
            "normalisation of the images and the precision"
        )


def as_logits(rows: Tensor | Sequence[Any]) -> Tensor:
    """An output's rows as logits (B, K).

    Raises:
        UsageError: they are something else.
    """
    if not isinstance(rows, Tensor) or rows.ndim != 2:
        returned = tuple(rows.shape) if isinstance(rows, Tensor) else f"a {type(rows[0]).__name__} per image"
        raise UsageError(
            f"class targets need logits (batch, classes), the model returns {returned}: pass a callable from one "
            "image's output to a scalar"
        )
    return rows


def require_known(wanted: list[list[int]], count: int) -> None:
    """Check that there are classes of all indices.

    Raises:
        UsageError: one is outside 0..count-1.
    """
    for category in {category for row in wanted for category in row}:
        if not 0 <= category < count:
            raise UsageError(f"category {category} is outside 0..{count - 1}")


def _are_indices(wanted: TargetRows) -> TypeGuard[list[list[int]]]:
    return isinstance(wanted, list) and all(isinstance(target, int) for row in wanted for target in row)


def _on_device(targets: Tensor, batch: int) -> Categories:
    """Class indices (B,) or (B, T) as a tensor that stays on its device."""
    if targets.is_floating_point() or targets.dtype == torch.bool:
        raise UsageError(f"targets are class indices, got a tensor of {targets.dtype}")
    if len(targets) != batch or 0 in targets.shape:
        raise UsageError(f"targets {tuple(targets.shape)} for {batch} image{'s' * (batch != 1)}")
    return targets.long().reshape(batch, -1)


def _categories(logits: Tensor, wanted: list[list[int]] | None) -> Tensor:
    if wanted is None:
        return logits.detach().argmax(1, keepdim=True)
    require_known(wanted, logits.shape[1])
    made = torch.tensor(wanted)
    # From pinned memory the copy is asynchronous.
    return made.pin_memory().to(logits.device, non_blocking=True) if logits.is_cuda else made.to(logits.device)


def _one(rows: Tensor | Sequence[Any], image: int, target: Target) -> Tensor:
    if isinstance(target, int):
        logits = as_logits(rows)
        require_known([[target]], logits.shape[1])
        return logits[image, target]
    value = target(rows[image])
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise UsageError(f"target {target!r} must return a scalar tensor, got {getattr(value, 'shape', type(value))}")
    return value.reshape(())


def _as_tree(output: Any) -> Any:
    """An output with its dataclasses, named tuples and data samples as dicts, all the way down."""
    if isinstance(output, Tensor):
        return output
    inner = dict(parts(output))
    return {name: _as_tree(each) for name, each in inner.items()}


def _plain(targets: Any) -> Any:
    """Tensors and arrays as plain numbers or lists."""
    return targets.tolist() if hasattr(targets, "tolist") and not callable(targets) else targets


def _is_row(targets: Any) -> TypeGuard[Sequence[Any]]:
    return isinstance(targets, Sequence) and not isinstance(targets, str | bytes)


def _target(target: Any) -> Target:
    if callable(target):
        return cast("ScoreFunction", target)
    try:
        if isinstance(target, bool):
            raise TypeError
        return operator.index(target)
    except TypeError:
        raise UsageError(f"a target is a class index or a callable, got {target!r}") from None
