"""Where objects are in what the network sees: masks of its input, from boxes and masks of the whole images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from camkit.errors import CamkitError, UsageError
from camkit.metrics.annotations import Annotated, Annotations, Box, match, read_annotations

if TYPE_CHECKING:
    from collections.abc import Callable

Size = tuple[int, int]
"""Height and width."""
NAMED = 3
"""Images that a line about several names."""


class NoRegionError(CamkitError):
    """An image has no region; ``kind`` says why, in words that follow a number of images."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


@dataclass
class Regions:
    """The objects of a data set's images; counts those that have none.

    Attributes:
        annotations: what was read.
        matched: the data set's image to the file's.
        classes: the file's labels to the network's classes; empty where none of them is one, and then objects of every
            label are what any class is looked for in.
        notes: lines about what was left out, and what labels mean.
    """

    annotations: Annotations
    matched: Mapping[str, str]
    classes: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    _without: dict[str, dict[str, None]] = field(default_factory=dict)

    def find(self, image: str, target: int, size: Size, view: Box | None, input_size: Size) -> Tensor | None:
        """Where the objects of a class are in the network's input; counts the image where there are none.

        Args:
            image: its id.
            target: the class.
            size: of the whole image.
            view: which part of it the network saw, see :mod:`camkit.datasets.boxes`; None where that can't be told.
            input_size: of the network's input.

        Returns:
            (H, W) bool, True somewhere; None where there are none.
        """
        try:
            return torch.from_numpy(self._found(image, target, size, view, input_size))
        except NoRegionError as error:
            # Once each: an image may have several targets, and is asked for again where a batch fails.
            self._without.setdefault(error.kind, {})[image] = None
            return None

    def lines(self) -> list[str]:
        """How many images have no region, why, and the first of them, a line for each reason."""
        found = [*self.notes]
        for kind, names in self._without.items():
            listed = f"{', '.join(list(names)[:NAMED])}{', ...' * (len(names) > NAMED)}"
            found.append(f"{len(names)} image{'s' * (len(names) > 1)} {kind}: {listed}")
        return found

    def _found(self, image: str, target: int, size: Size, view: Box | None, input_size: Size) -> NDArray[np.bool_]:
        name = self.matched.get(image)
        objects = self.annotations.objects[name] if name is not None else ()
        if not objects:
            raise NoRegionError("without boxes or masks")
        if self.classes:
            objects = [each for each in objects if each.label is None or self.classes.get(each.label) == target]
            if not objects:
                raise NoRegionError("without an object of the class that is explained")
        told = self.annotations.sizes.get(name or "", size)
        if told != size:
            raise NoRegionError("of another size than the file says")
        if view is None:
            raise NoRegionError("of which it can't be told what part the network saw")
        return seen_region(objects, size, view, input_size)


def read_regions(path: str | Path, ids: Sequence[str], find_category: Callable[[str], int] | None = None) -> Regions:
    """Read boxes or masks of a data set's images.

    Args:
        path: see :func:`camkit.metrics.annotations.read_annotations`.
        ids: the data set's images, by their paths below DATA.
        find_category: from a label to the network's class, :meth:`camkit.models.classifier.Classifier.find_category`;
            None where labels mean nothing.

    Raises:
        UsageError: what can't be read, or has nothing about these images.
    """
    annotations = read_annotations(path)
    matched, others = match(annotations, ids)
    notes = [*annotations.notes]
    if others:
        notes.append(f"{others} image{'s' * (others > 1)} of {annotations.name}, not in DATA")
    labels = sorted({each.label for own in matched.values() for each in annotations.objects[own] if each.label})
    classes: dict[str, int] = {}
    for label in labels if find_category is not None else ():
        try:
            classes[label] = find_category(label)  # type: ignore[misc]
        except UsageError:
            continue
    if labels and not classes:
        notes.append(
            f"labels of {annotations.name}, since none is a class of the network ({', '.join(labels[:NAMED])}"
            f"{', ...' * (len(labels) > NAMED)}): objects of all labels count"
        )
    return Regions(annotations, matched, classes, tuple(notes))


def seen_region(objects: Sequence[Annotated], size: Size, view: Box, input_size: Size) -> NDArray[np.bool_]:
    """The pixels of the network's input whose centres show one of the objects.

    Of an object between the centres, the nearest pixel is taken.

    Args:
        objects: of an image.
        size: of the whole image.
        view: left, top, right, bottom of the network's input, in pixels of the whole image.
        input_size: of the network's input.

    Raises:
        NoRegionError: boxes outside the image or empty, empty masks, masks of another size, or objects that the network
            doesn't see.
    """
    left, top, right, bottom = view
    height, width = input_size
    # Where the centre of each column and row lies in the whole image.
    x = left + (np.arange(width) + 0.5) * (right - left) / width
    y = top + (np.arange(height) + 0.5) * (bottom - top) / height
    region = np.zeros(input_size, dtype=bool)
    kinds = []
    for each in objects:
        try:
            if each.box is not None:
                _add_box(region, each.box, size, x, y)
            elif each.mask is not None:
                _add_mask(region, _read_mask(each.mask, size), x, y)
            else:
                _add_polygons(region, each.polygons, size, x, y)
        except NoRegionError as error:
            kinds.append(error.kind)
    if not region.any():
        raise NoRegionError(kinds[0])
    return region


_EMPTY, _OUTSIDE = "whose boxes or masks are empty", "whose boxes lie outside the image"
_UNSEEN = "whose objects lie outside what the network sees"

Positions = NDArray[np.float64]


def _add_box(region: NDArray[np.bool_], box: Box, size: Size, x: Positions, y: Positions) -> None:
    if box[2] <= box[0] or box[3] <= box[1]:
        raise NoRegionError(_EMPTY)
    left, top = max(box[0], 0.0), max(box[1], 0.0)
    right, bottom = min(box[2], float(size[1])), min(box[3], float(size[0]))
    if right <= left or bottom <= top:
        raise NoRegionError(_OUTSIDE)
    columns, rows = _between(x, left, right), _between(y, top, bottom)
    if not columns.any() or not rows.any():
        raise NoRegionError(_UNSEEN)
    region |= rows[:, None] & columns


def _between(places: Positions, low: float, high: float) -> NDArray[np.bool_]:
    """Which places lie in an interval; the nearest one where it lies between two."""
    found = (places >= low) & (places < high)
    middle = (low + high) / 2
    reach = abs(places[-1] - places[0]) / max(len(places) - 1, 1) / 2 if len(places) > 1 else abs(middle - places[0])
    nearest = np.abs(places - middle)
    if not found.any() and nearest.min() <= reach:
        found[nearest.argmin()] = True
    return found


def _add_mask(region: NDArray[np.bool_], mask: NDArray[np.bool_], x: Positions, y: Positions) -> None:
    if not mask.any():
        raise NoRegionError(_EMPTY)
    height, width = mask.shape
    inside = ((y >= 0) & (y < height))[:, None] & ((x >= 0) & (x < width))
    columns, rows = (np.floor(each).clip(0, side - 1).astype(int) for each, side in ((x, width), (y, height)))
    shown = mask[rows[:, None], columns] & inside
    if not shown.any():  # it may be thinner than a pixel of the input
        down, across = np.nonzero(mask)
        columns, rows = (_nearest(each + 0.5, places) for each, places in ((across, x), (down, y)))
        seen = (columns >= 0) & (rows >= 0)
        if not seen.any():
            raise NoRegionError(_UNSEEN)
        shown[rows[seen], columns[seen]] = True
    region |= shown


def _nearest(places: NDArray[np.floating[Any]], centres: Positions) -> NDArray[np.intp]:
    """The pixel of the input that each place lies in, -1 outside."""
    if len(centres) > 1:
        step = (centres[-1] - centres[0]) / (len(centres) - 1)
        found = np.rint((places - centres[0]) / step).astype(np.intp)
    else:
        found = np.zeros(len(places), dtype=np.intp)
    return np.where((found >= 0) & (found < len(centres)), found, -1)


def _add_polygons(
    region: NDArray[np.bool_], polygons: Sequence[Sequence[float]], size: Size, x: Positions, y: Positions
) -> None:
    from matplotlib.path import Path as Outline

    points = np.stack([array.ravel() for array in np.meshgrid(x, y)], 1)
    inside = ((points >= 0) & (points < (size[1], size[0]))).all(1)
    for polygon in polygons:
        corners = np.array(polygon, dtype=float).reshape(-1, 2)
        shown = (Outline(corners).contains_points(points) & inside).reshape(region.shape)
        if shown.any():
            region |= shown
        else:  # it may be thinner than a pixel of the input
            (left, top), (right, bottom) = corners.min(0), corners.max(0)
            _add_box(region, (left, top, right, bottom), size, x, y)


def _read_mask(path: str, size: Size) -> NDArray[np.bool_]:
    """A mask's pixels that are neither black nor transparent; of palettes, index 255 marks borders, as in Pascal VOC.

    Raises:
        NoRegionError: it can't be read, or has another size than its image.
    """
    from PIL import Image

    try:
        with Image.open(path) as file:
            mode, pixels = file.mode, np.array(file)
    except Exception as error:
        raise NoRegionError("whose masks can't be read") from error
    if pixels.shape[:2] != size:
        raise NoRegionError("whose masks have another size than the image")
    if mode == "P":
        return np.asarray((pixels != 0) & (pixels != 255))
    if mode in ("LA", "RGBA"):
        return np.asarray((pixels[..., :-1] != 0).any(-1) & (pixels[..., -1] != 0))
    return np.asarray(pixels != 0 if pixels.ndim == 2 else (pixels != 0).any(-1))
