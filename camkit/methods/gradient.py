"""Methods of the activations and their gradient."""

from __future__ import annotations

from functools import partial

import torch

from camkit.methods.objectives import finer, utility
from camkit.methods.options import Count, Derivative, NotNegative, Seed
from camkit.methods.reductions import channel_sum, extremes_component, principal_component
from camkit.methods.registry import Weights, method, over_space
from camkit.methods.requests import Gradients as OfScores
from camkit.methods.requests import LinearGradients, NoisyGradients
from camkit.shapes import Activations, Gradients

gradient_method = partial(method, family="gradient", request=OfScores, cost="1 + 1 backward")

GRADCAMPP_EPS = 1e-6
"""Keeps the denominator of Grad-CAM++'s alpha away from zero."""
XGRADCAM_EPS = 1e-7
"""Keeps XGrad-CAM's sum of activations away from zero."""


@gradient_method(
    "GradCAM",
    paper="Selvaraju et al. 2017, eq. 1-2",
    weighting="mean over space of G, per channel",
    reduction=channel_sum,
)
def gradcam(activations: Activations, gradients: Gradients) -> Weights:
    """Weight every channel by the mean of its gradient."""
    return gradients.mean(over_space(gradients), keepdim=True)


@gradient_method(
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


@gradient_method(
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


@gradient_method(
    "EigenGradCAM",
    paper="Muhammad and Yeasin 2020, O V_1 of G A",
    weighting="G, elementwise",
    reduction=principal_component,
    keeps_reduction=True,
)
def eigengradcam(activations: Activations, gradients: Gradients) -> Weights:
    """Weight every position by its own gradient."""
    return gradients


@gradient_method("LayerCAM", paper="Jiang et al. 2021, eq. 5", weighting="relu(G), elementwise", reduction=channel_sum)
def layercam(activations: Activations, gradients: Gradients) -> Weights:
    """Weight every position by its own positive gradient."""
    return gradients.relu()


@gradient_method(
    "HiResCAM", paper="Draelos and Carin 2020, sum of G A", weighting="G, elementwise", reduction=channel_sum
)
def hirescam(activations: Activations, gradients: Gradients) -> Weights:
    """Weight every position by its own gradient: what a linear head adds up, place by place."""
    return gradients


@gradient_method(
    "GradCAMElementWise",
    paper="after Pillai and Pirsiavash 2021, eq. 3",
    weighting="G where G A > 0, elementwise",
    reduction=channel_sum,
)
def gradcam_elementwise(activations: Activations, gradients: Gradients) -> Weights:
    """Sum relu(G A): only what speaks for the class counts (rectified behind the sum, as printed, it is HiResCAM)."""
    return torch.where(gradients * activations > 0, gradients, 0)


@gradient_method(
    "SegEigenCAM",
    paper="Chung and Ying 2025, eq. 10-13",
    weighting="|G|, elementwise",
    reduction=extremes_component,
    keeps_reduction=True,
)
def segeigencam(activations: Activations, gradients: Gradients) -> Weights:
    """Weight every position by the size of its own gradient."""
    return gradients.abs()


@gradient_method(
    "CAM",
    paper="Zhou et al. 2016, eq. 1-2",
    weighting="the class's weights in the linear head, per channel",
    reduction=channel_sum,
    request=LinearGradients,
    cost="2 + 3 tails, 1 backward",
    identifier="ClassActivationMapping",
)
def cam(activations: Activations, gradients: Gradients) -> Weights:
    """Weight every channel by what the head does: behind pooling, the sum of its gradient over space."""
    return gradients.sum(over_space(gradients), keepdim=True)


@gradient_method(
    "ShapleyCAM",
    paper="Cai 2025, g - H A / 2",
    weighting="mean over space of G - H A / 2, per channel",
    reduction=channel_sum,
    request=utility,
    cost="1 + 2 backwards",
)
def shapleycam(activations: Activations, gradients: Gradients, curvature: Gradients) -> Weights:
    """Weight every channel by what taking it away costs, to the second order (H is the Hessian)."""
    return (gradients - curvature / 2).mean(over_space(gradients), keepdim=True)


@gradient_method(
    "FinerCAM",
    paper="Zhang et al. 2025, eq. 5 and 8",
    weighting="mean over space of the gradient of y_c - gamma y_d, per channel",
    reduction=channel_sum,
    request=finer,
)
def finercam(activations: Activations, gradients: Gradients) -> Weights:
    """Weight every channel by its mean gradient of what sets the class apart from those like it."""
    weights: Weights = gradcam(activations, gradients)
    return weights


@gradient_method(
    "RefineCAM",
    paper="Domeniconi et al. 2026, product of maps",
    weighting="as GradCAM++; maps of several layers are multiplied",
    reduction=channel_sum,
    cost="1 + 1 backward",
    fusion="product",
)
def refinecam(activations: Activations, gradients: Gradients) -> Weights:
    """Weight as GradCAM++ does; what several layers agree on is left of the product of their maps."""
    weights: Weights = gradcampp(activations, gradients)
    return weights


def noisy(*, num_samples: Count = 4, std: NotNegative = 0.3, seed: Seed = 0) -> NoisyGradients:
    """The gradients of images with noise.

    Args:
        num_samples: how many times noise is added; every image of a batch gets the same.
        std: of the noise, in units of the normalised input.
        seed: of the noise.
    """
    return NoisyGradients(num_samples, float(std), seed)


@gradient_method(
    "SmoothGradCAM++",
    paper="Omeiza et al. 2019, alpha of sec. 3",
    weighting="sum over space of relu(D1) alpha, per channel; D1 is the mean of G over noisy images",
    reduction=channel_sum,
    request=noisy,
    cost="1 + num_samples (1 + 1 backward)",
)
def smoothgradcampp(
    activations: Activations, first: Gradients, second: Gradients, third: Gradients, *, numerator: Derivative = 2
) -> Weights:
    """Weight as GradCAM++ does, with means over noisy images: alpha = D2 / (2 D2 + sum(A) D3).

    Args:
        activations: of the images as they are.
        first: D1, the mean of G over noisy images.
        second: D2, the mean of G^2.
        third: D3, the mean of G^3.
        numerator: 2 for D2, which without noise is GradCAM++; 1 for D1, which the paper prints.
    """
    space = over_space(first)
    denominator = 2 * second + activations[None].sum(space, keepdim=True) * third + GRADCAMPP_EPS
    alpha = (first if numerator == 1 else second) / denominator
    return torch.where(first <= 0, 0, alpha * first).sum(space, keepdim=True)
