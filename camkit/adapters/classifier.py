"""A model as camkit's commands use it, whichever framework it came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch
    from torch import nn

    from camkit.adapters.prepared import Prepared
    from camkit.checkpoint import Origin

Activation = Literal["softmax", "sigmoid"]


@dataclass(frozen=True, eq=False)
class Classifier:
    """A model in eval mode on its device, and what is known about it.

    ``classes`` are None where unknown, or where their number isn't the model's. ``activation`` turns the model's
    logits into the scores that its framework prints. ``source`` is the config's file, or the model as CONFIG names it.
    ``checkpoint`` is where the weights came from, None where they are random. ``load_warning`` is one line where only a
    part of them fitted. ``output`` makes of what the model returns the logits that its framework predicts from, where
    these aren't simply one of the tensors.
    """

    model: nn.Module
    classes: tuple[str, ...] | None
    activation: Activation
    source: str
    checkpoint: Origin | None
    load_warning: str | None
    device: torch.device
    _prepare: Callable[[str], Prepared] = field(repr=False)
    output: Callable[[Any], Any] | None = None

    def name(self, category: int) -> str:
        """The category's class name; ``"category 7"`` where there is none."""
        if self.classes is not None and 0 <= category < len(self.classes):
            return self.classes[category]
        return f"category {category}"

    def prepare(self, image: str | Path) -> Prepared:
        """Read an image and take it through the framework's own preprocessing.

        Random transforms always draw the same numbers, and the process' own random state stays as it was.

        Raises:
            CamkitError: The image is missing or unreadable, or the preprocessing fails on it.
            UsageError: There is no preprocessing: a config without a test pipeline, a folder without a processor.
        """
        return self._prepare(str(image))
