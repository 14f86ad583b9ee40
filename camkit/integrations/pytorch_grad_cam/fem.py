"""FEM."""

from __future__ import annotations

from typing import Any

from camkit.integrations.pytorch_grad_cam.base_cam import BaseCAM
from camkit.methods import Method


class FEM(BaseCAM):
    """The feature-based explanation method, see :class:`camkit.FEM`.

    Args:
        model: see :class:`~.base_cam.BaseCAM`, as for the arguments not named here.
        target_layers: of the model.
        reshape_transform: the layout of their outputs.
        k: how many standard deviations above the mean counts as unusual.
        **others: of the base.
    """

    camkit_method = "FEM"

    def __init__(
        self, model: Any, target_layers: Any, reshape_transform: Any = None, k: float = 2, **others: Any
    ) -> None:
        self.k = k
        super().__init__(model, target_layers, reshape_transform, **others)

    @property
    def method(self) -> Method:
        """The method of camkit, as it is configured."""
        return super().method.configured(k=self.k)
