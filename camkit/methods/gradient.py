"""Methods of the activations and their gradient."""

from __future__ import annotations

import torch

from camkit.methods.reductions import channel_sum, extremes_component, principal_component
from camkit.methods.registry import Weights, method, over_space
from camkit.shapes import Activations, Gradients

GRADCAMPP_EPS = 1e-6
"""Keeps the denominator of Grad-CAM++'s alpha away from zero."""
XGRADCAM_EPS = 1e-7
"""Keeps XGrad-CAM's sum of activations away from zero."""


@method(
    "GradCAM",
    paper="Selvaraju et al. 2017, eq. 1-2",
    weighting="mean over space of G, per channel",
    reduction=channel_sum,
)
def gradcam(activations: Activations, gradients: Gradients) -> Weights:
    """Weight every channel by the mean of its gradient."""
    return gradients.mean(over_space(gradients), keepdim=True)


@method(
    "GradCAM++",
    paper="Chattopadhay et al. 2018, eq. 7 and 19",
    weighting="sum over space of relu(G) alpha, per channel",
    reduction=channel_sum,
)
def gradcampp(activations: Activations, gradients: Gradients) -> Weights:
    """Weight every channel by its positive gradients, each with its alpha = G^2 / (2 G^2 + sum(A) G^3)."""
    space = over_space(gradients)
    positive = gradients.relu()
    square = positive.square()
    totals = activations[None].sum(space, keepdim=True)
    denominator = 2 * square + totals * square * positive + GRADCAMPP_EPS
    # A position without a positive gradient weighs nothing, so alpha is needed nowhere else.
    weights = torch.where(gradients <= 0, 0, positive * square / denominator)
    return weights.sum(space, keepdim=True)


@method(
    "XGradCAM",
    paper="Fu et al. 2020, eq. 8",
    weighting="sum over space of G A / sum(A), per channel",
    reduction=channel_sum,
)
def xgradcam(activations: Activations, gradients: Gradients) -> Weights:
    """Weight every channel by its gradient averaged with the activations as weights."""
    space = over_space(gradients)
    share = activations[None] / (activations[None].sum(space, keepdim=True) + XGRADCAM_EPS)
    return (gradients * share).sum(space, keepdim=True)


@method(
    "EigenGradCAM",
    paper="Muhammad and Yeasin 2020, O V_1 of G A",
    weighting="G, elementwise",
    reduction=principal_component,
    keeps_reduction=True,
)
def eigengradcam(activations: Activations, gradients: Gradients) -> Weights:
    """Weight every position by its own gradient."""
    return gradients


@method("LayerCAM", paper="Jiang et al. 2021, eq. 5", weighting="relu(G), elementwise", reduction=channel_sum)
def layercam(activations: Activations, gradients: Gradients) -> Weights:
    """Weight every position by its own positive gradient."""
    return gradients.relu()


@method("HiResCAM", paper="Draelos and Carin 2020, eq. 5", weighting="G, elementwise", reduction=channel_sum)
def hirescam(activations: Activations, gradients: Gradients) -> Weights:
    """Weight every position by its own gradient: what a linear head adds up, place by place."""
    return gradients


@method(
    "GradCAMElementWise",
    paper="Pillai and Pirsiavash 2021, eq. 1",
    weighting="G where G A > 0, elementwise",
    reduction=channel_sum,
)
def gradcam_elementwise(activations: Activations, gradients: Gradients) -> Weights:
    """Sum relu(G A): only what speaks for the class counts."""
    return torch.where(gradients * activations > 0, gradients, 0)


@method(
    "SegEigenCAM",
    paper="Chung and Ying 2025, eq. 10-13",
    weighting="|G|, elementwise",
    reduction=extremes_component,
    keeps_reduction=True,
)
def segeigencam(activations: Activations, gradients: Gradients) -> Weights:
    """Weight every position by the size of its own gradient."""
    return gradients.abs()
