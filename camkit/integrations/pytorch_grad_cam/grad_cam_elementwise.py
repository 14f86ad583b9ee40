"""Element-wise Grad-CAM."""

from __future__ import annotations

from camkit.integrations.pytorch_grad_cam.base_cam import BaseCAM


class GradCAMElementWise(BaseCAM):
    """Element-wise Grad-CAM, see :class:`camkit.GradCAMElementWise`; arguments as in :class:`~.base_cam.BaseCAM`."""

    camkit_method = "GradCAMElementWise"
