"""What a network sees in concepts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from camkit.errors import UsageError
from camkit.layout import Layout
from camkit.run import Pass
from camkit.scoring import Tails


def name_concepts(evidence: Pass, concepts: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Each concept's class, and its score: what the network makes of an image whose layer shows it everywhere.

    Args:
        evidence: of the images.
        concepts: layer to (K, C); of several layers the mean score decides.

    Returns:
        Class indices (B, K) and scores (B, K).

    Raises:
        UsageError: the model returns no logits (batch, classes).
    """
    if evidence.logits.ndim != 2 or not evidence.logits.shape[1]:
        raise UsageError("concepts are named by class, which takes a model that returns logits (batch, classes)")
    totals = [_logits(evidence, name, vectors) for name, vectors in concepts.items()]
    mean = torch.stack(totals).mean(0)
    targets = mean.argmax(2)
    return targets, mean.gather(2, targets[:, :, None]).squeeze(2)


def _logits(evidence: Pass, name: str, vectors: Tensor) -> Tensor:
    """Logits (B, K, classes)."""
    tails, layout = Tails(evidence, name), evidence.layouts[name]
    made = []
    with torch.no_grad():
        if evidence.whole:
            for vector in vectors:
                tail = tails.of(None)
                made.append(
                    tail(_filled(tail.repeated(len(evidence.scores)), layout, vector[None]), len(evidence.scores))
                )
            return torch.stack(made, 1)
        for image in range(len(evidence.scores)):
            tail = tails.of(image)
            made.append(tail(_filled(tail.repeated(len(vectors)), layout, vectors), len(vectors)))
    return torch.stack(made)


def _filled(outputs: Any, layout: Layout, vectors: Tensor) -> Any:
    """A layer's outputs with vectors (n, C) at every place; other tokens stay."""
    places = layout.transform(outputs)  # a view, so that it can be written to
    places.copy_(vectors.view(*vectors.shape, *[1] * (places.ndim - 2)).expand_as(places))
    return outputs
