"""Methods of the activations alone; their maps are the same for every class."""

from __future__ import annotations

from functools import partial

import torch

from camkit.methods.needs import ActivationsNeed
from camkit.methods.options import Number
from camkit.methods.reductions import channel_sum, kernel_component, principal_component
from camkit.methods.registry import Weighted, Weights, method, over_space
from camkit.typing import Activations

activation_method = partial(method, family="activation", need=ActivationsNeed, cost="1")


@activation_method(
    "EigenCAM",
    paper="Muhammad and Yeasin 2020, O V_1",
    formula="none",
    reduction=principal_component,
    keeps_reduction=True,
)
def eigencam(activations: Activations) -> Weights:
    """Project each position's activations on their first principal component.

    Shows what dominates a layer, without gradients or class scores: useful for detectors and other networks whose
    output is hard to differentiate. It ignores the class.

        map = first principal component of the rows A_i

    where row i holds the layer's activations of all channels at position i. The sign is chosen so that the map is high
    where activations are large.

    Paper: Muhammad and Yeasin 2020, "Eigen-CAM: Class Activation Map using Principal Components", O V_1.

    Example:
        >>> cam = camkit.EigenCAM(model, ["features"])
        >>> cam(images).shape
        torch.Size([2, 32, 32])
    """
    return None


@activation_method(
    "KPCA-CAM",
    paper="Karmani et al. 2024, K v_1",
    formula="none",
    reduction=kernel_component,
    keeps_reduction=True,
)
def kpca_cam(activations: Activations) -> Weights:
    """Project each position's activations on their first kernel principal component.

    Eigen-CAM for activations that do not vary along a line. It ignores the class, and its cost grows with the cube of
    the number of positions.

        map = sqrt(lambda_1) v_1,  K v_1 = lambda_1 v_1,  K_ij = k(A_i, A_j) centred

    where A_i holds the layer's activations of all channels at position i, k is the kernel, and lambda_1 the largest
    eigenvalue of K. The sign is chosen as for Eigen-CAM.

    Paper: Karmani et al. 2024, "KPCA-CAM: Visual Explainability of Deep Computer Vision Models Using Kernel PCA",
    K v_1.

    Example:
        >>> cam = camkit.KPCACAM(model, ["features"], kernel="rbf")
        >>> cam(images).shape
        torch.Size([2, 32, 32])
    """
    return None


@activation_method(
    "FEM",
    paper="Fuad et al. 2020, k sigma rule",
    formula="1 where A > mean + k std, times the mean, per channel",
    reduction=channel_sum,
)
def fem(activations: Activations, *, k: Number = 2.0) -> Weights:
    """Mark the positions where a channel is unusually active, and add up channels by their means.

    A feature-based explanation method: it needs neither gradients nor class scores, and ignores the class. On a grid of
    2 x 2 no position can be two standard deviations above the mean.

        map = sum_c m_c [A_c > m_c + k s_c]

    where A_c is channel c of the layer's activations, m_c and s_c are its mean and standard deviation over space, and
    [...] is 1 where the condition holds, else 0.

    Paper: Fuad et al. 2020, "Features Understanding in 3D CNNs for Actions Recognition in Video", k sigma rule.

    Args:
        activations: (B, C, *S).
        k: how many standard deviations above the mean counts as unusual.

    Example:
        >>> cam = camkit.FEM(model, ["features"], k=1.0)
        >>> cam(images).shape
        torch.Size([2, 32, 32])
    """
    stacked = activations[None]
    deviation, mean = torch.std_mean(stacked, over_space(stacked), correction=0, keepdim=True)
    return Weighted((stacked > mean + k * deviation) * mean)
