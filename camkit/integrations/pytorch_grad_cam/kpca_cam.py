"""KPCA-CAM."""

from __future__ import annotations

from typing import Any

from camkit.integrations.pytorch_grad_cam.base_cam import BaseCAM
from camkit.methods import Method


class KPCA_CAM(BaseCAM):  # noqa: N801
    """KPCA-CAM, see :class:`camkit.KPCACAM`.

    Args:
        model: see :class:`~.base_cam.BaseCAM`, as for the arguments not named here.
        target_layers: of the model.
        reshape_transform: the layout of their outputs.
        kernel: ``"sigmoid"``, ``"rbf"``, ``"poly"``, ``"linear"`` or ``"cosine"``.
        gamma: scale of the kernel; None is one over the number of channels.
        **others: of the base.
    """

    camkit_method = "KPCA-CAM"

    def __init__(
        self,
        model: Any,
        target_layers: Any,
        reshape_transform: Any = None,
        kernel: str = "sigmoid",
        gamma: float | None = None,
        **others: Any,
    ) -> None:
        self.kernel = kernel
        self.gamma = gamma
        super().__init__(model, target_layers, reshape_transform, **others)

    @property
    def method(self) -> Method:
        """The method of camkit, as it is configured."""
        return super().method.configured(kernel=self.kernel, gamma=self.gamma)
