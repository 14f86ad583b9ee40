"""Targets: who is asked for, and that nothing is zipped short."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from camkit import CAM
from camkit.engine.scores import has_functions, is_nested, score_targets, target_rows
from camkit.errors import NonFiniteError, UsageError
from tests.helpers.networks import SmallCNN, seeded

IMAGES = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
CAM_OF_SMALL = CAM(seeded(SmallCNN()), "GradCAM", "norm1")


def one(image: int, category: int) -> Tensor:
    return CAM_OF_SMALL(IMAGES[image : image + 1], category)[0]


@pytest.mark.parametrize(
    "targets",
    [
        3,
        [3, 3],
        (3, 3),
        [[3], [3]],
        torch.tensor([3, 3]),
        np.array([3, 3]),
        np.int64(3),
        [torch.tensor(3), torch.tensor(3)],
        [np.array([3]), torch.tensor([3])],
        [np.int64(3), 3],
    ],
)
def test_one_category_in_every_spelling(targets: Any) -> None:
    result = CAM_OF_SMALL.explain(IMAGES, targets)
    assert_close(result.maps[:, 0], torch.stack([one(0, 3), one(1, 3)]))
    assert isinstance(result.targets, Tensor)
    assert result.targets.tolist() == [[3], [3]]


def test_none_is_each_images_own_top_class() -> None:
    result = CAM_OF_SMALL.explain(IMAGES)
    top = result.logits.argmax(1)
    assert_close(result.targets, top[:, None])
    assert_close(result.maps, CAM_OF_SMALL.explain(IMAGES, top).maps)
    assert_close(result.scores[:, 0], result.logits.amax(1))


def test_one_category_per_image() -> None:
    assert_close(CAM_OF_SMALL(IMAGES, [4, 0]), torch.stack([one(0, 4), one(1, 0)]))


@pytest.mark.parametrize("as_tensor", [False, True])
def test_several_categories_from_one_forward(as_tensor: bool) -> None:
    runs: list[int] = []
    handle = CAM_OF_SMALL.model.head.register_forward_hook(lambda *_: runs.append(1))
    categories = [[0, 1, 2], [4, 1, 0]]
    maps = CAM_OF_SMALL(IMAGES, torch.tensor(categories) if as_tensor else categories)
    handle.remove()
    assert len(runs) == 1
    assert maps.shape == (2, 3, 12, 12)
    assert_close(maps, torch.stack([torch.stack([one(i, c) for c in row]) for i, row in enumerate(categories)]))


def test_callables_in_place_of_indices() -> None:
    def margin(logits: Tensor) -> Tensor:
        return logits[1] - logits[2]

    def second(logits: Tensor) -> Tensor:
        return logits[2:3]

    result = CAM_OF_SMALL.explain(IMAGES, [[margin, 1], [second, 0]])
    assert_close(result.maps[0, 1], one(0, 1))
    assert_close(result.maps[1, 0], one(1, 2))
    assert_close(result.scores[0, 0], result.logits[0, 1] - result.logits[0, 2])
    assert result.targets == ((margin, 1), (second, 0))
    assert_close(CAM_OF_SMALL(IMAGES, lambda logits: logits[3]), CAM_OF_SMALL(IMAGES, 3))


@pytest.mark.parametrize(
    ("batch", "targets", "message"),
    [
        (1, [1, 2], r"2 targets for 1 image; for several categories of one image pass a list per image: \[\[1, 2\]\]"),
        (2, [1, 2, 3], "3 targets for 2 images"),
        (2, [1], "1 targets for 2 images"),
        (2, [[1], [1, 2]], r"every image needs the same number of targets.*\[1, 2\]"),
        (2, [[], []], "at least one"),
        (2, 5, r"category 5 is outside 0\.\.4"),
        (2, [0, -1], r"category -1 is outside 0\.\.4"),
        (2, [lambda row: row[0], 9], r"category 9 is outside 0\.\.4"),
        (2, "cat", "a target is a class index or a callable, got 'cat'"),
        (2, [1.5, 2], "a target is a class index or a callable, got 1.5"),
        (2, True, "a target is a class index or a callable, got True"),
        (2, b"ab", "a target is a class index or a callable, got b'ab'"),
        (2, lambda row: row, "must return a scalar tensor"),
        (2, lambda row: 3.0, "must return a scalar tensor"),
    ],
)
def test_targets_that_dont_fit(batch: int, targets: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CAM_OF_SMALL(IMAGES[:batch], targets)


class TestOutputs:
    def net(self, wrap: Any) -> nn.Module:
        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net = SmallCNN()

            def forward(self, images: Tensor) -> Any:
                return wrap(self.net(images))

        return seeded(Net())

    @pytest.mark.parametrize("wrap", [lambda t: 3, lambda t: {"a": t.argmax(1)}, lambda t: (t[:1], 2)])
    def test_or_not(self, wrap: Any) -> None:
        with pytest.raises(
            UsageError, match=r"the model returns (int|dict|tuple.*), which holds no row of scores.*output="
        ):
            CAM(self.net(wrap), target_layers="net.norm1")(IMAGES, 1)

    def test_class_targets_need_classes(self) -> None:
        model = self.net(lambda t: t[:, :, None])
        with pytest.raises(UsageError, match=r"class targets need logits .*\(2, 5, 1\): pass a callable"):
            CAM(model, target_layers="net.norm1")(IMAGES, 1)
        made = CAM(model, target_layers="net.norm1")(IMAGES, lambda row: row[1, 0])
        assert_close(made, CAM(self.net(lambda t: t), target_layers="net.norm1")(IMAGES, 1))

    def test_one_row_per_image(self) -> None:
        with pytest.raises(UsageError, match=r"the model returns \(1, 5\) for 2 images: one row per image is needed"):
            CAM(self.net(lambda t: t[:1]), target_layers="net.norm1")(IMAGES, 1)

    def test_scores_that_are_no_numbers(self) -> None:
        model = self.net(lambda t: t * torch.tensor([[1.0], [torch.nan]]))
        with pytest.raises(NonFiniteError, match="the score of image 1 is NaN or infinite"):
            CAM(model, target_layers="net.norm1")(IMAGES, 1)


def test_classes_that_stay_on_their_device() -> None:
    """Nothing is read back of them, so one that doesn't exist shows as NaN in its own image alone."""
    logits = torch.randn(2, 5, requires_grad=True)
    chosen, scores = score_targets(logits, torch.tensor([[1, 4], [5, -1]]))
    assert_close(scores[0], logits[0, [1, 4]])
    assert scores[1].isnan().all()
    (gradient,) = torch.autograd.grad(scores.sum(), logits)
    assert gradient[0].isfinite().all()
    assert gradient[1].isnan().any()
    assert chosen.tolist() == [[1, 4], [5, -1]]


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.zeros(2, device="meta"), "targets are class indices, got a tensor of torch.float32"),
        (torch.zeros(2, device="meta", dtype=torch.bool), "got a tensor of torch.bool"),
        (torch.zeros(3, device="meta", dtype=torch.long), r"targets \(3,\) for 2 images"),
        (torch.zeros(2, 0, device="meta", dtype=torch.long), r"targets \(2, 0\) for 2 images"),
    ],
)
def test_classes_on_a_device_that_are_none(targets: Tensor, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        target_rows(targets, 2)


def test_classes_on_a_device_are_left_there() -> None:
    found = target_rows(torch.zeros(2, device="meta", dtype=torch.int32), 2)
    assert isinstance(found, Tensor)
    assert (found.device.type, found.shape, found.dtype) == ("meta", (2, 1), torch.int64)


@pytest.mark.parametrize(
    ("targets", "nested", "functions"),
    [
        (None, False, False),
        (3, False, False),
        ([1, 2], False, False),
        ([[1], [2]], True, False),
        (torch.tensor([1, 2]), False, False),
        (torch.tensor([[1], [2]]), True, False),
        (np.array([[1], [2]]), True, False),
        ([np.array([1]), np.array([2])], True, False),
        (torch.sum, False, True),
        ([torch.sum, 1], False, True),
        ([[1, torch.sum], [2, 3]], True, True),
    ],
)
def test_lists_per_image_and_functions_are_told(targets: Any, nested: bool, functions: bool) -> None:
    assert is_nested(targets) is nested
    assert has_functions(targets) is functions
