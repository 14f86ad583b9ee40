"""Methods at the resolution of the input."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from camkit.maps import normalise, resize
from camkit.methods.gradient import gradcam
from camkit.methods.reductions import channel_sum
from camkit.methods.registry import method
from camkit.methods.requests import BiasGradients, GuidedGradients, GuidedLayer
from camkit.shapes import Activations, Gradients, Images, InputGradients, SignedMaps

pixel_method = partial(method, family="pixel", reduction=None)


@pixel_method(
    "FullGrad",
    paper="Srinivas and Fleuret 2019, sec. 4",
    weighting="sum over all biases and the input of |bias G|, each channel rescaled to [0, 1]",
    request=BiasGradients,
    cost="1 + 1 backward",
)
def fullgrad(terms: Sequence[Tensor], size: tuple[int, ...]) -> SignedMaps:
    """Add up what every bias, and the input, contributes to the score.

    Args:
        terms: one (T, B, C, *S) per layer with a bias and of the input: the bias, or input, times its gradient.
        size: of the input.
    """
    first = terms[0]
    total = first.new_zeros(*first.shape[:2], *size)
    for term in terms:
        # Resizing is linear: the sum over channels may come first.
        summed = normalise(term.abs().flatten(0, 2)).view_as(term).sum(2)
        large = torch.unflatten(resize(summed.flatten(0, 1), size), 0, summed.shape[:2])
        total += large
    return total


@pixel_method(
    "GuidedBackprop",
    paper="Springenberg et al. 2015, sec. 3.4",
    weighting="gradient of the input, of which every ReLU lets through what is positive",
    request=GuidedGradients,
    cost="2 + 1 backward",
)
def guided_backprop(images: Images, guided: InputGradients) -> InputGradients:
    """The guided gradient of every input channel as it is: (T, B, C, *size)."""
    return guided


@pixel_method(
    "GuidedGradCAM",
    paper="Selvaraju et al. 2017, sec. 3.2",
    weighting="guided gradient of the input times the map of GradCAM",
    request=GuidedLayer,
    cost="2 + 2 backwards",
)
def guided_gradcam(
    activations: Activations, gradients: Gradients, images: Images, guided: InputGradients
) -> InputGradients:
    """The guided gradient of every input channel where Grad-CAM sees the class: (T, B, C, *size)."""
    maps = channel_sum(activations, gradcam(activations, gradients)).relu()
    size = images.shape[2:]
    large = torch.unflatten(resize(maps.flatten(0, 1), size), 0, maps.shape[:2])
    return guided * large[:, :, None]
