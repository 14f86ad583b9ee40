"""Eigen-CAM."""

from __future__ import annotations

from camkit.integrations.pytorch_grad_cam.base_cam import BaseCAM


class EigenCAM(BaseCAM):
    """Eigen-CAM, see :class:`camkit.EigenCAM`; arguments as in :class:`~.base_cam.BaseCAM`."""

    camkit_method = "EigenCAM"
