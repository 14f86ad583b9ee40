"""How much scores change where images are multiplied by their maps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from camkit.integrations.pytorch_grad_cam.metrics.perturbation_confidence import PerturbationConfidenceMetric


def multiply_tensor_with_cam(input_tensor: Tensor, cam: Tensor) -> Tensor:
    """A normalised image (C, H, W) times its map (H, W)."""
    return input_tensor * cam


class CamMultImageConfidenceChange(PerturbationConfidenceMetric):
    """The change of each target's score."""

    def __init__(self) -> None:
        super().__init__(multiply_tensor_with_cam)


class DropInConfidence(CamMultImageConfidenceChange):
    """How much each target's score falls; 0 where it rises."""

    def __call__(self, *args: Any, **kwargs: Any) -> NDArray[np.float32]:
        """See the base."""
        return np.asarray(np.maximum(-super().__call__(*args, **kwargs), 0))


class IncreaseInConfidence(CamMultImageConfidenceChange):
    """1 where a target's score rises, else 0."""

    def __call__(self, *args: Any, **kwargs: Any) -> NDArray[np.float32]:
        """See the base."""
        return np.asarray(super().__call__(*args, **kwargs) > 0, dtype=np.float32)
