"""ROAD: remove pixels by filling them in from around, so that no edge tells the network what was removed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from torch import Tensor

from camkit.methods.options import Kind, NotNegative
from camkit.metrics.imputation import impute
from camkit.metrics.perturbations import Perturbation
from camkit.metrics.ranks import ascending, descending, even_notes, share_of_ties
from camkit.metrics.registry import metric
from camkit.metrics.trial import Trial
from camkit.metrics.values import Values

if TYPE_CHECKING:
    from numpy.typing import NDArray

EVERY_TENTH = (10, 20, 30, 40, 50, 60, 70, 80, 90)
NOISE = 0.01
"""Standard deviation of the noise on what is filled in, in the normalised image's units."""


def _are_percentages(value: Any) -> bool:
    if not isinstance(value, tuple) or not value or any(isinstance(each, bool) for each in value):
        return False
    return all(isinstance(each, int) and 0 < each < 100 for each in value) and sorted(set(value)) == list(value)


Percentages = Annotated[
    tuple[int, ...], Kind("whole numbers from 1 to 99, ascending, such as (10, 50, 90)", _are_percentages)
]


@dataclass(frozen=True)
class Imputed:
    """The image without the highest or lowest pixels of the map, filled in by :func:`camkit.metrics.imputation.impute`.

    Attributes:
        percentage: of the pixels that are removed.
        highest_first: whether the highest pixels of the map go, or the lowest.
        noise: standard deviation of what is added to the values filled in.
    """

    percentage: int
    highest_first: bool
    noise: float = NOISE
    of_map: bool = True

    def count(self, image: Tensor) -> int:
        """See :class:`camkit.metrics.perturbations.Perturbation`."""
        return 1

    def images(self, image: Tensor, heat: Tensor, generator: torch.Generator) -> Iterator[Callable[[], Tensor]]:
        """See :class:`camkit.metrics.perturbations.Perturbation`."""
        # The same for all percentages, so that none depends on which others are asked for.
        noise = torch.randn(image.shape, dtype=torch.float64, generator=generator) * self.noise
        yield partial(self._made, image, heat, noise.numpy())

    def _made(self, image: Tensor, heat: Tensor, noise: NDArray[Any]) -> Tensor:
        # Computed with NumPy: each thread that computes with torch starts threads of its own.
        pixels = (image if image.dtype == torch.float64 else image.float()).cpu().numpy().astype(np.float64)
        count = min(round(self.percentage / 100 * heat.numel()), heat.numel() - 1)
        order = descending(heat) if self.highest_first else ascending(heat)
        missing = np.zeros(heat.shape, dtype=bool)
        missing.flat[order[:count].numpy()] = True
        if count:
            pixels[:, missing] = impute(pixels, missing) + noise[:, missing]
        return torch.from_numpy(pixels)


def imputed(percentages: Sequence[int], noise: float, *, highest_first: bool) -> list[Imputed]:
    """One perturbation per percentage."""
    return [Imputed(each, highest_first, noise) for each in percentages]


def curve(trial: Trial, percentages: Sequence[int], noise: float, *, highest_first: bool) -> Tensor:
    """Probabilities (N, S) by percentage."""
    asked = imputed(percentages, noise, highest_first=highest_first)
    return torch.cat([trial.responses[each].probabilities for each in asked], 1)


def combined(trial: Trial, percentages: Sequence[int], noise: float) -> tuple[Tensor, dict[str, Tensor]]:
    """ROADCombined's values (N,) and curves."""
    curves = {
        "MoRF": curve(trial, percentages, noise, highest_first=True),
        "LeRF": curve(trial, percentages, noise, highest_first=False),
    }
    return (curves["LeRF"] - curves["MoRF"]).mean(1) / 2, curves


def _highest(*, percentages: Percentages = EVERY_TENTH, noise: NotNegative = NOISE) -> Sequence[Perturbation]:
    return imputed(percentages, noise, highest_first=True)


def _lowest(*, percentages: Percentages = EVERY_TENTH, noise: NotNegative = NOISE) -> Sequence[Perturbation]:
    return imputed(percentages, noise, highest_first=False)


def both(*, percentages: Percentages = EVERY_TENTH, noise: NotNegative = NOISE) -> Sequence[Perturbation]:
    """What ROADCombined asks for."""
    return [*_highest(percentages=percentages, noise=noise), *_lowest(percentages=percentages, noise=noise)]


def _values(trial: Trial, values: Tensor, curves: dict[str, Tensor], percentages: Sequence[int]) -> Values:
    steps = torch.tensor(percentages, dtype=torch.float64) / 100
    return Values(values, curves, steps, share_of_ties(trial.maps), even_notes(trial.maps))


@metric(
    "ROAD MoRF",
    family="faithfulness",
    paper="Rong et al. 2022",
    formula="mean of p without the highest 10 to 90 % of M, filled in",
    better="lower",
    needs=("scores",),
    perturbations=_highest,
)
def road_morf(trial: Trial, *, percentages: Percentages = EVERY_TENTH, noise: NotNegative = NOISE) -> Values:
    r"""Remove the most relevant pixels first, and see how probable the class remains.

    .. math:: \frac{1}{S} \sum_s p(x_s)

    Missing pixels are the solution of :math:`x_i \sum_j w_{ij} = \sum_j w_{ij} x_j` over the neighbours :math:`j`
    in the image, with weights of 1/6 and, of diagonal ones, 1/12; then comes noise, the same for all shares.

    Args:
        trial: the maps and what the network said.
        percentages: of the pixels that are removed.
        noise: its standard deviation, in the normalised image's units.

    Returns:
        The mean over the shares; the curve is called ``MoRF``.

    Example:
        >>> camkit.metrics.measure("ROAD MoRF", maps, images, model)["ROAD MoRF"].curves["MoRF"].shape
        torch.Size([2, 9])
    """
    found = curve(trial, percentages, noise, highest_first=True)
    return _values(trial, found.mean(1), {"MoRF": found}, percentages)


@metric(
    "ROAD LeRF",
    family="faithfulness",
    paper="Rong et al. 2022",
    formula="mean of p without the lowest 10 to 90 % of M, filled in",
    better="higher",
    needs=("scores",),
    perturbations=_lowest,
)
def road_lerf(trial: Trial, *, percentages: Percentages = EVERY_TENTH, noise: NotNegative = NOISE) -> Values:
    """Remove the least relevant pixels first, and see how probable the class remains; see :func:`road_morf`.

    Returns:
        The mean over the shares; the curve is called ``LeRF``.

    Example:
        >>> camkit.metrics.measure("ROAD LeRF", maps, images, model)["ROAD LeRF"].curves["LeRF"].shape
        torch.Size([2, 9])
    """
    found = curve(trial, percentages, noise, highest_first=False)
    return _values(trial, found.mean(1), {"LeRF": found}, percentages)


@metric(
    "ROADCombined",
    family="faithfulness",
    paper="Rong et al. 2022; Gildenblat's pytorch-grad-cam",
    formula="mean of (LeRF - MoRF) / 2",
    better="higher",
    needs=("scores",),
    perturbations=both,
)
def road_combined(trial: Trial, *, percentages: Percentages = EVERY_TENTH, noise: NotNegative = NOISE) -> Values:
    r"""Half the difference between removing the least and the most relevant pixels first; see :func:`road_morf`.

    .. math:: \frac{1}{S} \sum_s \frac{p(x_s^{LeRF}) - p(x_s^{MoRF})}{2} \in [-0.5, 0.5]

    Returns:
        The mean over the shares; the curves are called ``MoRF`` and ``LeRF``.

    Example:
        >>> camkit.metrics.measure("ROADCombined", maps, images, model, percentages=(20, 80))["ROADCombined"].steps
        tensor([0.2000, 0.8000], dtype=torch.float64)
    """
    values, curves = combined(trial, percentages, noise)
    return _values(trial, values, curves, percentages)
