"""Eigen-Grad-CAM."""

from __future__ import annotations

from camkit.integrations.pytorch_grad_cam.base_cam import BaseCAM


class EigenGradCAM(BaseCAM):
    """Eigen-Grad-CAM, see :class:`camkit.EigenGradCAM`; arguments as in :class:`~.base_cam.BaseCAM`."""

    camkit_method = "EigenGradCAM"
