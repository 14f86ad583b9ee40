"""The classifier of a run, and its ``prepare`` of paths as rows hold them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from torch import nn

from camkit.datasets.places import as_file
from camkit.datasets.sources import from_text
from camkit.errors import UsageError
from camkit.models.classifier import Classifier
from camkit.models.load import load
from camkit.models.pillow import Transform, measure, prepare

if TYPE_CHECKING:
    from camkit.models.prepared import Prepared


def find_classifier(
    model: Classifier | nn.Module | str,
    checkpoint: str | None = None,
    transform: Transform | None = None,
    classes: Sequence[str] | None = None,
) -> Classifier:
    """The classifier of a CONFIG, or of a module with its transform.

    Raises:
        UsageError: A module without a transform, or one with a checkpoint.
    """
    if isinstance(model, Classifier):
        return model
    if isinstance(model, str):
        return load(model, checkpoint)
    if not isinstance(model, nn.Module):
        raise UsageError(f"the model is a classifier, a module or a CONFIG, got {type(model).__name__}")
    if transform is None or checkpoint is not None:
        raise UsageError("a module needs transform=, from a PIL image to its input, and takes no checkpoint")
    device = next((each.device for each in model.parameters()), None)
    if device is None:
        raise UsageError(f"the {type(model).__name__} has no parameters")
    preparation = partial(prepare, transform=transform, normalisation=measure(transform), device=device)
    names = None if classes is None else tuple(classes)
    kind = type(model)
    return Classifier(
        model, names, "softmax", f"{kind.__module__}.{kind.__qualname__}", None, None, device, preparation
    )


def preparing(classifier: Classifier) -> Callable[[str], Prepared]:
    """``classifier.prepare`` of a file, or of what is at an address."""

    def prepared(text: str) -> Prepared:
        with as_file(from_text(text)) as path:
            return classifier.prepare(path)

    return prepared
