"""captum 0.9.0's attributions to pixels."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.parity.reference.grad_cam import restored


def captum_guided(model: nn.Module, images: Tensor, targets: Sequence[int]) -> NDArray[Any]:
    """Guided backpropagation, ``(B, 3, H, W)``: of ReLU modules alone, each in use once."""
    from captum.attr import GuidedBackprop

    return _attributed(GuidedBackprop(model), model, images, targets)


def captum_guided_gradcam(model: nn.Module, images: Tensor, layer: str, targets: Sequence[int]) -> NDArray[Any]:
    """Guided Grad-CAM, ``(B, 3, H, W)``, the map resized bilinearly."""
    from captum.attr import GuidedGradCam

    method = GuidedGradCam(model, model.get_submodule(layer))
    return _attributed(method, model, images, targets, interpolate_mode="bilinear")


def _attributed(method: Any, model: nn.Module, images: Tensor, targets: Sequence[int], **options: Any) -> NDArray[Any]:
    with restored(model), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*backward hooks.*")
        model.eval()
        found = method.attribute(images.detach().clone().requires_grad_(), list(targets), **options)
    return np.asarray(found.detach().numpy())
