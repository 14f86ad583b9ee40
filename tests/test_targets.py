"""Ready-made targets: their scores, the maps they lead to, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import camkit
from camkit import CAM, AugSmooth, BinaryLogit, BoxScore, Logit, Probability, SegmentationCategory, Similarity
from camkit.errors import UsageError
from tests.helpers.networks import SmallCNN, seeded

IMAGES = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
LOGITS = torch.tensor([0.5, -1.0, 2.0])


def raw(targets: Any, model: nn.Module | None = None, layer: str = "norm2") -> Tensor:
    return CAM(model or seeded(SmallCNN()), "GradCAM", layer).explain(IMAGES, targets).raw[layer]


def test_a_logit_is_what_an_index_means() -> None:
    assert Logit(2)(LOGITS) == 2
    assert_close(raw(Logit(3)), raw(3))


def test_probability_counts_evidence_against_the_others() -> None:
    assert_close(Probability(2)(LOGITS), LOGITS.softmax(0)[2])
    logits = seeded(SmallCNN())(IMAGES)
    share = logits.softmax(1)
    # d p_c / d A = p_c (d z_c / d A - sum_k p_k d z_k / d A), and GradCAM is linear in the gradient.
    mean = sum(share[:, k, None, None, None] * raw(k) for k in range(5))
    assert_close(raw(Probability(3)), share[:, 3, None, None, None] * (raw(3) - mean))


@pytest.mark.parametrize("positive", [True, False])
def test_a_binary_logit_has_two_signs(positive: bool) -> None:
    class Binary(SmallCNN):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images)[:, 2:3]

    sign = 1 if positive else -1
    assert_close(raw(BinaryLogit(positive), seeded(Binary())), sign * raw(2))
    assert BinaryLogit(positive)(torch.tensor(0.5)) == sign * 0.5


def test_similarity_to_an_embedding() -> None:
    embedding = torch.tensor([1.0, 0.0, 1.0])
    assert_close(Similarity(embedding)(LOGITS), LOGITS @ embedding / LOGITS.norm() / embedding.norm())
    assert_close(Similarity(LOGITS)(3 * LOGITS), torch.tensor(1.0))


class Dense(nn.Module):
    """Segments: every place has logits of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Conv2d(4, 3, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"out": self.head(self.norm(self.conv(images)).sigmoid())}


def test_segmentation_within_a_mask() -> None:
    mask = torch.zeros(12, 12, dtype=torch.bool)
    mask[2:5, 6:9] = True
    model = seeded(Dense())
    target = SegmentationCategory(0, mask)
    assert_close(target(model(IMAGES)["out"][0]), model(IMAGES)["out"][0, 0][mask].sum())
    # The score depends on nothing beside the mask: LayerCAM shows nothing there.
    lit = CAM(model, "LayerCAM", "norm").explain(IMAGES, target).raw["norm"][:, 0]
    assert (lit[:, ~mask] == 0).all()
    assert (lit[:, mask] != 0).any()


class Detector(nn.Module):
    """Two fixed boxes per image; the score of each comes from what lies within it."""

    boxes = torch.tensor([[0.0, 0.0, 6.0, 6.0], [6.0, 6.0, 12.0, 12.0]])

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        features = self.norm(self.conv(images)).relu().mean(1)
        return [
            {
                "boxes": self.boxes,
                "labels": torch.tensor([1, 7]),
                "scores": torch.stack([one[y : y + 6, x : x + 6].mean() for x, y in ((0, 0), (6, 6))]).sigmoid(),
            }
            for one in features
        ]


class TestBoxScore:
    def test_is_score_and_overlap_of_the_best_detection_with_the_label(self) -> None:
        found = seeded(Detector())(IMAGES)[0]
        near = torch.tensor([[0.0, 0.0, 6.0, 5.0]])
        assert_close(BoxScore(near, [1])(found), found["scores"][0] + 5 / 6)
        both = BoxScore(Detector.boxes, [1, 7])
        assert_close(both(found), found["scores"].sum() + 2)

    def test_shows_the_box_asked_for(self) -> None:
        model = seeded(Detector())
        for index, inside in enumerate(((slice(0, 6),) * 2, (slice(6, 12),) * 2)):
            target = BoxScore(Detector.boxes[index : index + 1], [[1, 7][index]])
            lit = CAM(model, "LayerCAM", "norm").explain(IMAGES, target).raw["norm"][:, 0]
            within = (slice(None), *inside)
            assert lit[within].sum() > 0
            assert_close(lit[within].sum(), lit.sum())

    def test_an_object_that_wasnt_detected(self) -> None:
        found = seeded(Detector())(IMAGES)[0]
        for box, label in ((Detector.boxes[:1], 7), (torch.tensor([[9.0, 0.0, 12.0, 3.0]]), 1)):
            with pytest.raises(UsageError, match=r"no detection of \[\d\] overlaps .* by 0.5 .*detected: \[1, 7\]"):
                BoxScore(box, [label])(found)

    def test_wrong_boxes_and_wrong_rows(self) -> None:
        with pytest.raises(UsageError, match=r"boxes \(M, 4\) and M labels, got \(2, 4\) and 1"):
            BoxScore(Detector.boxes, [1])
        with pytest.raises(UsageError, match="needs a mapping per image; missing: boxes, labels, scores"):
            BoxScore(Detector.boxes, [1, 7])(LOGITS)


@pytest.mark.parametrize(
    ("target", "row", "message"),
    [
        (Logit(3), LOGITS, r"category 3 is outside 0\.\.2"),
        (Logit(0), LOGITS[None], r"category 0 needs \(K,\) per image, the model returns \(1, 3\)"),
        (Probability(-1), LOGITS, r"category -1 is outside 0\.\.2"),
        (BinaryLogit(), LOGITS, r"one logit per image, the model returns \(3,\): use Logit"),
        (Similarity(torch.ones(4)), LOGITS, r"it is \(4,\), the model returns \(3,\)"),
        (SegmentationCategory(0, torch.ones(2, 2)), LOGITS, r"needs \(K, H, W\) per image"),
        (SegmentationCategory(0, torch.ones(2, 2)), torch.ones(3, 4, 4), r"the mask is \(2, 2\), .* \(4, 4\): resize"),
        (SegmentationCategory(0, torch.zeros(4, 4)), torch.ones(3, 4, 4), "the mask is empty"),
    ],
)
def test_rows_that_dont_fit(target: Any, row: Tensor, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        target(row)


def test_a_target_that_names_a_place_is_refused_by_mirrored_views() -> None:
    smooth = AugSmooth(CAM(seeded(Dense()), "GradCAM", "norm"))
    with pytest.raises(UsageError, match="names a place in the image .*mirrored view: leave out AugSmooth"):
        smooth(IMAGES, SegmentationCategory(0, torch.ones(12, 12)))
    off = AugSmooth(CAM(seeded(Dense()), "GradCAM", "norm"), enabled=False)
    assert off(IMAGES, SegmentationCategory(0, torch.ones(12, 12))).shape == (2, 12, 12)
    assert AugSmooth(CAM(seeded(SmallCNN())))(IMAGES, camkit.Probability(1)).shape == (2, 12, 12)
