"""Methods that combine the attention of a transformer's blocks."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import torch
from torch import Tensor

from camkit.methods.needs import Attended, AttentionNeed
from camkit.methods.options import one_of
from camkit.methods.registry import Maps, method

attention_method = partial(method, family="attention", reduction=None)


def own_scores() -> AttentionNeed:
    """Attention, and the gradient of each block's own score in it."""
    return AttentionNeed("own")


def score() -> AttentionNeed:
    """Attention, and the gradient of the class score in it."""
    return AttentionNeed("score")


def alone() -> AttentionNeed:
    """Attention alone."""
    return AttentionNeed()


Fusion = Annotated[str, one_of("mean", "max", "min")]


@attention_method(
    "LeGrad",
    paper="Bousselham et al. 2024, sec. 3",
    formula="mean over heads, queries and blocks of relu(G), G by each block's own score",
    need=own_scores,
    cost="2 + L tails, L + 1 backwards",
)
def legrad(attended: Attended) -> Maps:
    """Average the positive gradients of each block's own class score in its attention.

    The class-specific first choice for a vision transformer. Each block is scored as if it were the last one, its mean
    token going straight into the head, so blocks whose tokens the head cannot read yet add noise.

        map = mean over blocks l, heads h and queries q of relu(dy_l / dP_lhq)

    where P_lhq are the attention probabilities of query q over all tokens, and y_l is the class score that the head
    gives to the mean token behind block l.

    Paper: Bousselham et al. 2024, "LeGrad: An Explainability Method for Vision Transformers via Feature Formation
    Sensitivity", sec. 3.

    Example:
        >>> cam = camkit.LeGrad(vit)
        >>> cam(images, 3).shape
        torch.Size([2, 32, 32])
    """
    mean = torch.stack([gradient.relu().mean((2, 3)) for gradient in attended.gradients]).mean(0)
    return Maps(attended.lay_out(mean))


@attention_method(
    "AttentionRollout",
    paper="Abnar and Zuidema 2020, eq. 1",
    formula="product over blocks of half the attention and half the identity",
    need=alone,
    cost="1 + 1 backward",
)
def attention_rollout(attended: Attended, *, head_fusion: Fusion = "mean") -> Maps:
    """Multiply the attention of all blocks, each averaged with the identity for the residual connection.

    Estimates how much of each patch reaches the tokens that the score reads. It ignores the class, and treats all
    attention as if it spoke for the score.

        R_l = normalise_rows(P_l + I) R_{l-1},  R_0 = I,  map = the rows of R_L that the score reads

    where P_l are the attention probabilities of block l, its heads fused, and L is the number of blocks.

    Paper: Abnar and Zuidema 2020, "Quantifying Attention Flow in Transformers", eq. 1.

    Args:
        attended: attention of all blocks.
        head_fusion: how a block's heads are fused.

    Example:
        >>> cam = camkit.AttentionRollout(vit, head_fusion="max")
        >>> cam(images).shape
        torch.Size([2, 32, 32])
    """
    flow = _identity(attended)
    for probabilities in attended.probabilities:
        fused = probabilities.mean(1) if head_fusion == "mean" else getattr(probabilities, f"a{head_fusion}")(1)
        step = fused + _identity(attended)
        flow = step / step.sum(2, keepdim=True) @ flow
    return _read(attended, flow)


@attention_method(
    "GradientRollout",
    paper="Chefer et al. 2021, eq. 5-6",
    formula="sum over paths through the blocks of relu(G attention), the mean over heads",
    need=score,
    cost="1 + 2 backwards",
)
def gradient_rollout(attended: Attended) -> Maps:
    """Propagate relevance through the attention that raises the class score.

    Attention rollout made class-specific by the gradient. Relevance passes through attention and residuals only; what
    the MLPs between them do is left out.

        R_l = R_{l-1} + mean_h relu(G_l * P_l) R_{l-1},  R_0 = I,  map = the rows of R_L that the score reads

    where P_l are the attention probabilities of block l, G_l = dy/dP_l the gradient of the class score y, h its heads,
    and L is the number of blocks.

    Paper: Chefer et al. 2021, "Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder
    Transformers", eq. 5-6.

    Example:
        >>> cam = camkit.GradientRollout(vit)
        >>> cam(images, 3).shape
        torch.Size([2, 32, 32])
    """
    relevance = _identity(attended)
    for probabilities, gradients in zip(attended.probabilities, attended.gradients, strict=True):
        relevance = relevance + (gradients * probabilities).relu().mean(2) @ relevance
    return _read(attended, relevance)


def _identity(attended: Attended) -> Tensor:
    probabilities = attended.probabilities[0]
    return torch.eye(probabilities.shape[-1], dtype=probabilities.dtype, device=probabilities.device)


def _read(attended: Attended, flow: Tensor) -> Maps:
    """Lay out the rows of (..., N, N) that the score reads as maps."""
    return Maps(attended.lay_out((attended.readout[:, :, None] @ flow).squeeze(2)))
