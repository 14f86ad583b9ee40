"""Pictures of maps, and images as networks take them. Arrays are (H, W, 3) as the script has them, RGB or BGR."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from camkit.errors import UsageError
from camkit.methods.maps import normalise, resize

Array = NDArray[np.float32]
Picture = NDArray[np.uint8]

JET = 2
"""OpenCV's COLORMAP_JET, named without importing OpenCV."""
DEVIATION_EPS = 1e-5
"""Added to an image's standard deviation, which is zero where it is constant."""


def preprocess_image(
    img: Any, mean: Sequence[float] = (0.5, 0.5, 0.5), std: Sequence[float] = (0.5, 0.5, 0.5)
) -> Tensor:
    """Normalise one image for a network.

    Args:
        img: (H, W, C) or (H, W): floating point as it is, uint8 or a PIL image divided by 255.
        mean: by channel.
        std: by channel.

    Returns:
        (1, C, H, W), in the image's precision; float32 of uint8.

    Raises:
        UsageError: no image, or not as many numbers as channels.
    """
    array = np.array(img)
    if array.ndim not in (2, 3) or array.dtype.kind not in "fu":
        raise UsageError(f"an image is (H, W, C), floating point or uint8, got {array.dtype} {array.shape}")
    tensor = torch.from_numpy(array.reshape(*array.shape[:2], -1)).movedim(2, 0)
    tensor = tensor if tensor.is_floating_point() else tensor.float() / 255
    shift, scale = (torch.as_tensor(each, dtype=tensor.dtype).reshape(-1, 1, 1) for each in (mean, std))
    if {len(shift), len(scale)} - {1, len(tensor)}:
        raise UsageError(f"mean and std have {len(shift)} and {len(scale)} numbers, the image {len(tensor)} channels")
    return ((tensor - shift) / scale)[None].contiguous()


def deprocess_image(img: NDArray[Any]) -> Picture:
    """Make a uint8 picture of any numbers: centred at grey, with a standard deviation of a tenth of the range."""
    centred = (img - np.mean(img)) / (np.std(img) + DEVIATION_EPS)
    return np.asarray(np.clip(0.1 * centred + 0.5, 0, 1) * 255).astype(np.uint8)


def show_cam_on_image(
    img: NDArray[Any],
    mask: NDArray[Any],
    use_rgb: bool = False,  # noqa: FBT001
    colormap: int = JET,
    image_weight: float = 0.5,
) -> Picture:
    """Overlay a map on an image, scaled so that the brightest value is 255.

    Args:
        img: (H, W, 3) in [0, 1].
        mask: the map, (H, W) in [0, 1].
        use_rgb: whether the image is RGB; False for BGR.
        colormap: one of OpenCV's constants.
        image_weight: the image's share, 0 to 1.

    Returns:
        (H, W, 3) uint8, in the image's order.

    Raises:
        UsageError: values outside [0, 1], or a map of another size than the image.
    """
    from camkit.visualize.opencv import cv2

    image, heat = np.asarray(img), np.asarray(mask)
    if np.max(image) > 1:
        raise UsageError(f"the image must be floats in [0, 1], its largest value is {np.max(image):.4g}: divide by 255")
    if not 0 <= image_weight <= 1:
        raise UsageError(f"image_weight is the image's share, 0 to 1, got {image_weight}")
    if heat.ndim != 2 or heat.shape != image.shape[:2]:
        raise UsageError(f"the map is {heat.shape}, the image {image.shape[:2]}: take one map, or resize one of them")
    if not (255 * np.min(heat) > -1 and 255 * np.max(heat) < 256):  # what rounding adds changes no colour
        raise UsageError(f"the map must lie in [0, 1], got {np.min(heat):.3g} to {np.max(heat):.3g}")
    coloured = cv2.applyColorMap((255 * heat).astype(np.uint8), colormap)
    hot = np.asarray(coloured[:, :, ::-1] if use_rgb else coloured, dtype=np.float32) / 255
    mixed = (1 - image_weight) * hot + image_weight * image
    return (255 * (mixed / (np.max(mixed) or 1))).astype(np.uint8)


def scale_cam_image(cam: Any, target_size: Sequence[int] | None = None) -> Array:
    """Scale each map to [0, 1], then to a size, linearly.

    Args:
        cam: maps (B, *spatial).
        target_size: the width first: (W, H), or (W, H, D) for volumes; None leaves the size.

    Returns:
        (B, *size) float32.
    """
    given = np.asarray(cam)
    maps = normalise(torch.from_numpy(np.ascontiguousarray(given if given.dtype.kind == "f" else given.astype(float))))
    if target_size is not None:
        maps = resize(maps.float(), tuple(target_size)[::-1])
    return np.asarray(maps.numpy(), dtype=np.float32)


def scale_accross_batch_and_channels(tensor: NDArray[Any], target_size: Sequence[int]) -> Array:
    """Scale every channel (B, C, *spatial) as :func:`scale_cam_image` does a map."""
    scaled = scale_cam_image(tensor.reshape(-1, *tensor.shape[2:]), target_size)
    return scaled.reshape(*tensor.shape[:2], *scaled.shape[1:])


def create_labels_legend(concept_scores: NDArray[Any], labels: Mapping[int, str], top_k: int = 2) -> list[str]:
    """One text per concept: its ``top_k`` classes and their scores, a line each.

    Args:
        concept_scores: (concepts, classes).
        labels: class index to name; of several names with commas between them the first three.
        top_k: how many classes.
    """
    texts = []
    for scores in np.asarray(concept_scores):
        best = np.argsort(scores)[::-1][:top_k]
        names = [",".join(str(labels[int(each)]).split(",")[:3]) for each in best]
        texts.append("\n".join(f"{name}:{scores[each]:.2f}" for name, each in zip(names, best, strict=True)))
    return texts


def show_factorization_on_image(
    img: NDArray[Any],
    explanations: NDArray[Any],
    colors: Sequence[Any] | None = None,
    image_weight: float = 0.5,
    concept_labels: Sequence[str] | None = None,
) -> Picture:
    """Overlay the maps of several concepts, each in a colour of its own; the strongest map of a pixel gives the colour.

    Args:
        img: (H, W, 3) in [0, 1], RGB.
        explanations: maps (concepts, H, W) in [0, 1].
        colors: a colour (R, G, B) in [0, 1] per concept; None for a rainbow.
        image_weight: the image's share, 0 to 1.
        concept_labels: texts, for a legend of the picture's size beside it.

    Returns:
        (H, W, 3) uint8, (H, 2 W, 3) with a legend.

    Raises:
        UsageError: maps of another size than the image, or another number of colours or labels than of maps.
    """
    image, maps = np.asarray(img), np.asarray(explanations)
    if maps.ndim != 3 or maps.shape[1:] != image.shape[:2]:
        raise UsageError(f"the maps are {maps.shape}, the image {image.shape[:2]}: (concepts, H, W) is needed")
    for what, given in (("colours", colors), ("labels", concept_labels)):
        if given is not None and len(given) < len(maps):
            raise UsageError(f"{len(maps)} concepts need as many {what}, got {len(given)}")
    chosen = np.array([each[:3] for each in (_rainbow(len(maps)) if colors is None else colors)], dtype=np.float32)
    bright = chosen / np.maximum(chosen.max(axis=1, keepdims=True), 1e-7)
    hot = bright[maps.argmax(axis=0)] * maps.max(axis=0)[:, :, None]
    mixed = image_weight * image + (1 - image_weight) * hot
    picture: Picture = np.asarray(255 * np.clip(mixed, 0, 1)).astype(np.uint8)
    if concept_labels is None:
        return picture
    return np.hstack([picture, _legend(picture.shape[:2], chosen, concept_labels)])


def _rainbow(count: int) -> list[tuple[float, ...]]:
    from matplotlib import colormaps

    return [tuple(colormaps["gist_rainbow"](number / count)) for number in range(count)]


def _legend(size: tuple[int, int], colours: NDArray[np.float32], labels: Sequence[str]) -> Picture:
    """A legend as a picture (H, W, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from camkit.visualize.opencv import cv2

    height, width = size
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    lines = [Line2D([0], [0], color=tuple(colour), linewidth=5 * height / 256) for colour in colours[: len(labels)]]
    fontsize = max(1.0, 14 * height / 256 / max(1.0, len(labels) / 6))
    figure.legend(lines, list(labels), loc="center", fontsize=fontsize)
    canvas.draw()
    drawn = np.asarray(canvas.buffer_rgba())[:, :, :3]
    return np.asarray(cv2.resize(np.ascontiguousarray(drawn), (width, height)), dtype=np.uint8)
