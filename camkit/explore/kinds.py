"""What the page asks for, and what it is told, whether a model or a run answers."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from camkit.typing import Progress
from camkit.visualize.overlay import Style
from camkit.visualize.picture import Picture
from camkit.visualize.save import picture_writer

TOP = 9
"""Classes that stand on keys 1 to 9."""


@dataclass(frozen=True)
class View:
    """One map of one picture.

    Attributes:
        image: The picture's id.
        method: The method's name.
        category: The class; None for the predicted one.
        layers: The target layers; none for the default ones.
        eigen_smooth: See :class:`camkit.EigenSmooth`.
        aug_smooth: See :class:`camkit.AugSmooth`.
    """

    image: str
    method: str
    category: int | None = None
    layers: tuple[str, ...] = ()
    eigen_smooth: bool = False
    aug_smooth: bool = False


class Source(Protocol):
    """What answers: a model, or a run. Everything but ``about`` and ``command`` is called in the queue's thread."""

    def about(self) -> dict[str, Any]:
        """What it is, and which methods it has."""

    def look(self, image: str, progress: Progress) -> dict[str, Any]:
        """The picture as the network sees it, and its classes."""

    def layers(self, image: str, progress: Progress, *, whole: bool) -> dict[str, Any]:
        """The layers that a map can be made of."""

    def map(self, view: View, progress: Progress, *, signed: bool) -> dict[str, Any]:
        """A map, as numbers."""

    def place(self, view: View, at: tuple[float, float], progress: Progress) -> dict[str, Any]:
        """Which classes a place speaks for; ``at`` are shares of the picture's height and width."""

    def picture(self, view: View, style: Style, progress: Progress, *, original_size: bool) -> bytes:
        """The map over the picture, PNG, as the command line draws it."""

    def raw(self, view: View, progress: Progress) -> bytes:
        """The signed maps and how they were made, .npz, as the command line writes them."""

    def command(self, view: View, style: Style, *, original_size: bool) -> str:
        """The command that draws the picture."""


def numbers(maps: NDArray[np.floating]) -> str:
    """Numbers as the page reads them: float32, little-endian, in base64."""
    return b64encode(np.ascontiguousarray(maps, dtype="<f4").tobytes()).decode()


def png(picture: Picture) -> bytes:
    """A picture, PNG."""
    import io

    made = io.BytesIO()
    picture_writer(Path("picture.png"), picture)(made)
    return made.getvalue()


def told_maps(
    maps: NDArray[np.floating],
    *,
    is_saliency: bool,
    are_concepts: bool,
    signed: NDArray[np.floating] | None,
    **more: Any,
) -> dict[str, Any]:
    """Maps (T, H, W) in [0, 1] as the page takes them, with how they are drawn."""
    kind = "concepts" if are_concepts else "saliency" if is_saliency else "heat"
    count, height, width = maps.shape
    return {
        "kind": kind,
        "count": count,
        "height": height,
        "width": width,
        "maps": numbers(maps),
        "signed": None if signed is None else numbers(signed),
        **more,
    }


def told_classes(categories: Sequence[int], names: Sequence[str], scores: Sequence[float]) -> list[dict[str, Any]]:
    """Classes with their probabilities."""
    return [
        {"index": index, "name": name, "probability": score}
        for index, name, score in zip(categories, names, scores, strict=True)
    ]
