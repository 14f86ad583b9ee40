"""What a network sees in concepts."""

from __future__ import annotations

import torch
from torch import Tensor

from camkit.errors import UsageError
from camkit.run import Pass
from camkit.scoring import Tails


def name_concepts(evidence: Pass, name: str, concepts: Tensor) -> tuple[Tensor, Tensor]:
    """Each concept's class, and its score: what the network makes of an image whose layer shows it everywhere.

    Args:
        evidence: of the images.
        name: of the layer.
        concepts: (K, C).

    Returns:
        Class indices (B, K) and scores (B, K).

    Raises:
        UsageError: the model returns no logits (batch, classes).
    """
    if evidence.logits.ndim != 2 or not evidence.logits.shape[1]:
        raise UsageError("concepts are named by class, which takes a model that returns logits (batch, classes)")
    tails, batch = Tails(evidence, name), len(evidence.scores)
    values = concepts.view(*concepts.shape, *[1] * (evidence.activations[name].ndim - 2))
    with torch.no_grad():
        if evidence.whole:
            logits = torch.stack([tails.filled(None, value[None], batch) for value in values], 1)
        else:
            logits = torch.stack([tails.filled(image, values, len(values)) for image in range(batch)])
    targets = logits.argmax(2)
    return targets, logits.gather(2, targets[:, :, None]).squeeze(2)
