"""Grad-CAM."""

from __future__ import annotations

from camkit.integrations.pytorch_grad_cam.base_cam import BaseCAM


class GradCAM(BaseCAM):
    """Grad-CAM, see :class:`camkit.GradCAM`; arguments as in :class:`~.base_cam.BaseCAM`."""

    camkit_method = "GradCAM"
