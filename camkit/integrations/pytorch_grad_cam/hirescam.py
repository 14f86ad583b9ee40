"""HiResCAM."""

from __future__ import annotations

from camkit.integrations.pytorch_grad_cam.base_cam import BaseCAM


class HiResCAM(BaseCAM):
    """HiResCAM, see :class:`camkit.HiResCAM`; arguments as in :class:`~.base_cam.BaseCAM`."""

    camkit_method = "HiResCAM"
