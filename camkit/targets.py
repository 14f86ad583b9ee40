"""Ready-made targets: functions of one image's part of the model's output that return the score to explain.

Pass one in place of a class index: ``cam(images, targets=Probability(281))``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from camkit.errors import UsageError


@dataclass(frozen=True, eq=False)
class ReadyTarget:
    """Base of the ready-made targets."""

    follows_flips: ClassVar[bool] = True
    """Whether it means the same for a mirrored image; False if it names a place in the image."""

    def __call__(self, row: Any) -> Tensor:
        """The score, a scalar tensor, of one image's part of the output."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Logit(ReadyTarget):
    """The logit of ``category``, of a row (K,): what a class index as target means."""

    category: int

    def __call__(self, row: Tensor) -> Tensor:
        """See the class."""
        return _entry(row, self.category, 1)


@dataclass(frozen=True, eq=False)
class Probability(ReadyTarget):
    """The softmax probability of ``category``, in [0, 1], of a row (K,): evidence against the other classes counts."""

    category: int

    def __call__(self, row: Tensor) -> Tensor:
        """See the class."""
        return _entry(row.softmax(0) if row.ndim == 1 else row, self.category, 1)


@dataclass(frozen=True, eq=False)
class BinaryLogit(ReadyTarget):
    """The only logit of a row (1,) or (), as evidence for the class (``positive``) or against it."""

    positive: bool = True

    def __call__(self, row: Tensor) -> Tensor:
        """See the class."""
        if row.numel() != 1:
            raise UsageError(
                f"BinaryLogit needs one logit per image, the model returns {tuple(row.shape)}: use Logit(category)"
            )
        return row.reshape(()) if self.positive else -row.reshape(())


@dataclass(frozen=True, eq=False)
class SegmentationCategory(ReadyTarget):
    """The sum of the logits of ``category`` within ``mask``, of a row (K, H, W); mask (H, W), bool or weights."""

    category: int
    mask: Tensor
    follows_flips: ClassVar[bool] = False

    def __call__(self, row: Tensor) -> Tensor:
        """See the class."""
        logits = _entry(row, self.category, 3)
        if self.mask.shape != logits.shape:
            raise UsageError(f"the mask is {tuple(self.mask.shape)}, the segmentation {tuple(logits.shape)}: resize it")
        if not self.mask.any():
            raise UsageError("the mask is empty: nothing to explain")
        return (logits * self.mask.to(logits)).sum()


@dataclass(frozen=True, eq=False)
class Similarity(ReadyTarget):
    """The cosine similarity, in [-1, 1], of a row (D,) to ``embedding`` (D,), such as another image's row."""

    embedding: Tensor

    def __call__(self, row: Tensor) -> Tensor:
        """See the class."""
        if row.shape != self.embedding.shape or row.ndim != 1:
            raise UsageError(
                f"Similarity needs rows (D,) like the embedding: it is {tuple(self.embedding.shape)}, the model "
                f"returns {tuple(row.shape)}"
            )
        return cosine_similarity(row, self.embedding.to(row), dim=0)


@dataclass(frozen=True, eq=False)
class BoxScore(ReadyTarget):
    """How sure a detector is of the objects asked for: the sum over them of score + overlap of the best detection.

    A row is a mapping with ``boxes`` (N, 4) as x1, y1, x2, y2 in pixels, ``labels`` (N,) and ``scores`` (N,), as
    torchvision's detectors return one per image. Of the detections with an object's label the one with the largest
    intersection over union counts, if that is at least ``min_overlap``.

    Args:
        boxes: (M, 4), the objects' places.
        labels: M class indices.
        min_overlap: in [0, 1].
    """

    boxes: Tensor
    labels: Sequence[int]
    min_overlap: float = 0.5
    follows_flips: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse boxes and labels that don't belong together."""
        if self.boxes.ndim != 2 or self.boxes.shape[1] != 4 or len(self.boxes) != len(self.labels):
            raise UsageError(
                f"BoxScore takes boxes (M, 4) and M labels, got {tuple(self.boxes.shape)} and {len(self.labels)}"
            )

    def __call__(self, row: Mapping[str, Tensor]) -> Tensor:
        """See the class."""
        missing = {"boxes", "labels", "scores"}.difference(row if isinstance(row, Mapping) else ())
        if missing:
            raise UsageError(f"BoxScore needs a mapping per image; missing: {', '.join(sorted(missing))}")
        total = []
        for box, label in zip(self.boxes.to(row["boxes"]), self.labels, strict=True):
            found = overlaps(row["boxes"], box).where(row["labels"] == label, -1)
            if len(found) and found.max() >= self.min_overlap:
                best = found.argmax()
                total.append(found[best] + row["scores"][best])
        if not total:
            raise UsageError(
                f"no detection of {sorted(set(self.labels))} overlaps the boxes asked for by {self.min_overlap} or "
                f"more; labels detected: {sorted(set(row['labels'].tolist()))}"
            )
        return torch.stack(total).sum()


def _entry(row: Tensor, category: int, dimensions: int) -> Tensor:
    if row.ndim != dimensions:
        wanted = "(K,)" if dimensions == 1 else "(K, H, W)"
        raise UsageError(f"category {category} needs {wanted} per image, the model returns {tuple(row.shape)}")
    if not 0 <= category < len(row):
        raise UsageError(f"category {category} is outside 0..{len(row) - 1}")
    return row[category]


def overlaps(boxes: Tensor, box: Tensor) -> Tensor:
    """Intersection over union of boxes (N, 4) with one (4,): (N,) in [0, 1], 0 where both are empty."""
    sides = (torch.minimum(boxes[:, 2:], box[2:]) - torch.maximum(boxes[:, :2], box[:2])).clamp(min=0)
    shared = sides.prod(1)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (box[2:] - box[:2]).prod() - shared
    return (shared / union).where(union > 0, 0)
