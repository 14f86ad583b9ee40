"""ShapleyCAM."""

from __future__ import annotations

from typing import Any

from camkit.integrations.pytorch_grad_cam.base_cam import BaseCAM
from camkit.methods import Method


class ShapleyCAM(BaseCAM):
    """ShapleyCAM, see :class:`camkit.ShapleyCAM`; arguments as in :class:`~.base_cam.BaseCAM`.

    Targets say what is differentiated: ``ClassifierOutputReST(281)`` is the paper's utility,
    ``ClassifierOutputTarget(281)`` the logit. Without targets it is the utility of each image's top class.
    """

    camkit_method = "ShapleyCAM"

    def method_for(self, targets: Any, *, eigen_smooth: bool) -> Method:
        """By the targets' own functions where there are any."""
        return self.method if targets is None else self.method.configured(utility="score")
