"""``Classifier.prepare`` of paths as rows hold them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from camkit.datasets.places import as_file
from camkit.datasets.sources import from_text

if TYPE_CHECKING:
    from camkit.models.classifier import Classifier
    from camkit.models.prepared import Prepared


def preparing(classifier: Classifier) -> Callable[[str], Prepared]:
    """``classifier.prepare`` of a file, or of what is at an address."""

    def prepared(text: str) -> Prepared:
        with as_file(from_text(text)) as path:
            return classifier.prepare(path)

    return prepared
