"""ROAD, remove and debias: removed pixels are filled in from around them (Rong et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from camkit.errors import UsageError
from camkit.integrations.pytorch_grad_cam.metrics.perturbation_confidence import (
    EVERY_TENTH,
    AveragerAcrossThresholds,
    Maps,
    PerturbationConfidenceMetric,
    RemoveLeastRelevantFirst,
    RemoveMostRelevantFirst,
    Scored,
)

neighbors_weights = [
    ((down, right), 1 / 12 if down and right else 1 / 6)
    for down in (-1, 0, 1)
    for right in (-1, 0, 1)
    if (down, right) != (0, 0)
]
"""Weights of a pixel's neighbours, by (rows down, columns right)."""


class NoisyLinearImputer:
    """Fill missing pixels with weighted means of their neighbours, see :mod:`camkit.metrics.imputation`, and noise.

    Args:
        noise: standard deviation of the noise, which torch's generator draws; 0 for none.
        weighting: the paper's weights; there are no others.

    Raises:
        UsageError: other weights.
    """

    def __init__(self, noise: float = 0.01, weighting: Sequence[tuple[tuple[int, int], float]] = ()) -> None:
        if weighting and sorted(weighting) != sorted(neighbors_weights):
            raise UsageError("the neighbours' weights are the paper's, 1/6 and 1/12: leave weighting out")
        self.noise = noise
        self.weighting = neighbors_weights

    def __call__(self, img: Tensor, mask: Tensor) -> Tensor:
        """The image (C, H, W) with values where ``mask`` (H, W) is 0.

        Raises:
            UsageError: no pixel is left.
        """
        missing = mask.numpy() == 0
        if missing.all():
            raise UsageError("no pixel is left to fill the others in from: take a percentile above 0")
        from camkit.metrics.imputation import impute

        made = img.detach().double().numpy().copy()
        if missing.any():
            filled = impute(made, missing)
            made[:, missing] = filled + self.noise * torch.randn(filled.shape, dtype=torch.float64).numpy()
        return torch.from_numpy(made).to(img.dtype)


class ROADMostRelevantFirst(PerturbationConfidenceMetric):
    """The change of scores where ``percentile`` per cent of the pixels are left, those where maps are lowest."""

    def __init__(self, percentile: float | str = 80) -> None:
        super().__init__(RemoveMostRelevantFirst(percentile, NoisyLinearImputer()))


class ROADLeastRelevantFirst(PerturbationConfidenceMetric):
    """The change of scores where ``percentile`` per cent of the pixels are left, those where maps are highest."""

    def __init__(self, percentile: float | str = 20) -> None:
        super().__init__(RemoveLeastRelevantFirst(percentile, NoisyLinearImputer()))


class ROADMostRelevantFirstAverage(AveragerAcrossThresholds):
    """The mean of :class:`ROADMostRelevantFirst` over percentiles."""

    def __init__(self, percentiles: Sequence[float] = EVERY_TENTH) -> None:
        super().__init__(ROADMostRelevantFirst, percentiles)


class ROADLeastRelevantFirstAverage(AveragerAcrossThresholds):
    """The mean of :class:`ROADLeastRelevantFirst` over percentiles."""

    def __init__(self, percentiles: Sequence[float] = EVERY_TENTH) -> None:
        super().__init__(ROADLeastRelevantFirst, percentiles)


class ROADCombined:
    """Half the difference between the two averages: positive where the least relevant pixels matter less."""

    def __init__(self, percentiles: Sequence[float] = EVERY_TENTH) -> None:
        self.percentiles = percentiles
        self.morf_averager = ROADMostRelevantFirstAverage(percentiles)
        self.lerf_averager = ROADLeastRelevantFirstAverage(percentiles)

    def __call__(self, input_tensor: Tensor, cams: Maps, targets: Scored, model: nn.Module) -> NDArray[np.float32]:
        """(B,) float32."""
        least, most = (each(input_tensor, cams, targets, model) for each in (self.lerf_averager, self.morf_averager))
        return np.asarray((least - most) / 2, dtype=np.float32)
