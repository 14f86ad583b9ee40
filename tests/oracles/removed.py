"""Metrics that remove pixels, for one image: slow float64 loops, independent of camkit.

``p`` stands for a function from an image (C, H, W) to the class's probability, ``f`` for one to its score.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[Any]
Ask = Callable[[Image], float]


def ordered(heat: Image, *, highest_first: bool = True) -> list[tuple[int, int]]:
    """Pixels by value, equal ones row by row."""
    height, width = heat.shape
    pixels = [(y, x) for y in range(height) for x in range(width)]
    sign = -1 if highest_first else 1
    return sorted(pixels, key=lambda pixel: sign * heat[pixel])


def blurred(image: Image, size: int = 11, sigma: float = 5.0) -> Image:
    """By a Gaussian, zeros around the image."""
    channels, height, width = image.shape
    reach = size // 2
    weights = {
        (dy, dx): math.exp(-(dy * dy + dx * dx) / (2 * sigma**2))
        for dy in range(-reach, reach + 1)
        for dx in range(-reach, reach + 1)
    }
    total = sum(weights.values())
    made = np.zeros_like(image)
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                for (dy, dx), weight in weights.items():
                    if 0 <= y + dy < height and 0 <= x + dx < width:
                        made[c, y, x] += weight / total * image[c, y + dy, x + dx]
    return made


def replaced(p: Ask, start: Image, end: Image, heat: Image, step: int) -> list[float]:
    """The probability while pixels of one picture give way to those of another."""
    changing = start.copy()
    curve = [p(changing)]
    pixels = ordered(heat)
    for first in range(0, len(pixels), step):
        for y, x in pixels[first : first + step]:
            changing[:, y, x] = end[:, y, x]
        curve.append(p(changing))
    return curve


def area(curve: Sequence[float]) -> float:
    return (sum(curve) - curve[0] / 2 - curve[-1] / 2) / (len(curve) - 1)


def imputed(image: Image, missing: NDArray[Any]) -> Image:
    """Missing pixels as weighted means of their neighbours, by a dense system with a row for each."""
    channels, height, width = image.shape
    pixels = [(y, x) for y in range(height) for x in range(width) if missing[y, x]]
    number = {pixel: i for i, pixel in enumerate(pixels)}
    matrix, right = np.zeros((len(pixels), len(pixels))), np.zeros((len(pixels), channels))
    for (y, x), i in number.items():
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                if (dy, dx) == (0, 0) or not (0 <= y + dy < height and 0 <= x + dx < width):
                    continue
                weight = 1 / 12 if dy and dx else 1 / 6
                matrix[i, i] += weight
                if missing[y + dy, x + dx]:
                    matrix[i, number[y + dy, x + dx]] -= weight
                else:
                    right[i] += weight * image[:, y + dy, x + dx]
    made = image.copy()
    if pixels:
        for (y, x), values in zip(pixels, np.linalg.solve(matrix, right), strict=True):
            made[:, y, x] = values
    return made


def road(p: Ask, image: Image, heat: Image, percentage: int, noise: Image, *, highest_first: bool) -> float:
    """The probability without some of the pixels; ``noise`` (C, H, W) is added where they were."""
    missing = np.zeros(heat.shape, dtype=bool)
    for pixel in ordered(heat, highest_first=highest_first)[: round(heat.size * percentage / 100)]:
        missing[pixel] = True
    made = imputed(image, missing)
    made[:, missing] += noise[:, missing]
    return p(made)


def average_drop(p: Ask, image: Image, heat: Image) -> float:
    return max(0.0, p(image) - p(image * heat)) / p(image)


def average_gain(p: Ask, image: Image, heat: Image) -> float:
    return max(0.0, p(image * heat) - p(image)) / (1 - p(image))


def correlation(one: Image, other: Image) -> float:
    """Pearson's."""
    a, b = list(one.flat), list(other.flat)
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    together = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    return float(together / math.sqrt(sum((x - mean_a) ** 2 for x in a)) / math.sqrt(sum((y - mean_b) ** 2 for y in b)))


def adcc(p: Ask, image: Image, heat: Image, again: Image) -> float:
    """``again`` is the map of the masked image."""
    coherency = (correlation(heat, again) + 1) / 2
    complexity = sum(abs(value) for value in heat.flat) / heat.size
    return 3 / (1 / coherency + 1 / (1 - complexity) + 1 / (1 - average_drop(p, image, heat)))


def arcc(heat: Image, again: Image, combined: float) -> float:
    """``combined`` is ROADCombined over 20, 40, 60 and 80 %."""
    coherency = (correlation(heat, again) + 1) / 2
    complexity = sum(abs(value) for value in heat.flat) / heat.size
    road = min(1.0, max(0.0, 2 * combined))
    return 3 / (1 / (coherency + 1e-8) + 1 / (1 - complexity + 1e-8) + 1 / (road + 1e-8))
