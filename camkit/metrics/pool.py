"""Images for mosaics: those of a data set that the network is sure of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from camkit.compat import float64
from camkit.datasets.local import Ready
from camkit.engine.network import Network
from camkit.engine.outputs import pick_output
from camkit.engine.scores import as_logits, require_finite
from camkit.errors import CamkitError, ForwardError
from camkit.metrics.mosaics import Mosaics, build_mosaics

if TYPE_CHECKING:
    from camkit.models.classifier import Classifier
    from camkit.models.loader import Loader

MOST = 256
"""Images that are kept, for they are in memory together."""
OF_A_CLASS = 8
"""Images of one class that are kept: mosaics are of distinct classes."""


class Pool:
    """Keeps images of one size that a network is sure of.

    Args:
        classifier: The network.
        loader: Of its images.
        min_confidence: The least probability of an image's most probable class.
    """

    def __init__(self, classifier: Classifier, loader: Loader, min_confidence: float) -> None:
        self._network = Network(classifier.model, output=classifier.output)
        self._is_sigmoid = classifier.activation == "sigmoid"
        self._loader = loader
        self._least = min_confidence
        self._kept: list[tuple[int, Tensor, Tensor]] = []
        self._classes: Counter[int] = Counter()
        self._unsure = self._other_sizes = self._too_many = 0

    def add(self, ready: Ready) -> None:
        """Ask the network about images, and keep those that it is sure of."""
        inputs = self._network.prepare(self._loader.inputs(ready.pixels))
        with self._network.borrowed(), torch.no_grad():
            part = pick_output(self._network.call(inputs), len(inputs), self._network.output)
        logits = float64(as_logits(part.rows)).cpu()
        require_finite(logits)
        probabilities = logits.sigmoid() if self._is_sigmoid else logits.softmax(1)
        sure, classes = probabilities.max(1)
        for row, (position, confidence, category) in enumerate(
            zip(ready.positions, sure.tolist(), classes.tolist(), strict=True)
        ):
            if confidence < self._least:
                self._unsure += 1
            elif self._kept and ready.pixels.shape[1:] != self._kept[0][1].shape:
                self._other_sizes += 1
            elif self._classes[category] == OF_A_CLASS or len(self._kept) == MOST:
                self._too_many += 1
            else:
                self._classes[category] += 1
                self._kept.append((position, ready.pixels[row].clone(), probabilities[row]))

    def mosaics(self, n: int, seed: int, say: Callable[[str], None]) -> Mosaics:
        """Mosaics of n x n images, each image in one of them: n times as large, or shrunk where the network fails.

        Raises:
            UsageError: Too few classes that the network is sure of.
        """
        for count, why in (
            (self._unsure, f"without a class of a probability of {self._least:g} or more"),
            (self._other_sizes, "of another size than the first one"),
            (self._too_many, f"beyond {OF_A_CLASS} of a class, or {MOST} in all"),
        ):
            if count:
                say(f"left out of mosaics: {count} image{'s' * (count > 1)} {why}")
        if not self._kept:
            raise CamkitError(
                f"no image has a class of a probability of {self._least:g} or more: take a lower --min-confidence"
            )
        images = self._loader.inputs(torch.stack([pixels for _, pixels, _ in self._kept]))
        probabilities = torch.stack([each for *_, each in self._kept])
        made = build_mosaics(images, probabilities, n, min_confidence=self._least, seed=seed)
        if why := self._refuses(made.images[:1]):
            say(f"the images in mosaics are shrunk: {why}")
            made = build_mosaics(images, probabilities, n, min_confidence=self._least, seed=seed, shrink=True)
        return made

    def positions_of(self, mosaics: Mosaics) -> list[list[int]]:
        """Which images of the data set mosaics show, cell by cell."""
        return [[self._kept[each][0] for each in row] for row in mosaics.sources.tolist()]

    def _refuses(self, images: Tensor) -> str:
        """Why the network takes no images of a size; empty where it does.

        Raises:
            RuntimeError: there is no memory for them.
        """
        try:
            with self._network.borrowed(), torch.no_grad():
                self._network.call(self._network.prepare(images).clone())  # some networks write to their input
        except ForwardError as error:
            return str(error)
        return ""
