"""Write and load checkpoints, and compare with the framework's own model: logits, and the map by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import camkit
from camkit.errors import CamkitError
from camkit.models.classifier import Classifier
from camkit.models.load import load
from tests.helpers.by_hand import gradcam, of_class
from tests.helpers.refusals import refusal

VIT = {"depth": 2, "embed_dim": 48, "num_heads": 3}
"""Of timm's vit_tiny_patch16_224, a tiny one."""
VIT_OPTIONS = [f"{key}={value}" for key, value in VIT.items()]
IMAGES = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


class Loader:
    """Writes a checkpoint and loads it."""

    def __init__(self, path: Path) -> None:
        self.path = path / "net.pth"

    def __call__(self, config: str, content: object, *options: str, **how: Any) -> Classifier:
        torch.save(content, self.path)
        return load(config, str(self.path), cfg_options=options, **how)

    def refused(self, kind: type[CamkitError], config: str, content: object, *options: str, **how: Any) -> str:
        return refusal(self, kind, config, content, *options, **how)


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
