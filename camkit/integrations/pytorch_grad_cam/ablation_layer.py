"""Which channels AblationCAM ablates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import nn

from camkit.integrations.pytorch_grad_cam.utils.svd_on_activations import get_2d_projection


class AblationLayer(nn.Module):
    """Ranks channels by how much of them lies where the layer's principal component isn't near its smallest value.

    It takes part in no forward: camkit finds the channels in a layer's output by itself.
    """

    def objectiveness_mask_from_svd(
        self, activations: NDArray[np.float32], threshold: float = 0.01
    ) -> NDArray[np.bool_]:
        """Where (*spatial) the size of the principal component of activations (C, *spatial) is above the threshold.

        The size is scaled to [0, 1] first.
        """
        size = np.abs(get_2d_projection(activations[None])[0])
        low, high = size.min(), size.max()
        return np.asarray((size - low) > threshold * (high - low))

    def activations_to_be_ablated(
        self, activations: NDArray[np.float32], ratio_channels_to_ablate: float = 1.0
    ) -> NDArray[np.int32]:
        """Indices of the channels to ablate: that share at the top of the ranking, and that share at its end.

        Args:
            activations: (C, *spatial) of one image.
            ratio_channels_to_ablate: the share; 1 for all channels, in their order.
        """
        count = len(activations)
        if ratio_channels_to_ablate == 1.0:
            return np.arange(count, dtype=np.int32)
        inside = self.objectiveness_mask_from_svd(activations)
        sizes = np.abs(activations)
        spatial = tuple(range(1, activations.ndim))
        sizes = sizes - sizes.min(axis=spatial, keepdims=True)
        totals = sizes.sum(axis=spatial)
        shares = (sizes * inside).sum(axis=spatial) / np.where(totals > 0, totals, 1)
        ranking = np.argsort(shares)
        few = int(count * ratio_channels_to_ablate)
        return np.concatenate([ranking[::-1][:few], ranking[:few]]).astype(np.int32)


class AblationLayerVit(AblationLayer):
    """The same for layers whose channels come last."""


class AblationLayerFasterRCNN(AblationLayer):
    """The same for the levels of a feature pyramid."""
