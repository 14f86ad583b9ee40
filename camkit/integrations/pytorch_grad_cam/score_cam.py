"""Score-CAM."""

from __future__ import annotations

from camkit.integrations.pytorch_grad_cam.base_cam import BaseCAM


class ScoreCAM(BaseCAM):
    """Score-CAM, see :class:`camkit.ScoreCAM`; arguments as in :class:`~.base_cam.BaseCAM`."""

    camkit_method = "ScoreCAM"
