"""Values of many images in a few numbers: means with their intervals, and whether two methods can be told apart."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from camkit.errors import UsageError
from camkit.metrics.values import Values

CONFIDENCE = 0.95
RESAMPLES = 2000
"""Of the images, for an interval."""
EXACT = 14
"""Images up to which all signs are tried; that many and more are drawn beyond."""
DRAWN = 9999
"""Signs that are drawn where there are more images."""
_AT_ONCE = 2**22
"""Numbers that are drawn at a time."""


@dataclass(frozen=True)
class Summary:
    """A metric's values over images.

    Attributes:
        mean: over images.
        low: where the interval of :data:`CONFIDENCE` begins; None for one image.
        high: where it ends.
        count: how many images.
        ties: the mean share of pixels that have their rank by their position alone; None for metrics that rank nothing.
        note: why there is no interval.
    """

    mean: float
    low: float | None
    high: float | None
    count: int
    ties: float | None = None
    note: str = ""

    def __str__(self) -> str:
        """``0.412 (0.380 to 0.447)``."""
        interval = "" if self.low is None else f" ({self.low:.3f} to {self.high:.3f})"
        return f"{self.mean:.3f}{interval}"


def summarise(values: Values | Any, *, images: Sequence[Hashable] | Tensor | None = None, seed: int = 0) -> Summary:
    """Mean, bootstrap interval, share of ties and count.

    The interval is the percentile bootstrap's over images: they are drawn with replacement, 2000 times, and the middle
    95 % of the means is the interval.

    Args:
        values: what :func:`camkit.metrics.measure` returns for a metric; or numbers (N,).
        images: which image each value is of, where several are of one: their mean is taken first, since values of one
            image say little more than one of them does. None where each value is of an image of its own.
        seed: of the images that are drawn.

    Raises:
        UsageError: no value, or values that are no finite numbers.

    Example:
        >>> summarise([0.2, 0.4, 0.6]).mean
        0.4000...
    """
    numbers = values.values if isinstance(values, Values) else values
    means = image_means(numbers, images)
    if means.ndim > 1:
        raise UsageError(f"values to summarise are one per image, (N,), got {tuple(means.shape)}")
    ties = float(values.ties.double().mean()) if isinstance(values, Values) and values.ties is not None else None
    mean = float(means.mean())
    if len(means) == 1:
        return Summary(mean, None, None, 1, ties, "no interval: one image")
    low, high = bootstrap(means[:, None], seed)
    return Summary(mean, float(low), float(high), len(means), ties)


def image_means(values: Any, images: Sequence[Hashable] | Tensor | None = None) -> Tensor:
    """The mean of each image's values, in the order in which images first occur.

    Args:
        values: (N, ...).
        images: (N,), see :func:`summarise`.

    Returns:
        (images, ...) float64 on the CPU.

    Raises:
        UsageError: see :func:`summarise`.
    """
    try:
        numbers = torch.as_tensor(values).detach().to("cpu", torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise UsageError(f"values to summarise are numbers, one per image; got {type(values).__name__}") from None
    if not numbers.ndim or not len(numbers):
        raise UsageError("there are no values to summarise: give one per image")
    wrong = (~numbers.isfinite()).flatten(1).any(1) if numbers.ndim > 1 else ~numbers.isfinite()
    if wrong.any():
        first = int(wrong.nonzero()[0])
        raise UsageError(
            f"{int(wrong.sum())} of {len(numbers)} values are no finite numbers, the first is number {first}"
        )
    if images is None:
        return numbers
    if isinstance(images, Tensor):  # whose elements are equal to none when they are looked up
        images = images.tolist()
    if len(images) != len(numbers):
        raise UsageError(f"{len(numbers)} values are of {len(images)} images: name the image of each value")
    places = {image: number for number, image in enumerate(dict.fromkeys(images))}
    rows = torch.tensor([places[image] for image in images])
    sums = numbers.new_zeros((len(places), *numbers.shape[1:])).index_add_(0, rows, numbers)
    return sums / rows.bincount(minlength=len(places)).view(-1, *[1] * (numbers.ndim - 1))


def bootstrap(values: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Where the interval of the mean begins and ends.

    Args:
        values: (images, S) float64.
        seed: of the images that are drawn.

    Returns:
        Two tensors (S,).
    """
    generator = torch.Generator().manual_seed(seed)
    count = len(values)
    means = []
    for rows in _in_parts(RESAMPLES, count):
        drawn = torch.randint(count, (rows, count), generator=generator)
        weights = values.new_zeros(rows, count).scatter_add_(1, drawn, values.new_ones(1).expand(rows, count))
        means.append(weights @ values / count)
    tail = (1 - CONFIDENCE) / 2
    low, high = torch.cat(means).quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64), 0)
    return low, high


def paired_p(first: Any, second: Any, seed: int = 0) -> float:
    """The probability that two methods differ as much by chance: a paired sign-flip permutation test of the means.

    Under the hypothesis that they don't differ, the sign of each image's difference is arbitrary. All signs are tried
    for up to 14 images, else 9999 are drawn, and the two-sided p counts those whose mean is as far from zero.

    Args:
        first: (images,), one method's values.
        second: (images,), another's, of the same images in the same order.
        seed: of the signs that are drawn.

    Returns:
        p, in (0, 1]; :func:`smallest_p` is the least that so many images can give.

    Raises:
        UsageError: other counts, or values that are no finite numbers.

    Example:
        >>> paired_p([1.0, 2.0, 3.0], [0.0, 0.0, 0.0])
        0.25
    """
    ours, theirs = image_means(first), image_means(second)
    if ours.shape != theirs.shape or ours.ndim != 1:
        raise UsageError(
            f"a paired test takes values of the same images, got {tuple(ours.shape)}, {tuple(theirs.shape)}"
        )
    differences = ours - theirs
    count = len(differences)
    # What rounding makes of equal sums may differ in the last digits.
    least = float(differences.sum().abs()) - 1e-12 * float(differences.abs().sum())
    if count <= EXACT:
        numbers = torch.arange(2 ** (count - 1))
        bits = (numbers[:, None] >> torch.arange(count)) & 1
        return float(((1 - 2.0 * bits.double()) @ differences).abs().ge(least).double().mean())
    generator = torch.Generator().manual_seed(seed)
    hits = 0
    for rows in _in_parts(DRAWN, count):
        signs = 1 - 2 * torch.randint(2, (rows, count), generator=generator, dtype=torch.float64)
        hits += int((signs @ differences).abs().ge(least).sum())
    return (1 + hits) / (1 + DRAWN)


def smallest_p(count: int) -> float:
    """The least p that :func:`paired_p` can find for so many images."""
    return 2.0 ** (1 - count) if count <= EXACT else 1 / (1 + DRAWN)


def _in_parts(rows: int, columns: int) -> Iterator[int]:
    """Numbers of rows that add up, few enough for the memory."""
    most = max(1, _AT_ONCE // columns)
    for start in range(0, rows, most):
        yield min(most, rows - start)
