"""Tell preprocessings apart by what they make of a few images, on whatever processor and with whatever release.

Releases of Pillow and instructions of processors round a resize otherwise: single pixels are a grey level or two off,
which is the same preprocessing still. So a fingerprint holds some of the pixels that are made of images of noise, which
any other size, crop or interpolation makes tens of grey levels others; and what becomes of one colour, which no resize
rounds, and which shows the normalisation to some digits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from camkit.errors import CamkitError
from camkit.models.loader import TRIED, Loader, noise, pictures

SIZES = (*TRIED, (64, 512))
"""Heights and widths of the images of noise: a long one, too, for some bound the longer side."""
COLOURS = ((0, 0, 0), (255, 255, 255), (200, 100, 50))
GRID = 5
"""Pixels that are kept of each channel of an image of noise, down and across."""
LEVELS = 3.0
"""Grey levels by which two ways to round both passes of a resize may differ, and no two interpolations do."""
ULPS = 40
"""How many units in the last place, of the range from black to white, two ways to normalise may differ by."""

Made = Sequence["Tensor | None"]
"""What became of images, (1, C, H, W) each; None of one that was refused."""


def fingerprint(loader: Any) -> dict[str, Any]:
    """What tells a preprocessing apart, as JSON holds it; :func:`difference` compares two.

    It doesn't depend on what settings are called, nor on where the processor's files or the model are. A preprocessing
    that takes none of the images, or gives other numbers every time, is told by its description.

    Args:
        loader: A :class:`camkit.models.loader.Loader`.

    Raises:
        CamkitError: The images can't be written.
    """
    # The second half runs on the processor: devices divide in ways of their own.
    local = replace(loader, device=torch.device("cpu")) if hasattr(loader, "device") else loader
    with noise(SIZES) as paths:
        first, second = ([_made(local, path) for path in paths] for _ in range(2))
    content = _content(first)
    if not content or content != _content(second):
        return {"digest": _digest(loader.describe().encode())}
    with _further_pictures() as paths:
        *plain, coarse = [_made(local, path) for path in paths]
    return {
        "digest": _digest(content),
        "inputs": [_form(each) for each in first],
        "noise": [_written(each, _spread) for each in (*first, coarse)],
        "colours": [_written(each, _middle) for each in plain],
    }


def difference(theirs: Any, ours: Mapping[str, Any]) -> str:
    """How two preprocessings differ, in words; empty where they are the same but for rounding.

    Args:
        theirs: A :func:`fingerprint` out of a file.
        ours: Another one.
    """
    try:
        return _difference(theirs, ours)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError):
        return "damaged in the file"


def _difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    if theirs["digest"] == ours["digest"]:
        return ""
    if "inputs" not in theirs or "inputs" not in ours:
        return f"{theirs['digest']}, now {ours['digest']}"
    for one, other in zip(theirs["inputs"], ours["inputs"], strict=False):
        if one != other:
            return f"makes {one}, now {other}"
    of_colours, of_noise = (_apart(_numbers(theirs, name), _numbers(ours, name)) for name in ("colours", "noise"))
    level, digits = _scale(ours)
    # Each image may be normalised by itself: black and white say nothing then.
    levels = [level or _span(each) / 255 for each in _numbers(ours, "noise")]
    found = [("images of noise", max(a / (b or 1) for a, b in zip(of_noise, levels, strict=True)), LEVELS)]
    if level:  # how a colour becomes grey is rounded as a resize is
        found.insert(0, ("colours", max(of_colours) / level, LEVELS))
        found.insert(0, ("black and white", max(of_colours[:2]) / level, ULPS * digits * 255))
    said = (f"makes {what} otherwise, by {apart:.3g} grey levels" for what, apart, allowed in found if apart > allowed)
    return next(said, "")


def _scale(found: Mapping[str, Any]) -> tuple[float, float]:
    """What a grey level is in the network's input, 0 where that can't be told; and the relative step of its numbers."""
    black, white = _numbers(found, "colours")[:2]
    span = _span(np.stack([black, white])) if black.shape == white.shape else 0.0
    if max(map(_span, _numbers(found, "noise"))) > 2 * span:  # what is left where each image is normalised by itself
        span = 0.0
    kind = next((getattr(torch, each.split()[0]) for each in found["inputs"] if each != _REFUSED), torch.float32)
    return span / 255, torch.finfo(kind).eps if kind.is_floating_point else 0.0


def _span(values: NDArray[np.float64]) -> float:
    """From the lowest to the highest number; 0 where some are infinite or none."""
    return float(values.max() - values.min()) if values.size and np.isfinite(values).all() else 0.0


def _apart(theirs: Sequence[NDArray[np.float64]], ours: Sequence[NDArray[np.float64]]) -> list[float]:
    """By how much the numbers of each image differ at most; infinite where they can't be compared."""
    if len(theirs) != len(ours):
        return [np.inf]
    found = []
    for one, other in zip(theirs, ours, strict=True):
        there = np.isfinite(one)
        same = one.shape == other.shape and np.array_equal(there, np.isfinite(other))
        found.append(float(np.abs(one[there] - other[there]).max(initial=0.0)) if same else np.inf)
    return found


def _numbers(found: Mapping[str, Any], name: str) -> list[NDArray[np.float64]]:
    return [np.array(each.split(), dtype=np.float64) for each in found[name]]


_REFUSED = "nothing"


def _form(made: Tensor | None) -> str:
    if made is None:
        return _REFUSED
    return f"{str(made.dtype).removeprefix('torch.')} {'x'.join(map(str, made.shape[1:]))}"


def _written(made: Tensor | None, positions: Any) -> str:
    """Numbers at some positions along the axes behind the channels, as text."""
    if made is None:
        return ""
    values = made[0]
    for axis in range(1, values.ndim):
        values = values.index_select(axis, torch.tensor(positions(values.shape[axis])))
    return " ".join(f"{each:.9g}" for each in values.double().flatten().tolist())


def _spread(count: int) -> list[int]:
    return [step * (count - 1) // (GRID - 1) for step in range(GRID)]


def _middle(count: int) -> list[int]:
    return [count // 2]


@contextmanager
def _further_pictures() -> Iterator[list[str]]:
    """Pictures of one colour, and one of coarse noise, of which small sizes leave more than of fine noise."""
    blocks = np.random.default_rng(1).integers(0, 256, (47, 63, 3), dtype=np.uint8)
    coarse = blocks.repeat(8, axis=0).repeat(8, axis=1)[: SIZES[0][0], : SIZES[0][1]]
    with pictures([*(np.full((256, 256, 3), colour, dtype=np.uint8) for colour in COLOURS), coarse]) as paths:
        yield paths


def _made(loader: Loader, path: str) -> Tensor | None:
    try:
        return loader.inputs(loader.load(path).pixels[None]).detach().cpu().contiguous()
    except CamkitError:
        return None


def _content(made: Made) -> bytes:
    """All that was made, to the last bit."""
    return b"".join(
        f"{each.dtype} {tuple(each.shape)} ".encode() + each.reshape(-1).view(torch.uint8).numpy().tobytes()
        for each in made
        if each is not None
    )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
