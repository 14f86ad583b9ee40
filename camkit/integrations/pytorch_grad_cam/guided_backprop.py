"""Guided backpropagation."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from camkit.cam import CAM
from camkit.errors import CamkitWarning
from camkit.integrations.pytorch_grad_cam.running import device_of
from camkit.integrations.pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget


class GuidedBackpropReLUModel:
    """Guided backpropagation, see :class:`camkit.GuidedBackprop`: functional ReLUs count, and the model keeps its own.

    Args:
        model: the network.
        device: where to move it; None leaves it where it is.
    """

    def __init__(self, model: nn.Module, device: Any = None) -> None:
        self.model = model if device is None else model.to(device)
        self.device = device_of(self.model)

    def forward(self, input_img: Tensor) -> Any:
        """What the model returns."""
        return self.model(input_img)

    def __call__(self, input_img: Tensor, target_category: int | None = None) -> NDArray[np.float32]:
        """Signed gradients of one image.

        Args:
            input_img: (1, C, H, W), normalised; of a batch the first image is explained, with a warning.
            target_category: class index; None for the top class.

        Returns:
            (H, W, C) float32.

        Raises:
            UsageError: the network calls no ReLU, or no such class.
        """
        if len(input_img) > 1:
            line = f"of {len(input_img)} images the first is explained: camkit.GuidedBackprop(model) explains them all"
            warnings.warn(line, CamkitWarning, stacklevel=2)
        is_from_the_end = target_category is not None and target_category < 0
        target: Any = ClassifierOutputTarget(target_category) if is_from_the_end else target_category  # type: ignore[arg-type]
        found = CAM(self.model, "GuidedBackprop").explain(input_img[:1], target).pixels
        assert found is not None  # noqa: S101 (the method has them)
        return np.asarray(found[0, 0].movedim(0, -1).cpu().numpy())
