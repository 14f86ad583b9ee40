"""RandomCAM."""

from __future__ import annotations

from typing import Any

import numpy as np

from camkit.integrations.pytorch_grad_cam.base_cam import BaseCAM
from camkit.methods import Method


class RandomCAM(BaseCAM):
    """Random weights, see :class:`camkit.RandomCAM`: other ones in every call, after ``np.random.seed`` the same."""

    camkit_method = "RandomCAM"

    def method_for(self, targets: Any, *, eigen_smooth: bool) -> Method:
        """With a seed that NumPy draws."""
        return self.method.configured(seed=int(np.random.randint(2**31 - 1)))  # noqa: NPY002 (what scripts seed)
