"""Mosaics of images of distinct classes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from camkit.errors import UsageError
from camkit.metrics.mosaics import build_mosaics

CLASSES = (0, 1, 2, 3, 0, 1, 2, 3, 0, 4)


def images(height: int = 6, width: int = 8) -> Tensor:
    """Image number i is i everywhere."""
    return torch.arange(10.0)[:, None, None, None].expand(10, 3, height, width).contiguous()


def probabilities(sure: float = 0.9) -> Tensor:
    rest = (1 - sure) / 4
    return torch.full((10, 5), rest).scatter(1, torch.tensor(CLASSES)[:, None], sure)


@pytest.mark.parametrize("shrink", [False, True])
def test_cells_show_images_of_their_classes(shrink: bool) -> None:
    made = build_mosaics(images(), probabilities(), 2, shrink=shrink, seed=3)
    size = (6, 8) if shrink else (12, 16)
    assert made.images.shape == (len(made.targets), 3, *size)
    assert made.regions.shape == (len(made.targets), 4, *size)
    for mosaic, targets, regions, sources in zip(made.images, made.targets, made.regions, made.sources, strict=True):
        assert len(set(targets.tolist())) == 4
        assert torch.equal(regions.sum(0), torch.ones(size, dtype=torch.long)), "every pixel is in one cell"
        for target, region, source in zip(targets.tolist(), regions, sources.tolist(), strict=True):
            assert CLASSES[source] == target
            assert set(mosaic[:, region].flatten().tolist()) == {float(source)}
    assert [int(region.nonzero()[0, 0]) for region in made.regions[0]] == [0, 0, size[0] // 2, size[0] // 2]


def test_as_many_as_can_be_made_with_each_image_once() -> None:
    made = build_mosaics(images(), probabilities())
    used = made.sources.flatten().tolist()
    assert len(made.images) == 2
    assert len(set(used)) == len(used) == 8


def test_images_are_used_again_for_a_larger_count() -> None:
    made = build_mosaics(images(), probabilities(), count=7)
    assert len(made.images) == 7
    assert all(len(set(row)) == 4 for row in made.targets.tolist())
    assert set(made.sources.flatten().tolist()) == set(range(10))
    assert len(build_mosaics(images(), probabilities(), count=1).images) == 1


def test_the_seed_decides() -> None:
    sources = [build_mosaics(images(), probabilities(), count=5, seed=seed).sources for seed in (0, 0, 1)]
    assert torch.equal(sources[0], sources[1])
    assert not torch.equal(sources[0], sources[2])


def test_cells_of_a_size_that_is_no_multiple() -> None:
    made = build_mosaics(images(7, 8), probabilities(), shrink=True)
    assert made.images.shape[2:] == (7, 8)
    assert [int(region.sum()) for region in made.regions[0]] == [16, 16, 12, 12]


def test_only_right_and_sure_images_are_used() -> None:
    labels = [*CLASSES[:5], 0, 0, 0, 1, 0]
    made = build_mosaics(images(), probabilities(), count=6, labels=labels)
    assert set(made.sources.flatten().tolist()) <= {0, 1, 2, 3, 4}
    unsure = probabilities()
    unsure[4:] = 0.2
    made = build_mosaics(images(), unsure, count=6)
    assert set(made.sources.flatten().tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n": 3}, "a mosaic of 3 x 3 needs images of 9 classes, and the network is sure of 5: 10 of 10 images"),
        ({"min_confidence": 0.95}, "is sure of 0: 0 of 10 images have a probability of 0.95 or more; give more images"),
        ({"labels": [0] * 10}, "is sure and right of 1: 3 of 10 images"),
        ({"labels": [0] * 9}, "9 labels for 10 images"),
        ({"n": 1}, "n at least 2"),
        ({"n": 7}, "at most their size in pixels, got n=7"),
        ({"count": 0}, "count is a number of mosaics, at least 1, or None for all, got 0"),
        ({"min_confidence": 1.5}, "min_confidence is a probability, 0 to 1, got 1.5"),
        ({"probabilities": torch.randn(10, 5)}, "probabilities lie in .0, 1.: give model.images..softmax.1., not the"),
        ({"probabilities": torch.rand(9, 5)}, "mosaics take images .B, C, H, W. and probabilities .B, K., got"),
    ],
)
def test_mistakes(given: dict[str, Any], message: str) -> None:
    arguments = {"images": images(), "probabilities": probabilities(), **given}
    with pytest.raises(UsageError, match=message):
        build_mosaics(**arguments)
