"""How AugSmooth's views go through the network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from camkit import CAM, AugSmooth
from camkit.errors import UsageError
from camkit.smoothing import VIEWS
from tests.networks import SmallCNN, seeded

IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def batches(chunk_size: int, images: torch.Tensor = IMAGES, **options: Any) -> tuple[list[int], torch.Tensor]:
    """The sizes of the batches that the network got, and the maps."""
    model, seen = seeded(SmallCNN()), []
    model.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    maps = AugSmooth(CAM(model, "GradCAM++", "conv2", **options), chunk_size=chunk_size)(images, 1)
    return seen, maps


@pytest.mark.parametrize(
    ("chunk_size", "sizes"),
    [(1, [3, 3, 3, 3, 3, 3]), (3, [3, 3, 3, 3, 3, 3]), (6, [3, 6, 6, 3]), (8, [3, 6, 6, 3]), (100, [3, 15])],
)
def test_views_run_as_batches_of_the_chunk_size(chunk_size: int, sizes: list[int]) -> None:
    seen, maps = batches(chunk_size)
    assert seen == sizes
    assert sum(seen) == len(VIEWS) * len(IMAGES)
    assert_close(maps, batches(1)[1])


def test_keyword_arguments_that_belong_to_images_get_one_view_at_a_time() -> None:
    class Weighted(SmallCNN):
        def forward(self, images: torch.Tensor, weights: Any = None) -> torch.Tensor:
            assert len(weights) == len(images)
            return super().forward(images)

    model = seeded(Weighted())
    for weights in (torch.ones(3), [1, 1, 1], (1, 1, 1)):
        cam = CAM(model, "GradCAM", "conv2", forward_kwargs={"weights": weights})
        assert AugSmooth(cam, chunk_size=100)(IMAGES, 1).shape == (3, 16, 16)


@pytest.mark.parametrize("chunk_size", [0, -1, 2.5, None, "8"])
def test_a_chunk_size_counts_images(chunk_size: Any) -> None:
    with pytest.raises(UsageError, match="chunk_size counts images, got"):
        AugSmooth(CAM(seeded(SmallCNN())), chunk_size=chunk_size)


def test_networks_that_take_one_image_only_get_one_view_at_a_time() -> None:
    class Single(SmallCNN):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            assert len(images) == 1
            return super().forward(images)

    made = AugSmooth(CAM(seeded(Single()), "GradCAM", "norm2"))(IMAGES[:1], 0)
    assert_close(made, AugSmooth(CAM(seeded(SmallCNN()), "GradCAM", "norm2"))(IMAGES[:1], 0))


def test_views_have_the_default_layer_of_the_images_as_given() -> None:
    class Gated(SmallCNN):
        """The brighter half decides which norm counts, and a flip exchanges the halves."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            left = (images[..., :8].sum((1, 2, 3)) > images[..., 8:].sum((1, 2, 3)))[:, None, None, None]
            early = self.norm1(self.conv1(images))
            late = self.norm2(self.conv2(early.detach()))
            logits: torch.Tensor = self.head(torch.where(left, late, early).relu().mean((2, 3)))
            return logits

    image = IMAGES[:1].abs().clone()
    image[..., 8:] = 0
    found = AugSmooth(CAM(seeded(Gated()), "GradCAM"), chunk_size=1).explain(image, 0)
    assert found.layers == ("norm2",)
    assert found.maps.any()
