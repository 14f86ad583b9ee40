"""Whether scores follow what the map shows: changed images go through the network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional

from camkit.methods.options import OptionalCount, one_of
from camkit.metrics.perturbations import Masked, Original, Perturbation
from camkit.metrics.ranks import descending, share_of_ties
from camkit.metrics.registry import metric
from camkit.metrics.trial import Trial
from camkit.metrics.values import Values

BLUR_SIZE, BLUR_SIGMA = 11, 5.0
"""Of the blurred image, in pixels."""
Baseline = Annotated[str, one_of("zeros", "blur")]
Area = Annotated[str, one_of("steps", "share")]
NOTHING_TO_LOSE = "the class has no probability on the image, so that none can be lost"
NOTHING_TO_GAIN = "the class has all the probability on the image, so that none can be gained"


@dataclass(frozen=True)
class Replaced:
    """Pixels of one picture replaced by those of another, in descending order of the map.

    Attributes:
        pixels_per_step: how many; None for the image's width.
        start: the picture before the first step, ``"image"``, ``"zeros"`` or ``"blur"``.
        end: the picture after the last step.
    """

    pixels_per_step: int | None
    start: str
    end: str
    of_map: bool = True

    def count(self, image: Tensor) -> int:
        """See :class:`camkit.metrics.perturbations.Perturbation`."""
        return len(self.shares(image.shape[1], image.shape[2]))

    def shares(self, height: int, width: int) -> Tensor:
        """The share of pixels replaced, from 0 to 1, step by step."""
        total = height * width
        counts = [*range(0, total, self.pixels_per_step or width), total]
        return torch.tensor(counts, dtype=torch.float64) / total

    def images(self, image: Tensor, heat: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
        """See :class:`camkit.metrics.perturbations.Perturbation`."""
        changing, end = _picture(self.start, image).clone(), _picture(self.end, image)
        yield changing
        # In place: a picture of its own for every step takes several times as long.
        pixels, replacement = changing.flatten(1), end.flatten(1)
        for chosen in torch.split(descending(heat).to(image.device), self.pixels_per_step or image.shape[2]):
            pixels[:, chosen] = replacement[:, chosen]
            yield changing


def _picture(name: str, image: Tensor) -> Tensor:
    """The picture of a name, contiguous."""
    if name == "zeros":
        return torch.zeros_like(image, memory_format=torch.contiguous_format)
    return blurred(image) if name == "blur" else image.contiguous()


def blurred(image: Tensor) -> Tensor:
    """A normalised image (C, H, W) blurred by an 11 x 11 Gaussian of sigma 5, the mean colour around it."""
    reach = BLUR_SIZE // 2
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64)
    weights = (-(offsets**2) / (2 * BLUR_SIGMA**2)).exp()
    weights = (weights / weights.sum()).to(image)
    rows = functional.conv2d(image[:, None], weights.view(1, 1, -1, 1), padding=(reach, 0))
    return functional.conv2d(rows, weights.view(1, 1, 1, -1), padding=(0, reach))[:, 0]


def _deletion(*, pixels_per_step: OptionalCount = None, baseline: Baseline = "zeros") -> Sequence[Perturbation]:
    return [Replaced(pixels_per_step, "image", baseline)]


@metric(
    "Deletion",
    family="faithfulness",
    paper="Petsiuk et al. 2018 (RISE), sec. 4.2",
    formula="area under p while pixels go, the highest of M first",
    better="lower",
    needs=("scores",),
    perturbations=_deletion,
)
def deletion(
    trial: Trial, *, pixels_per_step: OptionalCount = None, baseline: Baseline = "zeros", area: Area = "steps"
) -> Values:
    """Compute it; see the formula."""
    return _area(trial, Replaced(pixels_per_step, "image", baseline), area)


def _area(trial: Trial, perturbation: Replaced, area: str) -> Values:
    curve = trial.responses[perturbation].probabilities
    shares = perturbation.shares(*trial.maps.shape[1:])
    if area == "steps":
        values = (curve.sum(1) - curve[:, 0] / 2 - curve[:, -1] / 2) / (curve.shape[1] - 1)
    else:
        values = torch.trapezoid(curve, shares, dim=1)
    return Values(values, {"probability": curve}, shares, share_of_ties(trial.maps))


def _masked() -> Sequence[Perturbation]:
    return [Original(), Masked()]


@metric(
    "Average drop",
    family="faithfulness",
    paper="Chattopadhay et al. 2018, sec. 4.1",
    formula="relu(p - p_M) / p",
    better="lower",
    needs=("scores", "unit"),
    perturbations=_masked,
)
def average_drop(trial: Trial) -> Values:
    """Compute it; see the formula."""
    before, after = _probabilities(trial)
    lost = before > 0
    values = ((before - after).relu() / before.where(lost, 1)).where(lost, 0)
    return Values(values, notes=_notes(~lost, NOTHING_TO_LOSE))


def _probabilities(trial: Trial) -> tuple[Tensor, Tensor]:
    """The targets' probabilities (N,) on the images and on the masked images."""
    return trial.responses[Original()].probabilities[:, 0], trial.responses[Masked()].probabilities[:, 0]


def _notes(where: Tensor, line: str) -> dict[int, str]:
    return dict.fromkeys(where.nonzero().flatten().tolist(), line)
