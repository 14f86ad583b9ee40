"""Methods at the input's resolution, against their slow oracles."""

from __future__ import annotations

import torch
from torch.testing import assert_close

from camkit.methods.pixel import fullgrad, guided_backprop, guided_gradcam
from tests import oracles
from tests.methods.helpers import BATCH, CHANNELS, TARGETS, by_target_and_image, close, each_space, random
from tests.oracles import Array


@each_space
def test_fullgrad(spatial: tuple[int, ...], size: tuple[int, ...]) -> None:
    product = random(TARGETS, BATCH, 3, *size)
    layers = [
        (random(4, seed=1), random(TARGETS, BATCH, 4, *spatial, seed=2)),
        (random(2, seed=3), random(TARGETS, BATCH, 2, *size, seed=4)),
        (random(3, seed=5), random(TARGETS, BATCH, 3, *[2] * len(size), seed=6)),
    ]
    terms = [product, *(bias.view(-1, *[1] * len(size)) * gradient for bias, gradient in layers)]

    def slow(target: int, image: int) -> Array:
        biases = [(bias.numpy(), gradient[target, image].numpy()) for bias, gradient in layers]
        return oracles.fullgrad(product[target, image].numpy(), biases)

    close(fullgrad(terms, size).signed, by_target_and_image(slow))


def test_fullgrad_of_a_channel_that_is_the_same_everywhere() -> None:
    """It adds nothing: rescaling takes it to 0."""
    product = random(1, 1, 3, 4, 5)
    flat = torch.full((1, 1, 2, 4, 5), 7.0, dtype=torch.float64)
    assert_close(fullgrad([product, flat], (4, 5)).signed, fullgrad([product], (4, 5)).signed)


@each_space
def test_guided(spatial: tuple[int, ...], size: tuple[int, ...]) -> None:
    images, guided = random(BATCH, 3, *size), random(TARGETS, BATCH, 3, *size, seed=1)
    a, g = random(BATCH, CHANNELS, *spatial, seed=2), random(TARGETS, BATCH, CHANNELS, *spatial, seed=3)

    def slow(target: int, image: int) -> Array:
        small = oracles.raw("GradCAM", a[image].numpy(), g[target, image].numpy())
        return oracles.guided_gradcam(guided[target, image].numpy(), small)

    made = guided_gradcam(a, g, images, guided)
    assert made.pixels is not None
    close(made.pixels, by_target_and_image(slow))
    assert_close(made.signed, made.pixels.abs().amax(2), rtol=0, atol=0)


def test_guided_gradients_are_pixels_as_they_are() -> None:
    images, guided = random(BATCH, 3, 4, 5), random(TARGETS, BATCH, 3, 4, 5, seed=1)
    made = guided_backprop(images, guided)
    assert made.pixels is guided
    assert_close(made.signed, guided.abs().amax(2), rtol=0, atol=0)
