"""Compare a loaded classifier with its framework's own model: the same logits, and the map that hooks make by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import camkit
from camkit.models.classifier import Classifier
from tests.helpers.by_hand import gradcam, of_class


def assert_same(classifier: Classifier, model: Any, layer: str, images: Tensor, ours: str | None = None) -> None:
    """Logits and GradCAM equal the framework's own model's, to 1e-6 of their size.

    Args:
        classifier: What camkit loaded.
        model: The framework's own model with the weights that its own loader takes.
        layer: Of the model.
        images: Any images, (B, C, H, W).
        ours: The layer's name in the classifier's model where it is another.
    """
    model = model.eval()

    def logits(images: Tensor) -> Tensor:
        output = model(images)
        found: Tensor = getattr(output, "logits", output)
        return found

    explanation = camkit.CAM(classifier.model, "GradCAM", [ours or layer]).explain(images, 1)
    with torch.no_grad():
        torch.testing.assert_close(explanation.logits, logits(images), rtol=1e-6, atol=1e-6)
    by_hand = gradcam(
        model, model.get_submodule(layer), images, lambda output: of_class(1)(getattr(output, "logits", output))
    )
    torch.testing.assert_close(
        explanation.raw[ours or layer][:, 0], by_hand, rtol=1e-5, atol=1e-6 * float(by_hand.abs().max())
    )
