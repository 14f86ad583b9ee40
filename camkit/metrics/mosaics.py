"""Mosaics of images of distinct classes: ground truth for localisation without boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from camkit.errors import UsageError


@dataclass(frozen=True, eq=False)
class Mosaics:
    """Mosaics of n x n images, with a target and a region for each cell; cells are in reading order.

    Attributes:
        images: (M, C, H, W), normalised.
        targets: (M, n * n), the class of each cell's image.
        regions: (M, n * n, H, W) bool, where each cell lies.
        sources: (M, n * n), which image each cell shows.
    """

    images: Tensor
    targets: Tensor
    regions: Tensor
    sources: Tensor


def build_mosaics(
    images: Tensor,
    probabilities: Tensor,
    n: int = 2,
    *,
    count: int | None = None,
    labels: Sequence[int] | Tensor | None = None,
    min_confidence: float = 0.5,
    shrink: bool = False,
    seed: int = 0,
) -> Mosaics:
    """Put images of distinct classes, each of which the network is sure of, side by side.

    Each image counts as one of its most probable class. Classes with many images left come first, so that as many
    mosaics as possible are made; which images, and where in a mosaic they lie, is drawn.

    Args:
        images: (B, C, H, W), normalised, as the network takes them.
        probabilities: (B, K) in [0, 1], what it says of them.
        n: images along each side, at least 2.
        count: how many mosaics; images are used again where there are too few. None for as many as can be made with
            each image used once.
        labels: (B,) the true classes; only images that are classified rightly are used. None where they are unknown.
        min_confidence: the least probability of an image's class, in [0, 1].
        shrink: make mosaics of the images' own size, for networks that take no other; else they are n times as large.
        seed: of what is drawn.

    Returns:
        The mosaics, on the images' device.

    Raises:
        UsageError: too few classes that the network is sure of, counts that don't match, or images too small.

    Example:
        >>> probabilities = model(images).softmax(1)
        >>> mosaics = camkit.metrics.build_mosaics(images, probabilities, min_confidence=0)
        >>> cam = camkit.GradCAM(model, ["features"])
        >>> maps = cam(mosaics.images, mosaics.targets.tolist())
        >>> found = camkit.metrics.measure("GridPG", maps, regions=mosaics.regions)
        >>> found["GridPG"].values.shape == (4 * len(mosaics.images),)
        True
    """
    _check(images, probabilities, n, count, min_confidence)
    sure, classes = (each.cpu() for each in probabilities.max(1))
    usable = sure >= min_confidence
    if labels is not None:
        given = torch.as_tensor(labels).cpu()
        if given.shape != classes.shape:
            raise UsageError(f"{len(given)} labels for {len(classes)} images: give one per image")
        usable &= classes == given
    by_class: dict[int, list[int]] = {}
    for index in usable.nonzero()[:, 0].tolist():
        by_class.setdefault(int(classes[index]), []).append(index)
    if len(by_class) < n * n:
        right = "" if labels is None else " and right"
        raise UsageError(
            f"a mosaic of {n} x {n} needs images of {n * n} classes, and the network is sure{right} of "
            f"{len(by_class)}: {int(usable.sum())} of {len(images)} images have a probability of {min_confidence:g} or "
            "more; give more images or a lower min_confidence"
        )
    chosen = _choose(by_class, n * n, count, torch.Generator().manual_seed(seed))
    sources = torch.tensor(chosen)
    regions = _cells(tuple(images.shape[2:]), n, shrink=shrink)
    made = torch.stack([_laid(images[row.to(images.device)], regions, shrink=shrink) for row in sources])
    shown = regions.to(images.device).expand(len(made), *regions.shape)
    return Mosaics(made, classes[sources].to(images.device), shown, sources.to(images.device))


def _choose(
    by_class: dict[int, list[int]], cells: int, count: int | None, generator: torch.Generator
) -> list[list[int]]:
    """Images of distinct classes for each mosaic."""

    def shuffled(values: Sequence[int]) -> list[int]:
        return [values[place] for place in torch.randperm(len(values), generator=generator).tolist()]

    left = {each: shuffled(images) for each, images in by_class.items()}
    chosen: list[list[int]] = []
    while count is None or len(chosen) < count:
        # Sorting is stable: among classes with equally many images left, chance decides.
        classes = sorted(shuffled(list(left)), key=lambda each: len(left[each]), reverse=True)[:cells]
        if not left[classes[-1]]:
            if count is None:
                break
            left = {each: images or shuffled(by_class[each]) for each, images in left.items()}
            continue
        chosen.append([left[each].pop() for each in shuffled(classes)])
    return chosen


def _cells(size: tuple[int, ...], n: int, *, shrink: bool) -> Tensor:
    """The cells of a mosaic of images of a size, (n * n, H, W) bool, in reading order."""
    height, width = (side if shrink else n * side for side in size)
    rows = torch.arange(height) * n // height
    columns = torch.arange(width) * n // width
    numbers = rows[:, None] * n + columns
    return numbers == torch.arange(n * n)[:, None, None]


def _laid(images: Tensor, cells: Tensor, *, shrink: bool) -> Tensor:
    """One mosaic (C, H, W) of its images (n * n, C, h, w)."""
    mosaic = images.new_zeros((images.shape[1], *cells.shape[1:]))
    for image, cell in zip(images, cells, strict=True):
        places = cell.nonzero()
        (top, left), (bottom, right) = places[0].tolist(), places[-1].tolist()
        size = bottom + 1 - top, right + 1 - left
        if shrink:
            image = functional.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
        mosaic[:, top : bottom + 1, left : right + 1] = image
    return mosaic


def _check(images: Tensor, probabilities: Tensor, n: int, count: int | None, min_confidence: float) -> None:
    if images.ndim != 4 or probabilities.ndim != 2 or len(images) != len(probabilities):
        raise UsageError(
            f"mosaics take images (B, C, H, W) and probabilities (B, K), got {tuple(images.shape)} and "
            f"{tuple(probabilities.shape)}"
        )
    if not (probabilities.min() >= 0 and probabilities.max() <= 1):
        raise UsageError("probabilities lie in [0, 1]: give model(images).softmax(1), not the scores")
    if not isinstance(n, int) or n < 2 or n > min(images.shape[2:]):
        raise UsageError(f"a mosaic has n x n images, n at least 2 and at most their size in pixels, got n={n!r}")
    if count is not None and (not isinstance(count, int) or count < 1):
        raise UsageError(f"count is a number of mosaics, at least 1, or None for all, got {count!r}")
    if not 0 <= min_confidence <= 1:
        raise UsageError(f"min_confidence is a probability, 0 to 1, got {min_confidence!r}")
