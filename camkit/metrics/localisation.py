"""Whether the map lies where the object is: boxes, masks, or cells of a mosaic."""

from __future__ import annotations

import torch
from torch import Tensor

from camkit.methods.options import NotNegative
from camkit.metrics.maps import even_maps
from camkit.metrics.registry import metric
from camkit.metrics.trial import Trial, known
from camkit.metrics.values import Values

NOTHING = 1e-7
"""A map whose sum is at most this lies nowhere."""


@metric(
    "Pointing game",
    family="localisation",
    paper="Zhang et al. 2018, excitation backprop's pointing game",
    formula="1 where the maximum of M lies in the region, else 0",
    better="higher",
    needs=("region",),
)
def pointing_game(trial: Trial, *, tolerance: NotNegative = 0.0) -> Values:
    """Ask whether the map's maximum lies in the region.

        hit = 1 if the distance from argmax M to the nearest pixel of the region is at most tolerance, else 0

    The mean over images is the accuracy; a random map's chance is the region's share of the image. Of several maximal
    pixels the first counts, row by row, as in a map that is the same everywhere; ``ties`` has the share of pixels that
    are maximal where there are several.

    Paper: Zhang et al. 2018, excitation backprop's pointing game, with a tolerance of 15 pixels there.

    Args:
        trial: maps and regions.
        tolerance: in pixels.

    Example:
        >>> found = camkit.metrics.measure("Pointing game", maps, regions=regions, tolerance=15)
        >>> found["Pointing game"].values.shape
        torch.Size([2])
    """
    hits, ties = [], []
    width = trial.maps.shape[2]
    for heat, region in zip(trial.maps.flatten(1), known(trial.regions), strict=True):
        maximal = (heat == heat.max()).nonzero()[:, 0]
        first = int(maximal[0])
        offsets = region.nonzero() - torch.tensor([first // width, first % width])
        hits.append(float(offsets.square().sum(1).min() <= tolerance**2))
        ties.append(len(maximal) / len(heat) if len(maximal) > 1 else 0.0)
    both = torch.tensor([hits, ties], dtype=torch.float64)
    return Values(both[0], ties=both[1], notes=_about_first(trial))


@metric(
    "Energy pointing game",
    family="localisation",
    paper="Wang et al. 2020, Score-CAM's localisation",
    formula="sum of M in the region / sum of M",
    better="higher",
    needs=("region", "unit"),
)
def energy_pointing_game(trial: Trial) -> Values:
    """Measure how much of the map lies in the region.

        energy = sum of M in the region / sum of M

    in [0, 1]; the mean for random maps, and the value of a map that is the same everywhere, is the region's share of
    the image. A map that is zero everywhere lies nowhere: 0.

    Paper: Wang et al. 2020, Score-CAM's localisation.

    Args:
        trial: maps in [0, 1] and regions.

    Example:
        >>> found = camkit.metrics.measure("Energy pointing game", maps, regions=regions)
        >>> found["Energy pointing game"].values.shape
        torch.Size([2])
    """
    return _share_inside(trial, trial.maps, 0.0)


@metric(
    "GridPG",
    family="localisation",
    paper="Rao et al. 2022, localisation score of GridPG",
    formula="sum of relu(M) in the class's cell of a mosaic / sum of relu(M)",
    better="higher",
    needs=("region",),
)
def gridpg(trial: Trial) -> Values:
    """Measure how much of the map lies in the cell of a mosaic that shows the class.

        GridPG = sum of relu(M) in the cell / sum of relu(M),  0 where the sum is at most 1e-7

    of a mosaic of n x n images of distinct classes that the network is sure of
    (:func:`camkit.metrics.build_mosaics`), each of which is explained for the class of each cell. In [0, 1]; a
    random map, and one that is the same everywhere, gets 1/n^2.

    Paper: Rao et al. 2022, localisation score of GridPG; maps of another size are resized bilinearly before.

    Args:
        trial: maps, which may be signed, and cells as regions.

    Example:
        >>> found = camkit.metrics.measure("GridPG", maps, regions=regions)
        >>> found["GridPG"].values.shape
        torch.Size([2])
    """
    return _share_inside(trial, trial.maps.relu(), NOTHING)


def _share_inside(trial: Trial, maps: Tensor, nothing: float) -> Values:
    """The share of maps (N, H, W) of at least 0 that lies in the regions."""
    regions, notes = known(trial.regions), dict(even_maps(trial.maps))
    total = maps.sum((1, 2))
    inside = (maps * regions).sum((1, 2))
    shares = (inside / total).where(total > nothing, 0)
    for number in (total <= nothing).nonzero()[:, 0].tolist():
        notes[number] = "the map is nowhere above 0: no share of it lies in the region"
    return Values(shares, notes=notes)


def _about_first(trial: Trial) -> dict[int, str]:
    return {number: f"{line}: its first pixel counts as the maximum" for number, line in even_maps(trial.maps).items()}
