"""XGrad-CAM."""

from __future__ import annotations

from camkit.integrations.pytorch_grad_cam.base_cam import BaseCAM


class XGradCAM(BaseCAM):
    """XGrad-CAM, see :class:`camkit.XGradCAM`; arguments as in :class:`~.base_cam.BaseCAM`."""

    camkit_method = "XGradCAM"
