"""Find the scores in what a model returns."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from camkit.errors import UsageError, closest
from camkit.typing import Output

MAX_LISTED = 6


@dataclass(frozen=True)
class OutputPart:
    """The part of a model's output that is explained.

    Attributes:
        rows: ``rows[i]`` belongs to image i: a tensor with the batch first, such as logits (B, K), or a sequence of
            whatever the model returns per image (a detector's dicts).
        name: where in the output it was found; empty where the output is nothing else.
        others: the names of further tensors that could have been meant.
    """

    rows: Tensor | Sequence[Any]
    name: str = ""
    others: tuple[str, ...] = ()


def pick_output(output: Any, batch: int, wanted: Output = None) -> OutputPart:
    """Find the scores in what a model returned.

    Args:
        output: a tensor; a tuple, list, dict or dataclass of them at any depth, where ``logits`` is taken if there is
            one, else the first (B, K) tensor, else the first whose first dimension is the batch; MMPretrain's data
            samples, of which the scores are taken; or one dict or object per image.
        batch: the number of images.
        wanted: which part to take in place of that.

    Raises:
        UsageError: nothing there that has a row per image, or nothing of the name that is wanted.
    """
    if callable(wanted):
        found = pick_output(wanted(output), batch)
        return OutputPart(found.rows, getattr(wanted, "__name__", type(wanted).__name__), found.others)
    if wanted is not None:
        return OutputPart(_checked(_named(output, str(wanted)), batch), str(wanted))
    if isinstance(output, Tensor):
        return OutputPart(_checked(output, batch))
    logits = dict(parts(output)).get("logits")
    if logits is not None:
        inner = pick_output(logits, batch)
        names = [".".join(filter(None, ("logits", name))) for name in (inner.name, *inner.others)]
        return OutputPart(inner.rows, names[0], tuple(names[1:]))
    per_image = _per_image(output, batch)
    if per_image is not None:
        return OutputPart(per_image)
    tensors = {name: leaf for name, leaf in _tensors(output) if leaf.ndim >= 2 and len(leaf) == batch}
    tensors = {name: leaf for name, leaf in tensors.items() if leaf.ndim == 2} or tensors
    if not tensors:
        raise UsageError(f"the model returns {_described(output)}, which holds no row of scores per image{_ADVICE}")
    first, *others = tensors
    return OutputPart(tensors[first], first, tuple(others))


def pick_anything(output: Any, batch: int, wanted: Output = None) -> OutputPart:
    """As :func:`pick_output`, where no scores are needed: all that the model returned for every row, if need be."""
    try:
        return replace(pick_output(output, batch, wanted), others=())
    except UsageError:
        if wanted is not None:
            raise
        return OutputPart([output] * batch)


_ADVICE = "; pick a part with output= (--output), or wrap the model in a module that returns one tensor of scores"


def _checked(found: Any, batch: int) -> Tensor | Sequence[Any]:
    if isinstance(found, Tensor):
        if found.ndim == 0 or len(found) != batch:
            raise UsageError(
                f"the model returns {tuple(found.shape)} for {batch} images: one row per image is needed{_ADVICE}"
            )
        return found
    rows = _per_image(found, batch)
    if rows is None:
        raise UsageError(f"the output taken is {type(found).__name__}: a tensor with one row per image is needed")
    return rows


def _per_image(output: Any, batch: int) -> Tensor | Sequence[Any] | None:
    """The output as one entry per image, if it is that: rows of scores stacked, dicts and objects as they are."""
    if not isinstance(output, list | tuple) or len(output) != batch or hasattr(output, "_fields"):
        return None
    # MMPretrain's data samples keep the scores of the head there.
    rows: list[Any] = [getattr(one, "pred_score", one) for one in output]
    if all(isinstance(row, Tensor) and row.ndim == 1 for row in rows):
        # Each as long as the batch: these are several heads' scores of all images, not rows per image.
        if batch > 1 and rows[0] is output[0] and any(len(row) == batch for row in rows):
            return None
        return torch.stack(rows) if len({row.shape for row in rows}) == 1 else rows
    return rows if not any(isinstance(row, Tensor | list | tuple) or row is None for row in rows) else None


def _named(output: Any, wanted: str) -> Any:
    known = {name: leaf for name, leaf in _tensors(output) if name}
    if wanted in known:  # also where a key has dots in it
        return known[wanted]
    found = output
    for key in wanted.split("."):
        inside = dict(parts(found))
        index = int(key) + len(inside) if isinstance(found, list | tuple) and re.fullmatch(r"-\d+", key) else key
        if str(index) not in inside:
            listed = [f"{name} {tuple(leaf.shape)}" for name, leaf in known.items()]
            more = f" and {len(listed) - MAX_LISTED} more" if len(listed) > MAX_LISTED else ""
            there = (
                f"there are: {', '.join(listed[:MAX_LISTED])}{more}" if listed else "it is one tensor, leave that out"
            )
            raise UsageError(f"the model's output has no part {wanted!r}{closest(wanted, known)}; {there}")
        found = inside[str(index)]
    return found


def parts(output: Any) -> Iterator[tuple[str, Any]]:
    """The entries of a container by name: keys, fields or indices."""
    if isinstance(output, Mapping):
        yield from ((str(key), value) for key, value in output.items())
    elif hasattr(output, "_fields"):
        yield from zip(output._fields, output, strict=True)
    elif isinstance(output, list | tuple):
        yield from ((str(index), value) for index, value in enumerate(output))
    elif is_dataclass(output):
        yield from ((field.name, getattr(output, field.name)) for field in fields(output))
    elif isinstance(getattr(output, "logits", None), Tensor):
        yield "logits", output.logits


def _tensors(output: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield path, output
        return
    for key, value in parts(output):
        yield from _tensors(value, f"{path}.{key}" if path else key)


def _described(output: Any) -> str:
    shapes = [f"{name} {tuple(leaf.shape)}" for name, leaf in _tensors(output)]
    return f"{type(output).__name__} of {', '.join(shapes[:MAX_LISTED])}" if shapes else type(output).__name__
