"""Faithfulness of random parts: what the map says of a change against what the change does to the score.

The changes don't depend on the map, so that they run once for all methods that are compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from camkit.methods.options import Count, Kind, NotNegative, is_number
from camkit.metrics.correlation import Correlation, pearson, spearman
from camkit.metrics.maps import even_maps
from camkit.metrics.perturbations import Original, Perturbation, generator_of
from camkit.metrics.random_changes import Noise, RemovedCells, RemovedPixels
from camkit.metrics.registry import metric
from camkit.metrics.trial import Trial
from camkit.metrics.values import Values

Share = Annotated[float, Kind("a number above 0 and below 1", lambda value: is_number(value) and 0 < value < 1)]
Shares = Annotated[
    tuple[float, ...],
    Kind(
        "numbers above 0 and below 1, such as (0.1, 0.5)",
        lambda value: (
            isinstance(value, tuple) and bool(value) and all(is_number(each) and 0 < each < 1 for each in value)
        ),
    ),
]


def _noise(*, num_samples: Count = 10, std: NotNegative = 0.2) -> Sequence[Perturbation]:
    return Original(), Noise(num_samples, std)


def _cells(*, num_subsets: Count = 200, grid: Count = 9, share: Share = 0.2) -> Sequence[Perturbation]:
    return Original(), RemovedCells(num_subsets, grid, share)


def _pixels(*, num_subsets: Count = 100, shares: Shares = (0.01, 0.03, 0.1, 0.3, 0.8)) -> Sequence[Perturbation]:
    return Original(), RemovedPixels(num_subsets, shares)


@metric(
    "Infidelity",
    family="faithfulness",
    paper="Yeh et al. 2019, definition 2.1",
    formula="mean of (sum of I M - (f(x) - f(x - I)))^2",
    better="lower",
    needs=("scores",),
    perturbations=_noise,
)
def infidelity(trial: Trial, *, num_samples: Count = 10, std: NotNegative = 0.2) -> Values:
    """Compare what the map says of noise with what the noise does to the score.

        infidelity = mean over I of (sum_chw I_chw M_hw - (f(x) - f(x - I)))^2,  I_chw normal with deviation std

    where M is the map, x the normalised image and f the score. Lower is better, 0 the best. The value depends on the
    map's scale: one in [0, 1] is not in units of the score, so that mostly its size is measured. Compare methods by
    "Normalised infidelity".

    Paper: Yeh et al. 2019, definition 2.1; the noise as in the authors' code.

    Args:
        trial: maps, images and the scores of changed images.
        num_samples: how many times noise is drawn.
        std: standard deviation of the noise, in units of the normalised image.

    Example:
        >>> found = camkit.metrics.measure("Infidelity", maps, images, model, targets=3)
        >>> found["Infidelity"].values.shape
        torch.Size([2])
    """
    said, done = _said_and_done(trial, Noise(num_samples, std))
    return Values((said - done).square().mean(1), {"said": said, "done": done}, notes=even_maps(trial.maps))


@metric(
    "Normalised infidelity",
    family="faithfulness",
    paper="Yeh et al. 2019, definition 2.1, with the authors' optimal scale",
    formula="mean of (b sum of I M - (f(x) - f(x - I)))^2, b the best factor",
    better="lower",
    needs=("scores",),
    perturbations=_noise,
)
def normalised_infidelity(trial: Trial, *, num_samples: Count = 10, std: NotNegative = 0.2) -> Values:
    """Infidelity of the map times the factor that makes it least, so that the map's scale doesn't count.

        a = sum_chw I_chw M_hw,  d = f(x) - f(x - I),  b = sum over I of a d / sum over I of a^2
        normalised infidelity = mean over I of (b a - d)^2

    Lower is better, 0 the best. A map that is zero everywhere says nothing: b is 0.

    Paper: Yeh et al. 2019, definition 2.1, scaled as in the authors' code and in Captum's ``normalize=True``.

    Args:
        trial: maps, images and the scores of changed images.
        num_samples: how many times noise is drawn; with one, b makes the value 0 for any map.
        std: standard deviation of the noise, in units of the normalised image.

    Example:
        >>> found = camkit.metrics.measure("Normalised infidelity", maps, images, model, targets=3, num_samples=20)
        >>> found["Normalised infidelity"].values.shape
        torch.Size([2])
    """
    said, done = _said_and_done(trial, Noise(num_samples, std))
    square = said.square().sum(1, keepdim=True)
    factor = ((said * done).sum(1, keepdim=True) / square).where(square > 0, 0)
    curves = {"said": factor * said, "done": done}
    return Values((factor * said - done).square().mean(1), curves, notes=even_maps(trial.maps))


@metric(
    "MuFidelity",
    family="faithfulness",
    paper="Bhatt et al. 2020, definition 3",
    formula="Spearman over subsets of (sum of M in the subset, f(x) - f(x without it))",
    better="higher",
    needs=("scores",),
    perturbations=_cells,
)
def mufidelity(trial: Trial, *, num_subsets: Count = 200, grid: Count = 9, share: Share = 0.2) -> Values:
    """Correlate the map's sum in random parts of the image with what the score loses without them.

        MuFidelity = Spearman over S of (sum in S of M, f(x) - f(x with S set to 0))

    where S are ``share`` of the cells of a ``grid`` x ``grid`` grid, and 0 is the mean colour of normalised images.
    Higher is better, in [-1, 1]; a random map gets 0. All subsets have the same number of cells, as in the paper:
    where the number varies, any map of positive values correlates. Equal sums, or drops, get the mean of their ranks.
    A map that is the same everywhere, or a score that nothing changes, gets 0.

    Paper: Bhatt et al. 2020, definition 3; grid and numbers as in Xplique.

    Args:
        trial: maps, images and the scores of changed images.
        num_subsets: how many subsets are drawn.
        grid: cells along each side.
        share: of the cells that are removed, above 0 and below 1.

    Example:
        >>> found = camkit.metrics.measure("MuFidelity", maps, images, model, targets=3, num_subsets=50)
        >>> found["MuFidelity"].values.abs().max() <= 1
        tensor(True)
    """
    asked = RemovedCells(num_subsets, grid, share)
    drops = _drops(trial, asked)
    sums = torch.zeros_like(drops)
    height, width = trial.maps.shape[1:]
    cells = asked.cells(height, width).flatten()
    for number, image in enumerate(trial.image_of_each):
        # Rounded once: sums of the same cells are equal in whichever order they are added.
        of_cell = [values.tolist() for values in _by_cell(trial.maps[number].flatten(), cells)]
        subsets = asked.subsets(height, width, generator_of(image, trial.seed))
        rows = [math.fsum(value for cell in subset.tolist() for value in of_cell[cell]) for subset in subsets]
        sums[number] = torch.tensor(rows, dtype=torch.float64)
    return _correlated(trial, sums[:, None], drops[:, None], spearman, None)


@metric(
    "Sensitivity-n",
    family="faithfulness",
    paper="Ancona et al. 2018, sensitivity-n",
    formula="mean over n of Pearson over subsets of n pixels of (sum of M in it, f(x) - f(x without it))",
    better="higher",
    needs=("scores",),
    perturbations=_pixels,
)
def sensitivity_n(trial: Trial, *, num_subsets: Count = 100, shares: Shares = (0.01, 0.03, 0.1, 0.3, 0.8)) -> Values:
    """Correlate the map's sum over n random pixels with what the score loses without them, for growing n.

        Sensitivity-n = Pearson over S of (sum in S of M, f(x) - f(x with S set to 0)),  S random with n pixels

    of each image by itself; the value is the mean over n, and the curve ``correlation`` has them all. n are ``shares``
    of the pixels, and 0 is the mean colour of normalised images. Higher is better, in [-1, 1]; a random map gets 0,
    and so does a map that is the same everywhere.

    Paper: Ancona et al. 2018, sensitivity-n; up to about 80 % of the pixels, 100 subsets each, as in its experiments.

    Args:
        trial: maps, images and the scores of changed images.
        num_subsets: how many subsets of each size are drawn.
        shares: of the pixels that are removed, above 0 and below 1.

    Example:
        >>> found = camkit.metrics.measure("Sensitivity-n", maps, images, model, 3, num_subsets=9, shares=(0.1, 0.5))
        >>> found["Sensitivity-n"].curves["correlation"].shape
        torch.Size([2, 2])
    """
    asked = RemovedPixels(num_subsets, shares)
    drops = _drops(trial, asked)
    sums = torch.zeros_like(drops)
    for number, image in enumerate(trial.image_of_each):
        heat = trial.maps[number].flatten()
        subsets = asked.subsets(len(heat), generator_of(image, trial.seed))
        sums[number] = torch.stack([heat[subset].sum() for subset in subsets])
    shape = len(sums), len(shares), num_subsets
    return _correlated(
        trial, sums.reshape(shape), drops.reshape(shape), pearson, torch.tensor(shares, dtype=torch.float64)
    )


def _said_and_done(trial: Trial, noise: Noise) -> tuple[Tensor, Tensor]:
    """What the map says of each change, and what it does to the score, (N, S) each."""
    said = [
        [
            float((change.cpu().double() * heat).sum())
            for change in noise.changes(image, generator_of(image, trial.seed))
        ]
        for image, heat in zip(trial.image_of_each, trial.maps, strict=True)
    ]
    return torch.tensor(said, dtype=torch.float64), _drops(trial, noise)


def _drops(trial: Trial, perturbation: Perturbation) -> Tensor:
    """What the score loses by each change, (N, S)."""
    return trial.responses[Original()].scores - trial.responses[perturbation].scores


def _by_cell(heat: Tensor, cells: Tensor) -> tuple[Tensor, ...]:
    """A map's values, cell by cell."""
    order = cells.argsort(stable=True)
    return torch.split(heat[order], cells.bincount().tolist())


def _correlated(trial: Trial, sums: Tensor, drops: Tensor, correlation: Correlation, steps: Tensor | None) -> Values:
    """Correlate (N, sizes, subsets) over subsets; the value is the mean over sizes."""
    notes = dict(even_maps(trial.maps))
    rows = torch.zeros(sums.shape[:2], dtype=torch.float64)
    for number, (of_map, of_score) in enumerate(zip(sums, drops, strict=True)):
        if number in notes:
            continue
        of_sizes = [correlation(*pair) for pair in zip(of_map, of_score, strict=True)]
        rows[number] = torch.tensor(of_sizes, dtype=torch.float64)
        if bool((of_score == of_score.flatten()[0]).all()):
            notes[number] = "none of the changes changes the score: correlation 0"
    return Values(rows.mean(1), {"correlation": rows}, steps=steps, notes=notes)
