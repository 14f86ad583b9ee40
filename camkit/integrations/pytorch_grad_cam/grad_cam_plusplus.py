"""Grad-CAM++."""

from __future__ import annotations

from camkit.integrations.pytorch_grad_cam.base_cam import BaseCAM


class GradCAMPlusPlus(BaseCAM):
    """Grad-CAM++, see :class:`camkit.GradCAMPlusPlus`; arguments as in :class:`~.base_cam.BaseCAM`."""

    camkit_method = "GradCAM++"
