"""LayerCAM."""

from __future__ import annotations

from camkit.integrations.pytorch_grad_cam.base_cam import BaseCAM


class LayerCAM(BaseCAM):
    """LayerCAM, see :class:`camkit.LayerCAM`; arguments as in :class:`~.base_cam.BaseCAM`."""

    camkit_method = "LayerCAM"
