"""Controls: what a map looks like that knows nothing of the image's class."""

from __future__ import annotations

import torch

from camkit.methods.needs import ActivationsNeed
from camkit.methods.options import Seed
from camkit.methods.reductions import channel_sum
from camkit.methods.registry import Weights, method
from camkit.typing import Activations


@method(
    "RandomCAM",
    paper="a control, no paper",
    formula="uniform in [-1, 1], per channel",
    reduction=channel_sum,
    need=ActivationsNeed,
    family="control",
    cost="1",
)
def randomcam(activations: Activations, *, seed: Seed = 0) -> Weights:
    """Weight each channel by a random number.

    A baseline for metrics and for the eye: a method whose maps are no better tells nothing. It ignores the class.

        map = sum_k w_k A_k,  w_k uniform in [-1, 1]

    where A_k is channel k of the layer's activations. All images get the same weights.

    Paper: a control, no paper.

    Args:
        activations: (B, C, *S).
        seed: seed of the weights.

    Example:
        >>> cam = camkit.RandomCAM(model, ["features"], seed=1)
        >>> cam(images).shape
        torch.Size([2, 32, 32])
    """
    generator = torch.Generator().manual_seed(seed)
    weights = 2 * torch.rand(activations.shape[1], generator=generator, dtype=torch.float64) - 1
    shaped = weights.to(activations.device, activations.dtype).view(1, 1, -1, *[1] * (activations.ndim - 2))
    return shaped.expand(1, len(activations), *shaped.shape[2:])
