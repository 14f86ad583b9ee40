"""Small pictures of a run's rows and of mean maps, as JPEGs that the page holds."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camkit.datasets.drawing import cut, find_image, read_original
from camkit.datasets.reading import Run
from camkit.datasets.schema import BOX, MapColumn
from camkit.datasets.sources import as_text, from_text
from camkit.errors import CamkitError
from camkit.models.bands import show
from camkit.visualize.colours import COLORMAPS
from camkit.visualize.opencv import cv2
from camkit.visualize.overlay import draw_maps
from camkit.visualize.picture import Picture

SIDE = 144
"""Longer side of a picture."""
MEAN_SIDE = 72
"""Of a mean map."""
_QUALITY = 82
_GREY = 128
"""Behind maps whose image isn't there."""


@dataclass(frozen=True)
class Drawn:
    """A row's pictures, JPEG.

    Attributes:
        image: The part that the network saw; None where the image can't be read.
        maps: Over the image, one per explained class, or one for all concepts; over grey where it can't be read.
        categories: The classes of these.
        problem: Why the image can't be shown; empty where it can.
    """

    image: bytes | None
    maps: tuple[bytes, ...] = ()
    categories: tuple[int, ...] = ()
    problem: str = ""


@dataclass
class Artist:
    """Draws rows of a run, each once.

    Attributes:
        run: Whose rows.
        column: One of the map columns of the method that is drawn.
        images: Where images are now, in place of where they were; None where they haven't moved.
        problems: Row to why its image can't be shown.
    """

    run: Run
    column: MapColumn
    images: Path | None = None
    problems: dict[int, str] = field(default_factory=dict)
    _drawn: dict[int, Drawn] = field(default_factory=dict)

    def prepare(self, rows: Iterable[int]) -> None:
        """Draw rows that will be asked for, in the order in which they lie in the run's files."""
        for row in sorted(set(rows)):
            self.draw(row)

    def draw(self, row: int) -> Drawn:
        """A row's pictures."""
        if row not in self._drawn:
            self._drawn[row] = self._draw(row)
            if self._drawn[row].problem:
                self.problems[row] = self._drawn[row].problem
        return self._drawn[row]

    def _draw(self, row: int) -> Drawn:
        about = self.run.row(row)
        size = thumbnail_size(about["input_height"], about["input_width"])
        image, problem = None, ""
        try:
            image = self._image(about, size)
        except CamkitError as error:
            problem = str(error)
        maps, categories, missing = self._maps(row, about, size, image)
        return Drawn(None if image is None else encode(image), maps, categories, problem or missing)

    def _image(self, about: dict[str, Any], size: tuple[int, int]) -> Picture:
        """The part that the network saw, small."""
        box = [about[name] for name in BOX]
        if None in box:
            raise CamkitError("the preprocessing does more than resize, crop, pad and flip: maps are shown alone")
        path = about["path"]
        if self.images is not None:
            path = as_text(str(find_image(self.images, from_text(about["id"]), from_text(path))))
        values = cut(read_original(self.run, {**about, "path": path}), box, size)
        return show(values, eight_bit=values.dtype == np.uint8)

    def _maps(
        self, row: int, about: dict[str, Any], size: tuple[int, int], image: Picture | None
    ) -> tuple[tuple[bytes, ...], tuple[int, ...], str]:
        try:
            finished = self.run.finished(row, self.column.method).numpy()
        except CamkitError as error:
            return (), (), str(error)
        small = [
            np.clip(cv2.resize(each, size[::-1], interpolation=cv2.INTER_AREA), 0, 1).astype(np.float32)
            for each in finished
        ]
        ground = np.full((*size, 3), _GREY, dtype=np.uint8) if image is None else image
        pictures = draw_maps(
            ground, np.stack(small), is_saliency=self.column.saliency, are_concepts=self.column.concepts
        )
        categories = () if self.column.concepts else tuple(about["classes"] or ())
        return tuple(encode(each) for each in pictures), categories, ""


def thumbnail_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of a small picture of an input."""
    scale = SIDE / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def draw_mean(mean: NDArray[np.float64], aspect: float = 1.0) -> bytes:
    """A mean map in colours, its largest value red.

    Args:
        mean: (h, w), none below 0.
        aspect: Width over height.
    """
    size = (
        (MEAN_SIDE, max(1, round(MEAN_SIDE / aspect)))
        if aspect >= 1
        else (max(1, round(MEAN_SIDE * aspect)), MEAN_SIDE)
    )
    scaled = mean / (mean.max() or 1)
    large = np.clip(cv2.resize(scaled.astype(np.float32), size, interpolation=cv2.INTER_LINEAR), 0, 1)
    coloured = cv2.applyColorMap((255 * large).astype(np.uint8), COLORMAPS["jet"])
    return encode(np.asarray(coloured[:, :, ::-1], dtype=np.uint8))


def encode(picture: Picture) -> bytes:
    """A JPEG."""
    made, data = cv2.imencode(".jpg", np.ascontiguousarray(picture[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not made:
        raise CamkitError(f"can't encode a picture of {picture.shape} as JPEG")
    return bytes(data.tobytes())


@dataclass
class Budget:
    """Hands out room in the page for pictures, until there is none.

    Attributes:
        left: Bytes of text that pictures may still take.
        refused: How many pictures had no room.
    """

    left: int
    refused: int = 0

    def take(self, pictures: Sequence[bytes]) -> list[str] | None:
        """Addresses that hold some pictures; None where there is no room for all of them."""
        made = [f"data:image/jpeg;base64,{b64encode(each).decode()}" for each in pictures]
        size = sum(map(len, made))
        if size > self.left:
            self.refused += len(made)
            return None
        self.left -= size
        return made
