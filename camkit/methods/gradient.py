"""Methods that weight a layer's activations by gradients of the score."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from camkit.errors import UsageError
from camkit.methods.needs import CurvatureNeed, GradientsNeed, LinearHeadNeed, NoisyGradientsNeed
from camkit.methods.options import Count, Derivative, NotNegative, Number, Ranks, Seed, one_of
from camkit.methods.reductions import channel_sum, extremes_component, principal_component
from camkit.methods.registry import Weights, method, over_space
from camkit.typing import Activations, Categories, Gradients, Scores

gradient_method = partial(method, family="gradient", need=GradientsNeed, cost="1 + 1 backward")

GRADCAMPP_EPS = 1e-6
"""Added to the denominator of Grad-CAM++'s alpha, which is zero where the gradient is."""
XGRADCAM_EPS = 1e-7
"""Added to XGrad-CAM's sum of activations, which is zero in a dead channel."""
SHARES_EPS = 1e-9
"""Added to the sum of the compared classes' probabilities, which may underflow to zero."""


@gradient_method(
    "GradCAM",
    paper="Selvaraju et al. 2017, eq. 1-2",
    formula="mean over space of G, per channel",
    reduction=channel_sum,
)
def gradcam(activations: Activations, gradients: Gradients) -> Weights:
    """Weight each channel by the spatial mean of its gradient.

    The usual first choice for a convolutional network: fast and class-specific. Averaging the gradient can highlight
    places that the score does not depend on (Draelos and Carin 2020); ``HiResCAM`` does not average.

        map = sum_k w_k A_k,  w_k = mean_i G_ki

    where A_k is channel k of the layer's activations, G = dy/dA the gradient of the class score y, i a position.

    Paper: Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization",
    eq. 1-2.

    Example:
        >>> cam = camkit.GradCAM(model, ["features"])
        >>> cam(images, 3).shape
        torch.Size([2, 32, 32])
    """
    return gradients.mean(over_space(gradients), keepdim=True)


@gradient_method(
    "GradCAM++",
    paper="Chattopadhay et al. 2018, eq. 7 and 19",
    formula="sum over space of relu(G) alpha, per channel",
    reduction=channel_sum,
)
def gradcampp(activations: Activations, gradients: Gradients) -> Weights:
    """Weight each channel by a weighted sum of its positive gradients.

    Meant for images with several objects of the class, each of which should light up. In practice its maps are close
    to those of Grad-CAM with positive gradients only (Lerma and Lucas 2022).

        map = sum_k w_k A_k,  w_k = sum_i alpha_ki relu(G_ki)
        alpha_ki = G_ki^2 / (2 G_ki^2 + sum_j A_kj G_ki^3)

    where A_k is channel k of the layer's activations, G = dy/dA the gradient of the class score y, i and j positions.

    Paper: Chattopadhay et al. 2018, "Grad-CAM++: Generalized Gradient-Based Visual Explanations for Deep Convolutional
    Networks", eq. 7 and 19.

    Example:
        >>> cam = camkit.GradCAMPlusPlus(model, ["features"])
        >>> cam(images, 3).shape
        torch.Size([2, 32, 32])
    """
    space = over_space(gradients)
    positive = gradients.relu()
    square = positive.square()
    totals = activations[None].sum(space, keepdim=True)
    denominator = 2 * square + totals * square * positive + GRADCAMPP_EPS
    # Positions without a positive gradient weigh nothing, so alpha is only needed at the others.
    weights = torch.where(gradients <= 0, 0, positive * square / denominator)
    return weights.sum(space, keepdim=True)


@gradient_method(
    "XGradCAM",
    paper="Fu et al. 2020, eq. 8",
    formula="sum over space of G A / sum(A), per channel",
    reduction=channel_sum,
)
def xgradcam(activations: Activations, gradients: Gradients) -> Weights:
    """Weight each channel by its gradient, averaged with the channel's activations as weights.

    Derived from two axioms, sensitivity and conservation, and as cheap as Grad-CAM. Best behind a ReLU: where
    activations of both signs cancel, a channel gets a huge weight.

        map = sum_k w_k A_k,  w_k = sum_i G_ki A_ki / sum_j A_kj

    where A_k is channel k of the layer's activations, G = dy/dA the gradient of the class score y, i and j positions.

    Paper: Fu et al. 2020, "Axiom-based Grad-CAM: Towards Accurate Visualization and Explanation of CNNs", eq. 8.

    Example:
        >>> cam = camkit.XGradCAM(model, ["features"])
        >>> cam(images, 3).shape
        torch.Size([2, 32, 32])
    """
    space = over_space(gradients)
    share = activations[None] / (activations[None].sum(space, keepdim=True) + XGRADCAM_EPS)
    return (gradients * share).sum(space, keepdim=True)


@gradient_method(
    "EigenGradCAM",
    paper="Muhammad and Yeasin 2020, O V_1 of G A",
    formula="G, elementwise",
    reduction=principal_component,
    keeps_reduction=True,
)
def eigengradcam(activations: Activations, gradients: Gradients) -> Weights:
    """Project each position's gradient times activation on their first principal component.

    Often cleaner than Grad-CAM and, unlike Eigen-CAM, class-specific. One component is all it shows: what varies in
    another direction is lost, and it is not known whether the component speaks for the class or against it.

        map = first principal component of the rows (G A)_i

    where row i holds all channels at position i, A are the layer's activations, G = dy/dA the gradient of the class
    score y. The sign is chosen so that the map is high where the rows are long.

    Paper: Muhammad and Yeasin 2020, "Eigen-CAM: Class Activation Map using Principal Components", O V_1, here of G A.

    Example:
        >>> cam = camkit.EigenGradCAM(model, ["features"])
        >>> cam(images, 3).shape
        torch.Size([2, 32, 32])
    """
    return gradients


@gradient_method("LayerCAM", paper="Jiang et al. 2021, eq. 5", formula="relu(G), elementwise", reduction=channel_sum)
def layercam(activations: Activations, gradients: Gradients) -> Weights:
    """Weight each position of each channel by its own positive gradient.

    Works in early layers too, where it gives fine detail and Grad-CAM's mean over space says little.

        map = sum_k relu(G_k) A_k

    where A_k is channel k of the layer's activations, G = dy/dA the gradient of the class score y; the product is
    taken at each position.

    Paper: Jiang et al. 2021, "LayerCAM: Exploring Hierarchical Class Activation Maps for Localization", eq. 5.

    Example:
        >>> cam = camkit.LayerCAM(model, ["stem", "features"])
        >>> cam(images, 3).shape
        torch.Size([2, 32, 32])
    """
    return gradients.relu()


@gradient_method(
    "HiResCAM", paper="Draelos and Carin 2020, sum of G A", formula="G, elementwise", reduction=channel_sum
)
def hirescam(activations: Activations, gradients: Gradients) -> Weights:
    """Weight each position of each channel by its own gradient.

    Where only pooling and one linear layer follow the target layer, the map adds up to the class score (less the bias):
    it shows exactly what the network used. With more layers in between it is noisier than Grad-CAM.

        map = sum_k G_k A_k

    where A_k is channel k of the layer's activations, G = dy/dA the gradient of the class score y; the product is
    taken at each position.

    Paper: Draelos and Carin 2020, "Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural
    networks", sum of G A.

    Example:
        >>> cam = camkit.HiResCAM(model, ["features"])
        >>> cam(images, 3).shape
        torch.Size([2, 32, 32])
    """
    return gradients


@gradient_method(
    "GradCAMElementWise",
    paper="after Pillai and Pirsiavash 2021, eq. 3",
    formula="G where G A > 0, elementwise",
    reduction=channel_sum,
)
def gradcam_elementwise(activations: Activations, gradients: Gradients) -> Weights:
    """Add up gradient times activation over channels where the product is positive.

    Shows only what speaks for the class: evidence against it in one channel cannot cancel evidence for it in another,
    so maps are larger than those of HiResCAM.

        map = sum_k relu(G_k A_k)

    where A_k is channel k of the layer's activations, G = dy/dA the gradient of the class score y; the product is
    taken at each position. The paper prints the ReLU behind the sum, which is HiResCAM.

    Paper: after Pillai and Pirsiavash 2021, "Explainable Models with Consistent Interpretations", eq. 3.

    Example:
        >>> cam = camkit.GradCAMElementWise(model, ["features"])
        >>> cam(images, 3).shape
        torch.Size([2, 32, 32])
    """
    return torch.where(gradients * activations > 0, gradients, 0)


@gradient_method(
    "SegEigenCAM",
    paper="Chung and Ying 2025, eq. 10-13",
    formula="|G|, elementwise",
    reduction=extremes_component,
    keeps_reduction=True,
)
def segeigencam(activations: Activations, gradients: Gradients) -> Weights:
    """Project each position's activations, times the size of their gradient, on the first principal component.

    Meant for semantic segmentation, with ``camkit.SegmentationCategory`` as the target: less background than
    Grad-CAM. The size of the gradient does not tell evidence for the class from evidence against it.

        map = first principal component of the rows (|G| A)_i

    where row i holds all channels at position i, A are the layer's activations, G = dy/dA the gradient of the class
    score y. The sign is chosen so that the map's largest entry by size is positive.

    Paper: Chung and Ying 2025, "Seg-Eigen-CAM: Eigen-Value-Based Visual Explanations for Semantic Segmentation Models",
    eq. 10-13.

    Example:
        >>> cam = camkit.SegEigenCAM(model, ["features"])
        >>> cam(images, 3).shape
        torch.Size([2, 32, 32])
    """
    return gradients.abs()


@gradient_method(
    "CAM",
    paper="Zhou et al. 2016, eq. 1-2",
    formula="the class's weights in the linear head, per channel",
    reduction=channel_sum,
    need=LinearHeadNeed,
    cost="2 + 3 tails, 1 backward",
    identifier="ClassActivationMapping",
)
def cam(activations: Activations, gradients: Gradients) -> Weights:
    """Weight each channel by the class's weight in the network's linear head.

    The original method: the map's mean is the class score (less the bias). It needs a network that ends in global
    average pooling and one linear layer, and refuses others.

        map = sum_k w_k A_k

    where A_k is channel k of the activations that are pooled and w_k the head's weight from channel k to the class. It
    is read as the gradient of the class score y, summed over space, which behind pooling is that weight.

    Paper: Zhou et al. 2016, "Learning Deep Features for Discriminative Localization", eq. 1-2.

    Example:
        >>> cam = camkit.ClassActivationMapping(model, ["features"])
        >>> cam(images, 3).shape
        torch.Size([2, 32, 32])
    """
    return gradients.sum(over_space(gradients), keepdim=True)


@dataclass(frozen=True)
class ReST:
    """A class's logit plus its log-probability (Cai 2025), so that the scores of the other classes count as well."""

    method: ClassVar[str] = "ShapleyCAM"
    instead: ClassVar[str] = "utility='score'"

    def __call__(self, logits: Tensor, categories: Categories) -> Scores:
        """Logits (B, K) and class indices (B, T) to scores (B, T)."""
        return (logits + logits.log_softmax(1)).gather(1, categories)


def utility(*, utility: Annotated[str, one_of("ReST", "score")] = "ReST") -> CurvatureNeed:
    """First and second derivatives of the utility function.

    Args:
        utility: what is differentiated: ``"ReST"``, the logit plus the log-probability, or ``"score"``, the class score
            alone, whose second derivatives vanish behind the last convolution of many networks.
    """
    return CurvatureNeed(ReST() if utility == "ReST" else None)


@gradient_method(
    "ShapleyCAM",
    paper="Cai 2025, g - H A / 2",
    formula="mean over space of G - H A / 2, per channel",
    reduction=channel_sum,
    need=utility,
    cost="1 + 2 backwards",
)
def shapleycam(activations: Activations, gradients: Gradients, curvature: Gradients) -> Weights:
    """Weight each channel by a second-order estimate of its Shapley value.

    Refines Grad-CAM with the curvature of the score, at the price of a second backward. Where there is no curvature,
    as for ``utility="score"`` behind piecewise linear layers, it is Grad-CAM.

        map = sum_k w_k A_k,  w_k = mean_i (G - H A / 2)_ki

    where A_k is channel k of the layer's activations, G and H are the gradient and the Hessian of the utility with
    respect to the activations, i is a position.

    Paper: Cai 2025, "CAMs as Shapley Value-based Explainers", g - H A / 2.

    Example:
        >>> cam = camkit.ShapleyCAM(model, ["features"], utility="score")
        >>> cam(images, 3).shape
        torch.Size([2, 32, 32])
    """
    return (gradients - curvature / 2).mean(over_space(gradients), keepdim=True)


@dataclass(frozen=True)
class Finer:
    """How much more a class scores than the classes most like it, see :func:`finer`."""

    method: ClassVar[str] = "FinerCAM"
    instead: ClassVar[str] = "GradCAM"

    gamma: float
    comparison: tuple[int, ...]
    weights: str

    def __call__(self, logits: Tensor, categories: Categories) -> Scores:
        """Logits (B, K) and class indices (B, T) to scores (B, T)."""
        own = logits.gather(1, categories)
        distance = (logits.detach()[:, None] - own.detach()[:, :, None]).abs()
        distance.scatter_(2, categories[:, :, None], math.inf)  # ranks the class itself last
        ranked = distance.argsort(dim=2, stable=True)
        known = [rank for rank in self.comparison if rank < logits.shape[1]]
        if not known:
            raise UsageError(
                f"FinerCAM compares with other classes, by similarity number {', '.join(map(str, self.comparison))}; "
                f"the model has {logits.shape[1]}: use GradCAM"
            )
        others = ranked[:, :, [rank - 1 for rank in known]]
        scores = logits[:, None].expand(-1, categories.shape[1], -1)
        differences = own[:, :, None] - self.gamma * scores.gather(2, others)
        if self.weights == "equal":
            return differences.mean(2)
        shares = scores.softmax(2).gather(2, others)
        return (shares * differences).sum(2) / (shares.sum(2) + SHARES_EPS)


def finer(
    *,
    gamma: Number = 0.6,
    comparison: Ranks = (1, 2, 3),
    weights: Annotated[str, one_of("equal", "probability")] = "equal",
) -> GradientsNeed:
    """Gradients of y_c - gamma y_d, averaged over the classes d whose scores are closest to that of c.

    Args:
        gamma: how strongly the compared classes count; 0 is Grad-CAM.
        comparison: which classes to compare with, by similarity: 1 is the class whose logit is closest to that of c.
        weights: how the comparisons are averaged: ``"equal"``, or by the compared classes' ``"probability"``, through
            which gradients flow too.
    """
    return GradientsNeed(Finer(float(gamma), comparison, weights))


@gradient_method(
    "FinerCAM",
    paper="Zhang et al. 2025, eq. 5 and 8",
    formula="mean over space of the gradient of y_c - gamma y_d, per channel",
    reduction=channel_sum,
    need=finer,
)
def finercam(activations: Activations, gradients: Gradients) -> Weights:
    """Weight each channel by the mean gradient of the class's lead over similar classes.

    For fine-grained classification (birds, cars): shows what tells the class from its neighbours and leaves out what
    they share. Where no class is similar, the comparison means little.

        map = sum_k w_k A_k,  w_k = mean_i mean_d d(y_c - gamma y_d) / dA_ki

    where A_k is channel k of the layer's activations, y_c the score of the class, d one of the classes that score most
    like it, i a position.

    Paper: Zhang et al. 2025, "Finer-CAM: Spotting the Difference Reveals Finer Details for Visual Explanation", eq. 5
    and 8.

    Example:
        >>> cam = camkit.FinerCAM(model, ["features"], comparison=(1,))
        >>> cam(images, 3).shape
        torch.Size([2, 32, 32])
    """
    weights: Weights = gradcam(activations, gradients)
    return weights


@gradient_method(
    "RefineCAM",
    paper="Domeniconi et al. 2026, product of maps",
    formula="as GradCAM++; maps of several layers are multiplied",
    reduction=channel_sum,
    cost="1 + 1 backward",
    fusion="product",
)
def refinecam(activations: Activations, gradients: Gradients) -> Weights:
    """Multiply the Grad-CAM++ maps of several layers.

    Gives maps at the resolution of an early layer, limited to what the late layers find relevant. What one layer
    misses is missing from the product.

        map = product over layers l of resize(normalise(relu(map_l)))

    where map_l is the Grad-CAM++ map of layer l.

    Paper: Domeniconi et al. 2026, "How to Evaluate and Refine your CAM", product of maps.

    Example:
        >>> cam = camkit.RefineCAM(model, ["stem", "features"])
        >>> cam(images, 3).shape
        torch.Size([2, 32, 32])
    """
    weights: Weights = gradcampp(activations, gradients)
    return weights


def noisy(*, num_samples: Count = 4, std: NotNegative = 0.3, seed: Seed = 0) -> NoisyGradientsNeed:
    """Moments of the gradients of noisy images.

    Args:
        num_samples: number of noisy copies of each image; all images of a batch get the same noise.
        std: standard deviation of the noise, in units of the normalised input.
        seed: seed of the noise.
    """
    return NoisyGradientsNeed(num_samples, float(std), seed)


@gradient_method(
    "SmoothGradCAM++",
    paper="Omeiza et al. 2019, alpha of sec. 3",
    formula="sum over space of relu(D1) alpha, per channel; D1 is the mean of G over noisy images",
    reduction=channel_sum,
    need=noisy,
    cost="1 + num_samples (1 + 1 backward)",
)
def smoothgradcampp(
    activations: Activations, first: Gradients, second: Gradients, third: Gradients, *, numerator: Derivative = 2
) -> Weights:
    """Weight each channel as Grad-CAM++ does, with gradients averaged over noisy images.

    Noise averages out the gradient's fluctuations, for a forward and a backward per noisy copy.

        map = sum_k w_k A_k,  w_k = sum_i alpha_ki relu(D1_ki)
        alpha_ki = D2_ki / (2 D2_ki + sum_j A_kj D3_ki)

    where A_k is channel k of the layer's activations, Dn the mean of G^n over noisy images, G = dy/dA the gradient of
    the class score y, i and j positions.

    Paper: Omeiza et al. 2019, "Smooth Grad-CAM++: An Enhanced Inference Level Visualization Technique for Deep
    Convolutional Neural Network Models", alpha of sec. 3.

    Args:
        activations: of the images without noise.
        first: D1.
        second: D2.
        third: D3.
        numerator: which D stands in the numerator of alpha: 2, which without noise is Grad-CAM++, or 1, as the paper
            prints it.

    Example:
        >>> cam = camkit.SmoothGradCAMPlusPlus(model, ["features"], num_samples=2)
        >>> cam(images, 3).shape
        torch.Size([2, 32, 32])
    """
    space = over_space(first)
    denominator = 2 * second + activations[None].sum(space, keepdim=True) * third + GRADCAMPP_EPS
    alpha = (first if numerator == 1 else second) / denominator
    return torch.where(first <= 0, 0, alpha * first).sum(space, keepdim=True)
