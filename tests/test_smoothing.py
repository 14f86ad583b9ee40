"""Wrappers: what they are, when they are nothing, and how AugSmooth's views go through the network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import camkit
from camkit import CAM, AugSmooth, EigenSmooth
from camkit.errors import UsageError
from camkit.smoothing import VIEWS
from tests.helpers.kinds import SIX as METHODS
from tests.helpers.networks import SmallCNN, seeded

IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
PAIR = IMAGES[:2]


@pytest.mark.parametrize("method", METHODS)
class TestWrappers:
    def cam(self, method: str) -> CAM:
        return CAM(seeded(SmallCNN()), method, ["norm1", "norm2"])

    def test_stack_in_either_order(self, method: str) -> None:
        one = AugSmooth(EigenSmooth(self.cam(method))).explain(PAIR, [[0, 1], [2, 3]])
        other = EigenSmooth(AugSmooth(self.cam(method))).explain(PAIR, [[0, 1], [2, 3]])
        assert_close(one.maps, other.maps)
        assert_close(one.raw, other.raw)
        assert set(one.smoothing) == set(other.smoothing) == {"EigenSmooth", "AugSmooth"}

    @pytest.mark.parametrize("wrapper", [EigenSmooth, AugSmooth])
    def test_switched_off_they_equal_what_they_wrap(self, method: str, wrapper: Any) -> None:
        cam = self.cam(method)
        assert_close(wrapper(cam, enabled=False)(PAIR), cam(PAIR))
        assert wrapper(cam, enabled=False).explain(PAIR).smoothing == ()

    def test_twice_is_once(self, method: str) -> None:
        cam = self.cam(method)
        assert_close(EigenSmooth(EigenSmooth(cam))(PAIR), EigenSmooth(cam)(PAIR))

    @pytest.mark.parametrize("wrapper", [EigenSmooth, AugSmooth])
    def test_are_a_cam(self, method: str, wrapper: Any) -> None:
        wrapped = wrapper(self.cam(method))
        assert isinstance(wrapped, CAM)
        assert wrapped.method is camkit.METHODS[method]
        assert wrapped(PAIR).shape == (2, 16, 16)


def test_aug_smooth_decides_the_class_once_on_the_image_as_given() -> None:
    class Fickle(SmallCNN):
        """Its top class changes with the brightness of the input."""

        def forward(self, images: Tensor) -> Tensor:
            logits = super().forward(images)
            peaks = PAIR.abs().amax((1, 2, 3)).repeat(len(images) // len(PAIR))  # views come as one batch
            bright = images.abs().amax((1, 2, 3)) > peaks
            return logits + 100 * nn.functional.one_hot(bright.long(), 5)

    cam = AugSmooth(CAM(seeded(Fickle()), "GradCAM", "norm2"))
    result = cam.explain(PAIR)
    assert result.targets.tolist() == [[0], [0]]
    assert_close(result.maps, cam.explain(PAIR, 0).maps)


def test_views_are_the_six() -> None:
    assert {(view.flip, view.factor) for view in VIEWS} == {(f, s) for f in (False, True) for s in (0.9, 1.0, 1.1)}
    assert (VIEWS[0].flip, VIEWS[0].factor) == (False, 1.0)


@pytest.mark.parametrize("wrapper", [EigenSmooth, AugSmooth])
def test_a_wrapper_wraps_cams_only(wrapper: Any) -> None:
    with pytest.raises(UsageError, match=f"{wrapper.__name__} wraps a CAM, got SmallCNN"):
        wrapper(SmallCNN())


def batches(chunk_size: int, images: Tensor = IMAGES, **options: Any) -> tuple[list[int], Tensor]:
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
    assert seen.pop(1) == 1  # one look whether the layer's places are turned
    assert seen == sizes
    assert sum(seen) == len(VIEWS) * len(IMAGES)
    assert_close(maps, batches(1)[1])


def test_keyword_arguments_that_belong_to_images_get_one_view_at_a_time() -> None:
    class Weighted(SmallCNN):
        def forward(self, images: Tensor, weights: Any = None) -> Tensor:
            assert len(weights) == len(images)
            return super().forward(images)

    model = seeded(Weighted())
    for weights in (torch.ones(3), [1, 1, 1], (1, 1, 1)):
        cam = CAM(model, "GradCAM", "conv2", forward_kwargs={"weights": weights})
        assert AugSmooth(cam, chunk_size=100)(IMAGES, 1).shape == (3, 16, 16)


@pytest.mark.parametrize("chunk_size", [0, -1, 2.5, None, "8"])
def test_a_chunk_size_counts_images(chunk_size: Any) -> None:
    with pytest.raises(UsageError, match="chunk_size is a number of images, at least 1; got"):
        AugSmooth(CAM(seeded(SmallCNN())), chunk_size=chunk_size)


def test_networks_that_take_one_image_only_get_one_view_at_a_time() -> None:
    class Single(SmallCNN):
        def forward(self, images: Tensor) -> Tensor:
            assert len(images) == 1
            return super().forward(images)

    made = AugSmooth(CAM(seeded(Single()), "GradCAM", "norm2"))(IMAGES[:1], 0)
    assert_close(made, AugSmooth(CAM(seeded(SmallCNN()), "GradCAM", "norm2"))(IMAGES[:1], 0))


def test_views_have_the_default_layer_of_the_images_as_given() -> None:
    class Gated(SmallCNN):
        """The brighter half decides which norm counts, and a flip exchanges the halves."""

        def forward(self, images: Tensor) -> Tensor:
            left = (images[..., :8].sum((1, 2, 3)) > images[..., 8:].sum((1, 2, 3)))[:, None, None, None]
            early = self.norm1(self.conv1(images))
            late = self.norm2(self.conv2(early.detach()))
            logits: Tensor = self.head(torch.where(left, late, early).relu().mean((2, 3)))
            return logits

    image = IMAGES[:1].abs().clone()
    image[..., 8:] = 0
    found = AugSmooth(CAM(seeded(Gated()), "GradCAM"), chunk_size=1).explain(image, 0)
    assert found.layers == ("norm2",)
    assert found.maps.any()
