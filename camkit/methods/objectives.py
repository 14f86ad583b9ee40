"""What is explained in place of a class's score."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from camkit.errors import UsageError
from camkit.methods.options import Number, Ranks, one_of
from camkit.methods.requests import Curvature, Gradients
from camkit.shapes import Categories, Scores


@dataclass(frozen=True)
class Finer:
    """How much more a class scores than those most like it, see :func:`finer`."""

    name: ClassVar[str] = "FinerCAM"
    instead: ClassVar[str] = "GradCAM"

    gamma: float
    comparison: tuple[int, ...]
    weights: str

    def __call__(self, logits: Tensor, categories: Categories) -> Scores:
        """Logits (B, K) and class indices (B, T) to scores (B, T)."""
        own = logits.gather(1, categories)
        distance = (logits.detach()[:, None] - own.detach()[:, :, None]).abs()
        distance.scatter_(2, categories[:, :, None], math.inf)  # itself comes last
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
        return (shares * differences).sum(2) / (shares.sum(2) + 1e-9)


def finer(
    *,
    gamma: Number = 0.6,
    comparison: Ranks = (1, 2, 3),
    weights: Annotated[str, one_of("equal", "probability")] = "equal",
) -> Gradients:
    """Gradients of y_c - gamma y_d, the mean over the classes d that score most like c.

    Args:
        gamma: how strongly the others count.
        comparison: which of them, by similarity: 1 is the class whose logit is closest to that of c.
        weights: by which they are averaged: ``"equal"``, or by ``"probability"``, through which gradients flow too.
    """
    return Gradients(Finer(float(gamma), comparison, weights))


@dataclass(frozen=True)
class ReST:
    """A class's logit plus the logarithm of its probability (Cai 2025): how it compares with all others counts too."""

    name: ClassVar[str] = "ShapleyCAM"
    instead: ClassVar[str] = "utility='score'"

    def __call__(self, logits: Tensor, categories: Categories) -> Scores:
        """Logits (B, K) and class indices (B, T) to scores (B, T)."""
        return (logits + logits.log_softmax(1)).gather(1, categories)


def utility(*, utility: Annotated[str, one_of("ReST", "score")] = "ReST") -> Curvature:
    """First and second derivatives of what a class is worth.

    Args:
        utility: ``"ReST"``, the logit plus the logarithm of the probability; or ``"score"``, the score alone, whose
            second derivatives vanish behind the last convolution of many networks.
    """
    return Curvature(ReST() if utility == "ReST" else None)
