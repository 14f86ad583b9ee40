"""Boxes as regions: the pixels whose centres lie inside, counted one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from camkit.errors import UsageError
from camkit.metrics import box_regions, measure


@pytest.mark.parametrize("seed", range(5))
def test_pixels_whose_centres_lie_in_a_box(seed: int) -> None:
    random = np.random.default_rng(seed)
    low = random.uniform(-5, 15, (3, 2, 2))
    boxes = np.concatenate([low, low + random.uniform(6, 12, (3, 2, 2))], 2)
    found = box_regions(torch.from_numpy(boxes), (20, 24))
    assert found.shape == (3, 20, 24)
    for image in range(3):
        for row in range(20):
            for column in range(24):
                x, y = column + 0.5, row + 0.5
                inside = any(left <= x < right and top <= y < bottom for left, top, right, bottom in boxes[image])
                assert bool(found[image, row, column]) is inside


def test_one_box_of_each_image_and_lists_of_several_are_the_same() -> None:
    one = torch.tensor([[1, 2, 5, 6], [0, 0, 3, 3]])
    assert torch.equal(box_regions(one, (8, 8)), box_regions([[one[0]], one[1:].numpy()], (8, 8)))
    both = box_regions([[[1, 2, 5, 6], [0, 0, 3, 3]]], (8, 8))
    assert torch.equal(both[0], box_regions(one, (8, 8)).any(0))


def test_metrics_of_places_take_them() -> None:
    heat = torch.zeros(1, 8, 8)
    heat[0, 2, 1], heat[0, 7, 7] = 0.75, 0.25
    found = measure("Energy pointing game", heat, regions=box_regions([[1, 2, 5, 6]], (8, 8)))
    assert found["Energy pointing game"].values.item() == pytest.approx(0.75, rel=1e-6)


@pytest.mark.parametrize(
    ("boxes", "said"),
    [
        ([], "a list with"),
        (3, "a list with"),
        ([[1, 2, 3]], "boxes of image 0 must be"),
        ([[1, 2, 3, 4], []], "boxes of image 1 must be"),
        ([["a", 1, 2, 3]], "boxes of image 0 must be"),
        ([[1, 2, float("nan"), 4]], "NaN"),
        ([[5, 5, 5, 9]], "image 0 is one whose boxes or masks are empty"),
        ([[1, 2, 3, 4], [20, 20, 30, 30]], "image 1 is one whose boxes lie outside the image"),
    ],
)
def test_boxes_that_say_no_place(boxes: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        box_regions(boxes, (8, 8))
