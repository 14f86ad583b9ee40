"""Targets: functions of one image's part of the model's output that return the score to explain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from camkit.errors import UsageError
from camkit.targets import overlaps


class _OfCategory:
    """A target that names a class.

    Args:
        category: its index.
    """

    def __init__(self, category: int) -> None:
        self.category = category

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.category})"


class ClassifierOutputTarget(_OfCategory):
    """The logit of a category, of a row (K,) or of a batch (B, K)."""

    def __call__(self, model_output: Tensor) -> Tensor:
        """See the class."""
        return model_output[..., self.category]


class ClassifierOutputSoftmaxTarget(_OfCategory):
    """The probability of a category, of a row (K,) or of a batch (B, K) of logits."""

    def __call__(self, model_output: Tensor) -> Tensor:
        """See the class."""
        return model_output.softmax(-1)[..., self.category]


class ClassifierOutputReST(_OfCategory):
    """A category's logit plus its log-probability, of a row (K,) or of a batch (B, K): ShapleyCAM's utility."""

    def __call__(self, model_output: Tensor) -> Tensor:
        """See the class."""
        return (model_output + model_output.log_softmax(-1))[..., self.category]


class BinaryClassifierOutputTarget(_OfCategory):
    """The only logit of a row, as evidence for the class (category 1) or against it (any other)."""

    def __call__(self, model_output: Tensor) -> Tensor:
        """See the class."""
        return model_output if self.category == 1 else -model_output


class SoftmaxOutputTarget:
    """All probabilities of a row: for metrics, not for maps."""

    def __call__(self, model_output: Tensor) -> Tensor:
        """See the class."""
        return model_output.softmax(-1)


class RawScoresOutputTarget:
    """The row as it is: a map needs a row of one number."""

    def __call__(self, model_output: Tensor) -> Tensor:
        """See the class."""
        return model_output


class SemanticSegmentationTarget:
    """The sum of a category's scores within a mask, of a row (K, H, W).

    Args:
        category: its index.
        mask: (H, W), 0 and 1 or weights.
    """

    follows_flips: ClassVar[bool] = False

    def __init__(self, category: int, mask: NDArray[Any]) -> None:
        self.category = category
        self.mask = torch.as_tensor(mask)

    def __call__(self, model_output: Tensor) -> Tensor:
        """See the class."""
        scores = model_output[self.category]
        if scores.shape != self.mask.shape:
            raise UsageError(f"the mask is {tuple(self.mask.shape)}, the segmentation {tuple(scores.shape)}: resize it")
        return (scores * self.mask.to(model_output.device)).sum()


class FasterRCNNBoxScoreTarget:
    """How well a detector finds objects again: the sum over them of overlap + score of the detection there.

    Of all detections the one with the largest intersection over union counts, if that is above the threshold and the
    label is the object's; otherwise the object adds nothing.

    Args:
        labels: M class indices.
        bounding_boxes: M arrays (4,), or (M, 4), as x1, y1, x2, y2 in pixels.
        iou_threshold: in [0, 1].

    Raises:
        UsageError: another number of labels than boxes.
    """

    follows_flips: ClassVar[bool] = False

    def __init__(self, labels: Sequence[int], bounding_boxes: Any, iou_threshold: float = 0.5) -> None:
        if len(labels) != len(bounding_boxes):
            raise UsageError(f"every box needs a label: got {len(bounding_boxes)} boxes and {len(labels)} labels")
        self.labels = labels
        self.bounding_boxes = bounding_boxes
        self.iou_threshold = iou_threshold

    def __call__(self, model_outputs: Mapping[str, Tensor]) -> Tensor:
        """The score (1,), of ``boxes`` (N, 4), ``labels`` (N,) and ``scores`` (N,)."""
        boxes = model_outputs["boxes"]
        total: Tensor = boxes.new_zeros(1)
        for box, label in zip(self.bounding_boxes, self.labels, strict=True):
            found = overlaps(boxes, torch.as_tensor(box).to(boxes))
            if len(found) and found.max() > self.iou_threshold:
                best = found.argmax()
                if model_outputs["labels"][best] == label:
                    total = total + found[best] + model_outputs["scores"][best]
        return total


class FinerWeightedTarget:
    """How much more a category scores than others do, averaged by the others' probabilities.

    Args:
        main_category: index of the category.
        comparison_categories: indices of the others.
        alpha: how strongly these count.
    """

    def __init__(self, main_category: int, comparison_categories: Sequence[int], alpha: float) -> None:
        self.main_category = main_category
        self.comparison_categories = comparison_categories
        self.alpha = alpha

    def __call__(self, model_output: Tensor) -> Tensor:
        """See the class, of a row (K,) or of a batch (B, K)."""
        others = list(self.comparison_categories)
        shares = model_output.softmax(-1)[..., others]
        leads = model_output[..., [self.main_category]] - self.alpha * model_output[..., others]
        return (shares * leads).sum(-1) / (shares.sum(-1) + 1e-9)
