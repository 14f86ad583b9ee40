"""AblationCAM."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from camkit.errors import CamkitWarning, UsageError
from camkit.integrations.pytorch_grad_cam.ablation_layer import AblationLayer
from camkit.integrations.pytorch_grad_cam.base_cam import BaseCAM
from camkit.methods import Method
from camkit.methods.needs import AblatedScore
from camkit.methods.perturbation import lost_shares


class AblationCAM(BaseCAM):
    """Ablation-CAM, see :class:`camkit.AblationCAM`.

    Args:
        model: see :class:`~.base_cam.BaseCAM`, as for the arguments not named here.
        target_layers: of the model.
        reshape_transform: the layout of their outputs.
        ablation_layer: chooses channels where not all are ablated. camkit finds the channels in the layer's output by
            itself and sets them to zero: there is nothing else for it to do.
        batch_size: how many images without a channel run at a time.
        ratio_channels_to_ablate: the share of channels that are ablated at either end of the layer's ranking; 1 for
            all.
        **others: of the base.

    Raises:
        UsageError: a share that isn't above 0 and at most 1.
    """

    camkit_method = "AblationCAM"

    def __init__(
        self,
        model: Any,
        target_layers: Any,
        reshape_transform: Any = None,
        ablation_layer: Any = None,
        batch_size: int = 32,
        ratio_channels_to_ablate: float = 1.0,
        **others: Any,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform, **others)
        if not 0 < ratio_channels_to_ablate <= 1:
            raise UsageError(f"ratio_channels_to_ablate is above 0 and at most 1, got {ratio_channels_to_ablate}")
        self.ablation_layer = AblationLayer() if ablation_layer is None else ablation_layer
        if not type(self.ablation_layer).__module__.startswith(__package__):
            warnings.warn(
                f"camkit sets channels to zero by itself: the {type(self.ablation_layer).__name__} given as "
                "ablation_layer only chooses them",
                CamkitWarning,
                stacklevel=2,
            )
        self.batch_size = batch_size
        self.ratio_channels_to_ablate = ratio_channels_to_ablate

    def method_for(self, targets: Any, *, eigen_smooth: bool) -> Method:
        """With the channels that the ablation layer chooses."""
        if self.ratio_channels_to_ablate == 1:
            return self.method

        def some(activations: Tensor, score: AblatedScore) -> Tensor:
            chosen = [self._chosen(image) for image in activations]
            return lost_shares(activations, score, torch.stack(chosen).to(activations.device))

        return replace(self.method, function=some)

    def _chosen(self, activations: Tensor) -> Tensor:
        """Indices (N,) of one image's channels."""
        found = self.ablation_layer.activations_to_be_ablated(activations.cpu().numpy(), self.ratio_channels_to_ablate)
        if not len(found):
            raise UsageError(
                f"ratio_channels_to_ablate={self.ratio_channels_to_ablate} of {len(activations)} channels is none: "
                "take a larger share"
            )
        return torch.as_tensor(sorted({int(each) for each in found}))
