"""Whether a score is linear in the mean of a layer, as the method of 2016 needs it."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from camkit.errors import LayerError
from camkit.run import Pass
from camkit.scoring import Tails
from camkit.shapes import Gradients

CLOSE = 1e-3
"""How far numbers may be apart, in their size, that are equal but for rounding."""


def require_linear(evidence: Pass, gradients: Mapping[str, Gradients]) -> None:
    """Look whether the first image's scores are linear in the mean of every layer over space.

    The gradient must be the same everywhere, and noise in place of the activations must change the score by its inner
    product with the gradient.

    Args:
        evidence: of the images.
        gradients: layer to (T, B, C, *S).

    Raises:
        LayerError: they aren't.
    """
    for name, layer in gradients.items():
        own = layer[:, 0].flatten(2)
        constant = own.mean(2, keepdim=True)
        is_constant = bool(((own - constant).abs() <= CLOSE * own.abs().amax()).all())
        if not is_constant or not _is_linear(evidence, name, layer):
            raise LayerError(
                f"CAM needs a head of pooling and one linear layer: the score isn't linear in the mean of {name!r}; "
                "take GradCAM or HiResCAM, the same where CAM applies (without target layers CAM takes the last one in "
                "front of the head)"
            )


def _is_linear(evidence: Pass, name: str, gradients: Gradients) -> bool:
    tails = Tails(evidence, name)
    tail = tails.first
    image = None if evidence.whole else 0
    scores = []
    activations = evidence.activations[name][:1]
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(activations.shape, generator=generator, dtype=torch.float64).to(activations)
    noise = activations.mean() + activations.std() * drawn
    with torch.no_grad():
        for values in (torch.zeros_like(noise), noise):
            rows = tails.filled(image, values, 1 if image == 0 else len(evidence.scores))
            scores.append(evidence.scores_in(rows, image)[0].double())
    products = (gradients[:, 0].double() * noise.double()).flatten(1)
    found, expected = (scores[1] - scores[0])[: len(products)], products.sum(1)
    size = torch.maximum(found.abs(), expected.abs()) + products.norm(dim=1)
    allowed = max(CLOSE, tail.rounding) * size + tail.rounding * torch.maximum(*(each.abs() for each in scores))
    return bool(((found - expected).abs() <= allowed).all())
