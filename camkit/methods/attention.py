"""Methods of a transformer's attention."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import torch
from torch import Tensor

from camkit.methods.options import one_of
from camkit.methods.registry import method
from camkit.methods.requests import Attended, Attention
from camkit.shapes import SignedMaps

attention_method = partial(method, family="attention", reduction=None)


def own_scores() -> Attention:
    """Attention, and its gradients by every block's own score."""
    return Attention("own")


def score() -> Attention:
    """Attention, and its gradients by the score."""
    return Attention("score")


def alone() -> Attention:
    """Attention alone."""
    return Attention()


Fusion = Annotated[str, one_of("mean", "max", "min")]


@attention_method(
    "LeGrad",
    paper="Bousselham et al. 2024, sec. 3",
    weighting="mean over heads, queries and blocks of relu(G), G by each block's own score",
    request=own_scores,
    cost="2 + L tails, L + 1 backwards",
)
def legrad(attended: Attended) -> SignedMaps:
    """How much a block's own score would grow with attention to each place, the mean over blocks."""
    return attended.lay_out(torch.stack([gradient.relu().mean((2, 3)) for gradient in attended.gradients]).mean(0))


@attention_method(
    "AttentionRollout",
    paper="Abnar and Zuidema 2020, eq. 1",
    weighting="product over blocks of half the attention and half the identity",
    request=alone,
    cost="1 + 1 backward",
)
def attention_rollout(attended: Attended, *, head_fusion: Fusion = "mean") -> SignedMaps:
    """How much of each place flows into the tokens that the score reads.

    Args:
        attended: of all blocks.
        head_fusion: what heads become one by.
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
    weighting="sum over paths through the blocks of relu(G attention), the mean over heads",
    request=score,
    cost="1 + 2 backwards",
)
def gradient_rollout(attended: Attended) -> SignedMaps:
    """How relevant each place is for the tokens that the score reads, by way of attention that raises the score."""
    relevance = _identity(attended)
    for probabilities, gradients in zip(attended.probabilities, attended.gradients, strict=True):
        relevance = relevance + (gradients * probabilities).relu().mean(2) @ relevance
    return _read(attended, relevance)


def _identity(attended: Attended) -> Tensor:
    probabilities = attended.probabilities[0]
    return torch.eye(probabilities.shape[-1], dtype=probabilities.dtype, device=probabilities.device)


def _read(attended: Attended, flow: Tensor) -> SignedMaps:
    """The rows of (..., N, N) that the score reads, as maps."""
    return attended.lay_out((attended.readout[:, :, None] @ flow).squeeze(2))
