"""Seg-Eigen-CAM."""

from __future__ import annotations

from camkit.integrations.pytorch_grad_cam.base_cam import BaseCAM


class SegEigenCAM(BaseCAM):
    """Seg-Eigen-CAM, see :class:`camkit.SegEigenCAM`; arguments as in :class:`~.base_cam.BaseCAM`."""

    camkit_method = "SegEigenCAM"
