"""Methods whose maps have the resolution of the input."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from camkit.methods.gradient import gradcam
from camkit.methods.maps import normalise, resize
from camkit.methods.needs import BiasGradientsNeed, GuidedGradientsNeed, GuidedLayerNeed
from camkit.methods.reductions import channel_sum
from camkit.methods.registry import Maps, method
from camkit.typing import Activations, Gradients, Images, InputGradients

pixel_method = partial(method, family="pixel", reduction=None)


@pixel_method(
    "FullGrad",
    paper="Srinivas and Fleuret 2019, sec. 4",
    formula="sum over all biases and the input of |bias G|, each channel rescaled to [0, 1]",
    need=BiasGradientsNeed,
    cost="1 + 1 backward",
)
def fullgrad(terms: Sequence[Tensor], size: tuple[int, ...]) -> Maps:
    """Add up the contributions of the input and of every bias in the network to the score.

    Uses all layers, so there is none to choose, and gives detail at the input's resolution. The score is the sum of the
    contributions; taking sizes and rescaling each channel, as the paper does, gives that up.

        map = sum over layers l and channels k of resize(normalise(|b_lk G_lk|))

    where b_lk is the bias of channel k in layer l and G_lk the gradient of the class score behind it; the input counts
    as a layer, with its values in place of the bias.

    Paper: Srinivas and Fleuret 2019, "Full-Gradient Representation for Neural Network Visualization", sec. 4.

    Args:
        terms: bias times gradient, (T, B, C, *S), per layer with a bias, and input times gradient.
        size: spatial size of the input.

    Example:
        >>> cam = camkit.FullGrad(model)
        >>> cam(images, 3).shape
        torch.Size([2, 32, 32])
    """
    first = terms[0]
    total = first.new_zeros(*first.shape[:2], *size)
    for term in terms:
        # Resizing is linear, so summing over channels first gives the same at less cost.
        summed = normalise(term.abs().flatten(0, 2)).view_as(term).sum(2)
        large = torch.unflatten(resize(summed.flatten(0, 1), size), 0, summed.shape[:2])
        total += large
    return Maps(total)


@pixel_method(
    "GuidedBackprop",
    paper="Springenberg et al. 2015, sec. 3.4",
    formula="gradient of the input, of which every ReLU lets through what is positive",
    need=GuidedGradientsNeed,
    cost="2 + 1 backward",
)
def guided_backprop(images: Images, guided: InputGradients) -> Maps:
    """Backpropagate the score to the input, letting only positive gradients through each ReLU.

    Gives crisp pictures of edges and textures. They hardly depend on the class or on the late layers' weights (Adebayo
    et al. 2018), so do not take them as evidence for a decision.

        pixels = dy/dX with R_l = [f_l > 0] relu(R_{l+1}) at every ReLU,  map = max over channels of |pixels|

    where X is the image, y the class score, f_l the input of ReLU l, and R the gradient on its way back.
    ``explain(...).pixels`` holds the signed values of every input channel.

    Paper: Springenberg et al. 2015, "Striving for Simplicity: The All Convolutional Net", sec. 3.4.

    Example:
        >>> cam = camkit.GuidedBackprop(model)
        >>> cam.explain(images, 3).pixels.shape
        torch.Size([2, 1, 3, 32, 32])
    """
    return _of_pixels(guided)


@pixel_method(
    "GuidedGradCAM",
    paper="Selvaraju et al. 2017, sec. 3.2",
    formula="guided gradient of the input times the map of GradCAM",
    need=GuidedLayerNeed,
    cost="2 + 2 backwards",
)
def guided_gradcam(activations: Activations, gradients: Gradients, images: Images, guided: InputGradients) -> Maps:
    """Multiply the guided gradient of the input by the Grad-CAM map.

    Guided backpropagation's detail, limited to where Grad-CAM sees the class. The detail inside that region hardly
    depends on the class (Adebayo et al. 2018).

        pixels = guided * resize(relu(gradcam)),  map = max over channels of |pixels|

    where ``guided`` is the guided gradient and ``gradcam`` the signed Grad-CAM map; with several layers the mean over
    them. ``explain(...).pixels`` holds the signed values of every input channel.

    Paper: Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization",
    sec. 3.2.

    Example:
        >>> cam = camkit.GuidedGradCAM(model, ["features"])
        >>> cam.explain(images, 3).pixels.shape
        torch.Size([2, 1, 3, 32, 32])
    """
    maps = channel_sum(activations, gradcam(activations, gradients)).relu()
    size = images.shape[2:]
    large = torch.unflatten(resize(maps.flatten(0, 1), size), 0, maps.shape[:2])
    return _of_pixels(guided * large[:, :, None])


def _of_pixels(pixels: InputGradients) -> Maps:
    """Make the map of signed pixels: the largest magnitude over input channels."""
    return Maps(pixels.abs().amax(2), pixels)
