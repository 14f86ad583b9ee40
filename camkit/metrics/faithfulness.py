"""Whether scores follow what the map shows: changed images go through the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from camkit.methods.options import NotNegative, OptionalCount, one_of
from camkit.metrics.correlation import pearson
from camkit.metrics.maps import even_maps
from camkit.metrics.perturbations import Masked, Original, Perturbation
from camkit.metrics.ranks import even_notes, share_of_ties
from camkit.metrics.registry import metric
from camkit.metrics.replacement import Replaced
from camkit.metrics.road import NOISE, Percentages, both, combined
from camkit.metrics.trial import Trial
from camkit.metrics.values import Values

Baseline = Annotated[str, one_of("zeros", "blur")]
Area = Annotated[str, one_of("steps", "share")]
NOTHING_TO_LOSE = "the class has no probability on the image, so that none can be lost"
NOTHING_TO_GAIN = "the class has all the probability on the image, so that none can be gained"
EVERY_FIFTH = (20, 40, 60, 80)
EPSILON = 1e-8


def _deletion(*, pixels_per_step: OptionalCount = None, baseline: Baseline = "zeros") -> Sequence[Perturbation]:
    return [Replaced(pixels_per_step, "image", baseline)]


def _insertion(*, pixels_per_step: OptionalCount = None, baseline: Baseline = "blur") -> Sequence[Perturbation]:
    return [Replaced(pixels_per_step, baseline, "image")]


@metric(
    "Deletion",
    family="faithfulness",
    paper="Petsiuk et al. 2018 (RISE)",
    formula="area under p while pixels go, the highest of M first",
    better="lower",
    needs=("scores",),
    perturbations=_deletion,
)
def deletion(
    trial: Trial, *, pixels_per_step: OptionalCount = None, baseline: Baseline = "zeros", area: Area = "steps"
) -> Values:
    r"""Replace pixels by the mean colour, the highest of the map first, and see how fast the probability falls.

    .. math:: \frac{1}{S} \left(\sum_{s=0}^{S} p(x_s) - \frac{p(x_0) + p(x_S)}{2}\right)

    Args:
        trial: the maps and what the network said.
        pixels_per_step: how many pixels go at a time; None for as many as the image is wide, which are the 224 of the
            paper at 224 x 224.
        baseline: what comes in their place: ``"zeros"`` of the normalised image, or its ``"blur"``, by an 11 x 11
            Gaussian of sigma 5 with zeros around the image.
        area: ``"steps"`` counts all steps alike, as above; ``"share"`` takes the trapezoid over the share of pixels,
            which is the same unless the last step has fewer of them.

    Returns:
        The area, in [0, 1]; the curve is called ``probability``.

    Example:
        >>> found = camkit.metrics.measure("Deletion", maps, images, model)["Deletion"]
        >>> found.curves["probability"].shape
        torch.Size([2, 33])
    """
    return _area(trial, Replaced(pixels_per_step, "image", baseline), area)


@metric(
    "Insertion",
    family="faithfulness",
    paper="Petsiuk et al. 2018 (RISE)",
    formula="area under p while pixels come, the highest of M first",
    better="higher",
    needs=("scores",),
    perturbations=_insertion,
)
def insertion(
    trial: Trial, *, pixels_per_step: OptionalCount = None, baseline: Baseline = "blur", area: Area = "steps"
) -> Values:
    """Put pixels into the blurred image, the highest of the map first, and see how fast the probability rises.

    The area is as in :func:`deletion`, and so are the options.

    Example:
        >>> camkit.metrics.measure("Insertion", maps, images, model)["Insertion"].values.shape
        torch.Size([2])
    """
    return _area(trial, Replaced(pixels_per_step, baseline, "image"), area)


def _area(trial: Trial, perturbation: Replaced, area: str) -> Values:
    curve = trial.responses[perturbation].probabilities
    shares = perturbation.shares(*trial.maps.shape[1:])
    if area == "steps":
        values = (curve.sum(1) - curve[:, 0] / 2 - curve[:, -1] / 2) / (curve.shape[1] - 1)
    else:
        values = torch.trapezoid(curve, shares, dim=1)
    return Values(values, {"probability": curve}, shares, share_of_ties(trial.maps), even_notes(trial.maps))


def _masked() -> Sequence[Perturbation]:
    return [Original(), Masked()]


@metric(
    "Average drop",
    family="faithfulness",
    paper="Chattopadhay et al. 2018 (Grad-CAM++)",
    formula="relu(p - p_M) / p",
    better="lower",
    needs=("scores", "unit"),
    perturbations=_masked,
)
def average_drop(trial: Trial) -> Values:
    r"""The share of the probability that is lost where the normalised image is multiplied by the map.

    .. math:: \max(0, p(x) - p(x \odot M)) / p(x)

    Where the class has no probability there is none to lose: 0, and a note.

    Example:
        >>> camkit.metrics.measure("Average drop", maps, images, model)["Average drop"].values.shape
        torch.Size([2])
    """
    return _drop(trial)


@metric(
    "Average gain",
    family="faithfulness",
    paper="Zhang et al. 2024 (Opti-CAM)",
    formula="relu(p_M - p) / (1 - p)",
    better="higher",
    needs=("scores", "unit"),
    perturbations=_masked,
)
def average_gain(trial: Trial) -> Values:
    r"""The share of the missing probability that is gained where the normalised image is multiplied by the map.

    .. math:: \max(0, p(x \odot M) - p(x)) / (1 - p(x))

    Where the class has all the probability there is none to gain: 0, and a note.

    Example:
        >>> camkit.metrics.measure("Average gain", maps, images, model)["Average gain"].values.shape
        torch.Size([2])
    """
    before, after = _probabilities(trial)
    can_gain = before < 1
    values = ((after - before).relu() / (1 - before).where(can_gain, 1)).where(can_gain, 0)
    return Values(values, notes=_notes(~can_gain, NOTHING_TO_GAIN))


@metric(
    "Increase in confidence",
    family="faithfulness",
    paper="Chattopadhay et al. 2018 (Grad-CAM++)",
    formula="[p_M > p]",
    better="higher",
    needs=("scores", "unit"),
    perturbations=_masked,
)
def increase_in_confidence(trial: Trial) -> Values:
    r"""Whether the class is more probable where the normalised image is multiplied by the map.

    .. math:: [p(x \odot M) > p(x)]

    Returns:
        1 or 0; the mean over images is the metric of the paper.

    Example:
        >>> name = "Increase in confidence"
        >>> camkit.metrics.measure(name, maps, images, model)[name].values.shape
        torch.Size([2])
    """
    before, after = _probabilities(trial)
    return Values((after > before).double())


@metric(
    "Confidence change",
    family="faithfulness",
    paper="Gildenblat's pytorch-grad-cam",
    formula="f(x * M) - f(x)",
    better="higher",
    needs=("scores", "unit"),
    perturbations=_masked,
)
def confidence_change(trial: Trial) -> Values:
    r"""How the score (logit) changes where the normalised image is multiplied by the map.

    .. math:: f(x \odot M) - f(x)

    Example:
        >>> camkit.metrics.measure("Confidence change", maps, images, model)["Confidence change"].values.shape
        torch.Size([2])
    """
    return Values((trial.responses[Masked()].scores - trial.responses[Original()].scores)[:, 0])


@metric(
    "ADCC",
    family="faithfulness",
    paper="Poppi et al. 2021",
    formula="3 / (1 / coherency + 1 / (1 - complexity) + 1 / (1 - drop))",
    better="higher",
    needs=("scores", "explainer", "unit"),
    perturbations=_masked,
)
def adcc(trial: Trial) -> Values:
    r"""The harmonic mean of coherency, one minus complexity, and one minus average drop.

    .. math::
        3 \left(\frac{1}{coh} + \frac{1}{1 - com} + \frac{1}{1 - drop}\right)^{-1},\quad
        coh = \frac{r(M, M(x \odot M)) + 1}{2},\quad com = \overline{|M|}

    with Pearson's correlation r of the map and the map of the masked image. Where one of the three is 0 so is the mean.

    Returns:
        In [0, 1]; the three, named as above, are among the curves, (N, 1) each.

    Example:
        >>> camkit.metrics.measure("ADCC", cam(images), images, cam)["ADCC"].values.shape
        torch.Size([2])
    """
    coherent, simple, notes = _coherency_and_simplicity(trial)
    drop = _drop(trial)
    parts = torch.stack([coherent, simple, 1 - drop.values])
    values = (3 / (1 / parts).sum(0)).where((parts > 0).all(0), 0)
    curves = {"coherency": coherent[:, None], "complexity": 1 - simple[:, None], "drop": drop.values[:, None]}
    return Values(values, curves, notes={**notes, **drop.notes})


def _fifths(*, percentages: Percentages = EVERY_FIFTH, noise: NotNegative = NOISE) -> Sequence[Perturbation]:
    return both(percentages=percentages, noise=noise)


@metric(
    "ARCC",
    family="faithfulness",
    paper="arXiv 2605.14641, 2026; pytorch-grad-cam",
    formula="harmonic mean of coherency, 1 - complexity and 2 ROADCombined, this in [0, 1]",
    better="higher",
    needs=("scores", "explainer", "unit"),
    perturbations=_fifths,
)
def arcc(trial: Trial, *, percentages: Percentages = EVERY_FIFTH, noise: NotNegative = NOISE) -> Values:
    r"""The harmonic mean of coherency, one minus complexity, both as in :func:`adcc`, and ROADCombined.

    .. math:: 3 \left(\frac{1}{coh + \epsilon} + \frac{1}{1 - com + \epsilon} + \frac{1}{road + \epsilon}\right)^{-1},
        \quad road = \min(1, \max(0, 2\, \mathrm{ROADCombined}))

    Args:
        trial: the maps and what the network said.
        percentages: of the pixels that ROAD removes.
        noise: of ROAD.

    Returns:
        In [0, 1]; the three, named as above, are among the curves, (N, 1) each.

    Example:
        >>> camkit.metrics.measure("ARCC", cam(images), images, cam)["ARCC"].values.shape
        torch.Size([2])
    """
    coherent, simple, notes = _coherency_and_simplicity(trial)
    road = (2 * combined(trial, percentages, noise)[0]).clamp(0, 1)
    values = 3 / (1 / (torch.stack([coherent, simple, road]) + EPSILON)).sum(0)
    curves = {"coherency": coherent[:, None], "complexity": 1 - simple[:, None], "road": road[:, None]}
    return Values(values, curves, ties=share_of_ties(trial.maps), notes={**even_notes(trial.maps), **notes})


def _probabilities(trial: Trial) -> tuple[Tensor, Tensor]:
    """The targets' probabilities (N,) on the images and on the masked images."""
    return trial.responses[Original()].probabilities[:, 0], trial.responses[Masked()].probabilities[:, 0]


def _drop(trial: Trial) -> Values:
    before, after = _probabilities(trial)
    can_lose = before > 0
    values = ((before - after).relu() / before.where(can_lose, 1)).where(can_lose, 0)
    return Values(values, notes=_notes(~can_lose, NOTHING_TO_LOSE))


def _coherency_and_simplicity(trial: Trial) -> tuple[Tensor, Tensor, dict[int, str]]:
    """Coherency (N,), one minus complexity (N,), and notes of maps whose correlation is defined."""
    again = trial.masked_again
    found = [pearson(one.flatten(), other.flatten()) for one, other in zip(trial.maps, again, strict=True)]
    notes = {number: f"of the masked image {line}: no correlation" for number, line in even_maps(again).items()}
    notes |= {number: f"{line}: no correlation" for number, line in even_maps(trial.maps).items()}
    return (torch.tensor(found, dtype=torch.float64) + 1) / 2, 1 - trial.maps.abs().flatten(1).mean(1), notes


def _notes(where: Tensor, line: str) -> dict[int, str]:
    return dict.fromkeys(where.nonzero().flatten().tolist(), line)
