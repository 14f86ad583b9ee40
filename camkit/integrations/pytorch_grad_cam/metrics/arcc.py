"""ARCC: how coherent and simple maps are, and how well they hold under ROAD, in one number (Domeniconi et al. 2026)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from camkit.integrations.pytorch_grad_cam.metrics.perturbation_confidence import Scored
from camkit.integrations.pytorch_grad_cam.metrics.road import ROADCombined

Array = NDArray[np.float32]
EPS = 1e-8
"""Added to what is divided by."""


def batch_pearson_coherency(A: Array, B: Array) -> Array:  # noqa: N803
    """Pearson's correlation of the maps of two batches (N, ...), (N,) in [-1, 1]; 0 where a map is constant."""
    first, second = (
        each.reshape(len(each), -1) - each.reshape(len(each), -1).mean(1, keepdims=True) for each in (A, B)
    )
    count = first.shape[1] - 1
    sizes = np.sqrt((first**2).sum(1) / count) * np.sqrt((second**2).sum(1) / count)
    return np.asarray((first * second).sum(1) / count / (sizes + EPS))


class Complexity:
    """The mean of a map, in [0, 1]: how much of the image it marks."""

    def __call__(self, grayscale_cams: Array) -> Array:
        """Of maps (B, H, W), (B,)."""
        return np.asarray(np.abs(grayscale_cams).reshape(len(grayscale_cams), -1).mean(1))


class Coherency:
    """How alike a map and the one of the image times the map are, in [0, 1]: their correlation, scaled."""

    def __call__(
        self,
        input_tensor: Tensor,
        grayscale_cams: Array,
        targets: Scored,
        model: nn.Module,
        base_method: Callable[..., Array],
    ) -> Array:
        """Of maps (B, H, W) by ``base_method``, (B,)."""
        heat = torch.from_numpy(grayscale_cams)[:, None].to(input_tensor)
        again = base_method(input_tensor=input_tensor * heat, targets=targets)
        return np.asarray((batch_pearson_coherency(again, grayscale_cams) + 1) / 2)


class ARCC:
    """The harmonic mean of coherency, of 1 - complexity, and of twice ROADCombined, within [0, 1].

    Args:
        base_method: the CAM that made the maps.
        road_percentiles: of ROADCombined.
    """

    def __init__(self, base_method: Any, road_percentiles: Sequence[float] = (20, 40, 60, 80)) -> None:
        self.complexity = Complexity()
        self.coherency = Coherency()
        self.road = ROADCombined(road_percentiles)
        self.base_method = base_method

    def __call__(self, input_tensor: Tensor, grayscale_cams: Array, targets: Scored, model: nn.Module) -> Array:
        """Of maps (B, H, W), (B,)."""
        road = np.clip(2 * self.road(input_tensor, grayscale_cams, targets, model), 0, 1)
        simple = 1 - self.complexity(grayscale_cams)
        coherent = self.coherency(input_tensor, grayscale_cams, targets, model, self.base_method)
        return np.asarray(3 / sum(1 / (each + EPS) for each in (road, simple, coherent)))
