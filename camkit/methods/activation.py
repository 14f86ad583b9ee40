"""Methods of the activations alone: they ask for no class."""

from __future__ import annotations

import torch

from camkit.methods.reductions import channel_sum, kernel_component, principal_component
from camkit.methods.registry import Weights, method, over_space
from camkit.shapes import Activations, Gradients


@method(
    "EigenCAM",
    paper="Muhammad and Yeasin 2020, O V_1",
    weighting="none",
    reduction=principal_component,
    needs_gradients=False,
    keeps_reduction=True,
)
def eigencam(activations: Activations, gradients: Gradients) -> Weights:
    """Leave the activations as they are: the principal component says what dominates them."""
    return None


@method(
    "KPCA-CAM",
    paper="Karmani et al. 2024, eq. 4",
    weighting="none",
    reduction=kernel_component,
    needs_gradients=False,
    keeps_reduction=True,
)
def kpca_cam(activations: Activations, gradients: Gradients) -> Weights:
    """Leave the activations as they are: the kernel principal component says what dominates them."""
    return None


@method(
    "FEM",
    paper="Fuad et al. 2020, eq. 2-3",
    weighting="share of places with A > mean + k std, per channel",
    reduction=channel_sum,
    needs_gradients=False,
)
def fem(activations: Activations, gradients: Gradients, *, k: float = 2.0) -> Weights:
    """Weight every channel by how often it is unusually active."""
    stacked = activations[None]
    space = over_space(stacked)
    deviation, mean = torch.std_mean(stacked, space, correction=0, keepdim=True)
    return (stacked > mean + k * deviation).to(activations.dtype).mean(space, keepdim=True)


@method(
    "RandomCAM",
    paper="a control; after Adebayo et al. 2018, sec. 3",
    weighting="uniform in [-1, 1], per channel",
    reduction=channel_sum,
    needs_gradients=False,
)
def randomcam(activations: Activations, gradients: Gradients, *, seed: int = 0) -> Weights:
    """Weight every channel by chance, the same in every image: what a map looks like that knows nothing."""
    generator = torch.Generator().manual_seed(seed)
    weights = 2 * torch.rand(activations.shape[1], generator=generator, dtype=torch.float64) - 1
    shaped = weights.to(activations.device, activations.dtype).view(1, 1, -1, *[1] * (activations.ndim - 2))
    return shaped.expand(1, len(activations), *shaped.shape[2:])
