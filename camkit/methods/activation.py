"""Methods of the activations alone: they ask for no class."""

from __future__ import annotations

from functools import partial

import torch

from camkit.methods.options import Number, Seed
from camkit.methods.reductions import channel_sum, kernel_component, principal_component
from camkit.methods.registry import Weighted, Weights, method, over_space
from camkit.methods.requests import OnlyActivations
from camkit.shapes import Activations

activation_method = partial(method, request=OnlyActivations, cost="1")


@activation_method(
    "EigenCAM",
    paper="Muhammad and Yeasin 2020, O V_1",
    weighting="none",
    reduction=principal_component,
    family="activation",
    keeps_reduction=True,
)
def eigencam(activations: Activations) -> Weights:
    """Leave the activations as they are: the principal component says what dominates them."""
    return None


@activation_method(
    "KPCA-CAM",
    paper="Karmani et al. 2024, K v_1",
    weighting="none",
    reduction=kernel_component,
    family="activation",
    keeps_reduction=True,
)
def kpca_cam(activations: Activations) -> Weights:
    """Leave the activations as they are: the kernel principal component says what dominates them."""
    return None


@activation_method(
    "FEM",
    paper="Fuad et al. 2020, k sigma rule",
    weighting="1 where A > mean + k std, times the mean, per channel",
    reduction=channel_sum,
    family="activation",
)
def fem(activations: Activations, *, k: Number = 2.0) -> Weights:
    """Mark where every channel is unusually active, by the channel's mean."""
    stacked = activations[None]
    deviation, mean = torch.std_mean(stacked, over_space(stacked), correction=0, keepdim=True)
    return Weighted((stacked > mean + k * deviation) * mean)


@activation_method(
    "RandomCAM",
    paper="a control, no paper",
    weighting="uniform in [-1, 1], per channel",
    reduction=channel_sum,
    family="control",
)
def randomcam(activations: Activations, *, seed: Seed = 0) -> Weights:
    """Weight every channel by chance, the same in every image: what a map looks like that knows nothing."""
    generator = torch.Generator().manual_seed(seed)
    weights = 2 * torch.rand(activations.shape[1], generator=generator, dtype=torch.float64) - 1
    shaped = weights.to(activations.device, activations.dtype).view(1, 1, -1, *[1] * (activations.ndim - 2))
    return shaped.expand(1, len(activations), *shaped.shape[2:])
