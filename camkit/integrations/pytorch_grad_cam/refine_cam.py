"""RefineCAM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor, nn

from camkit.errors import UsageError
from camkit.integrations.pytorch_grad_cam.base_cam import BaseCAM
from camkit.integrations.pytorch_grad_cam.grad_cam_plusplus import GradCAMPlusPlus
from camkit.integrations.pytorch_grad_cam.meta_cam import MetaCAM
from camkit.integrations.pytorch_grad_cam.running import Array
from camkit.integrations.pytorch_grad_cam.utils.image import scale_cam_image


class RefineCAM(MetaCAM):
    """RefineCAM, see :class:`camkit.RefineCAM`: the product of the maps of several layers.

    Args:
        model: the network.
        target_layers: its modules.
        reshape_transform: the layout of their outputs.
        base_method: the class that makes the maps; a script's own subclass will do.
        **kwargs: of the base method.

    Raises:
        UsageError: no layer, or one that isn't in the model.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Any], Tensor] | None = None,
        base_method: type[BaseCAM] = GradCAMPlusPlus,
        **kwargs: Any,
    ) -> None:
        if not target_layers:
            raise UsageError("RefineCAM multiplies the maps of layers: name at least one")
        self._layers = list(target_layers)
        self._make: Callable[[list[Any]], BaseCAM] = lambda layers: base_method(
            model, layers, reshape_transform, **kwargs
        )
        self.base_cam = self._make(self._layers)

    @cached_property
    def base_cam_per_layer(self) -> list[BaseCAM]:
        """The base method at each layer alone."""
        return [self._make([layer]) for layer in self._layers]

    @property
    def outputs(self) -> Any:
        """What the model returned in the last call."""
        return self.base_cam.outputs

    def forward(
        self,
        input_tensor: Tensor,
        targets: Sequence[Callable[[Any], Tensor]] | None = None,
        eigen_smooth: bool = False,  # noqa: FBT001
    ) -> Array:
        """Maps of the images (B, H, W), float32 in [0, 1]; arguments as in calling any CAM."""
        if self.base_cam.is_extended or not self.base_cam.method.of_layers:
            maps = [each.forward(input_tensor, targets, eigen_smooth) for each in self.base_cam_per_layer]
            self.base_cam.outputs = self.base_cam_per_layer[0].outputs
            return scale_cam_image(np.prod(maps, axis=0))
        method = self.base_cam.method_for(targets, eigen_smooth=eigen_smooth)
        fused = replace(method, fusion="product") if len(self._layers) > 1 else method
        return self.base_cam.explained(input_tensor, targets, eigen_smooth=eigen_smooth, method=fused)
