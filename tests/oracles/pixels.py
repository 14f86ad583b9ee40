"""Maps at the input's own resolution: FullGrad, guided backpropagation, Guided Grad-CAM."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tests.oracles.channels import Array, resize

Index = tuple[int, int, int]


def rescaled(channel: Array, size: tuple[int, ...]) -> Array:
    """FullGrad's psi: magnitudes, scaled to [0, 1], resized to the input."""
    m = np.abs(channel)
    m = m - m.min()
    return resize(m / (m.max() + 1e-7), size)


def fullgrad(product: Array, biases: list[tuple[Array, Array]]) -> Array:
    """FullGrad from the input times its gradient (3, H, W), and every layer's bias (C,) and gradient (C, h, w)."""
    size = product.shape[1:]
    out = np.zeros(size)
    for channel in product:
        out += rescaled(channel, size)
    for bias, gradient in biases:
        for b, g in zip(bias, gradient, strict=True):
            out += rescaled(b * g, size)
    return out


@dataclass(frozen=True)
class PlainWeights:
    """Two 3 x 3 convolutions (out, in, 3, 3) of stride and padding 1, and a linear head (classes, C) without a bias."""

    first: Array
    first_bias: Array
    second: Array
    second_bias: Array
    head: Array


def convolved(x: Array, weight: Array, bias: Array) -> Array:
    _, height, width = x.shape
    out = np.zeros((len(weight), height, width))
    for o in range(len(weight)):
        out[o] = bias[o]
        for c, i, j, p, q in taps(weight, height, width):
            out[o, i, j] += weight[o, c, p, q] * x[c, i + p - 1, j + q - 1]
    return out


def convolved_back(upper: Array, weight: Array) -> Array:
    """Gradient with respect to a convolution's input, from that with respect to its output."""
    _, height, width = upper.shape
    lower = np.zeros((weight.shape[1], height, width))
    for o in range(len(weight)):
        for c, i, j, p, q in taps(weight, height, width):
            lower[c, i + p - 1, j + q - 1] += weight[o, c, p, q] * upper[o, i, j]
    return lower


def taps(weight: Array, height: int, width: int) -> list[tuple[int, int, int, int, int]]:
    """Channel, place and tap wherever the tap meets the image."""
    return [
        (c, i, j, p, q)
        for c in range(weight.shape[1])
        for i in range(height)
        for j in range(width)
        for p in range(3)
        for q in range(3)
        if 0 <= i + p - 1 < height and 0 <= j + q - 1 < width
    ]


def guided(image: Array, w: PlainWeights, category: int) -> Array:
    """Guided backpropagation through convolution, ReLU, convolution, ReLU, mean over places, linear head."""
    first = convolved(image, w.first, w.first_bias)
    second = convolved(np.maximum(first, 0), w.second, w.second_bias)
    places = second.shape[1] * second.shape[2]
    gradient = np.array([np.full(second.shape[1:], weight / places) for weight in w.head[category]])
    gradient = guided_relu_back(second, gradient)
    gradient = guided_relu_back(first, convolved_back(gradient, w.second))
    return convolved_back(gradient, w.first)


def guided_relu_back(x: Array, gradient: Array) -> Array:
    """Through where the ReLU was open and the gradient is positive."""
    out = np.zeros_like(x)
    for place in np.ndindex(*x.shape):
        if x[place] > 0 and gradient[place] > 0:
            out[place] = gradient[place]
    return out


def guided_gradcam(gradient: Array, m: Array) -> Array:
    """Guided gradient (3, H, W) times the rectified, resized Grad-CAM map (h, w)."""
    return gradient * resize(np.maximum(m, 0), gradient.shape[1:])
