"""What users pass to metrics, checked: maps, images, a network, targets, regions, a way to explain."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from camkit.cam import CAM
from camkit.engine.network import Network
from camkit.engine.scores import target_rows
from camkit.errors import UsageError
from camkit.explanation import Explanation
from camkit.metrics.responses import PROBABILITIES
from camkit.metrics.trial import Explainer
from camkit.models.classifier import Classifier
from camkit.typing import Progress

SLACK = 1e-6
"""What maps in [0, 1] may lie outside of it, by rounding."""
EXPLAINED = 16
"""How many images are explained again at a time where no batch size is given."""


@dataclass(frozen=True, eq=False)
class Subject:
    """The network that is asked.

    Attributes:
        network: how it is called.
        probability: one of :data:`camkit.metrics.responses.PROBABILITIES`.
        cam: the CAM that was given in its place.
    """

    network: Network
    probability: str
    cam: CAM | None = None


def read_model(model: Any, probability: str | None, batch_size: int | None, progress: Progress | None) -> Subject:
    """The network in a model, a :class:`camkit.models.classifier.Classifier` or a CAM.

    Raises:
        UsageError: something else, no such probability, or a batch size that is none.
    """
    if probability is not None and probability not in PROBABILITIES:
        raise UsageError(f"probability is one of {', '.join(PROBABILITIES)}, or None; got {probability!r}")
    if isinstance(model, CAM):
        network = Network(model.model, batch_size=batch_size, progress=progress)
        own = copy(model.network)
        own.batch_size = network.batch_size or own.batch_size
        own.progress = network.progress or own.progress
        return Subject(own, probability or "softmax", model)
    if isinstance(model, Classifier):
        network = Network(model.model, output=model.output, batch_size=batch_size, progress=progress)
        return Subject(network, probability or model.activation)
    return Subject(Network(model, batch_size=batch_size, progress=progress), probability or "softmax")


def read_maps(given: Any, of: str = "") -> Tensor:
    """Maps as (B, T, H, W) float64 on the CPU.

    Args:
        given: a tensor or an array (B, H, W) or (B, T, H, W), a list of maps of one size, or an explanation.
        of: the method's name, for messages.

    Raises:
        UsageError: something else, no maps, or NaN or infinity among them.
    """
    found = given.maps if isinstance(given, Explanation) else given
    if isinstance(given, Explanation) and given.maps.ndim != 4:
        raise UsageError(
            f"metrics take maps of images, {_maps(of)} are of {'signals' if given.maps.ndim == 3 else 'volumes'}, "
            f"{tuple(given.maps.shape)}"
        )
    if isinstance(found, Sequence) and not isinstance(found, str) and all(isinstance(each, Tensor) for each in found):
        sizes = {tuple(each.shape) for each in found}
        if len(sizes) != 1:
            raise UsageError(f"{_maps(of)} have several sizes, or there are none: {sorted(sizes)}")
        found = torch.stack(list(found))
    if isinstance(found, Tensor):
        made = found.detach().cpu().double()
    else:
        try:
            made = torch.from_numpy(np.array(found, dtype=np.float64))
        except (TypeError, ValueError):
            raise UsageError(
                f"{_maps(of)} must be a tensor or an array (B, H, W) or (B, T, H, W), or an Explanation; got "
                f"{type(given).__name__}"
            ) from None
    if made.ndim not in (3, 4) or 0 in made.shape:
        hint = ": add the batch dimension, maps[None]" if made.ndim == 2 else ""
        raise UsageError(f"{_maps(of)} must be (B, H, W) or (B, T, H, W), got {tuple(made.shape)}{hint}")
    if not made.isfinite().all():
        bad = (~made.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
        raise UsageError(f"{_maps(of)} of image {', '.join(map(str, bad[:6]))} hold NaN or infinity")
    return made[:, None] if made.ndim == 3 else made


def fit(maps: Tensor, size: Sequence[int], of: str = "", *, resize: bool, to: str = "images") -> Tensor:
    """Maps (B, T, H, W) at the size of the images, or of what ``to`` names, bilinearly resized where that is asked for.

    Raises:
        UsageError: they are of another size, and it isn't.
    """
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    if not resize:
        raise UsageError(
            f"{_maps(of)} are {maps.shape[2]} x {maps.shape[3]}, the {to} {size[0]} x {size[1]}: pass resize=True "
            "to resize the maps bilinearly"
        )
    return functional.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)


def require_unit(maps: Tensor, metrics: Sequence[str], of: str = "") -> None:
    """Check that maps lie in [0, 1].

    Raises:
        UsageError: they don't.
    """
    low, high = float(maps.min()), float(maps.max())
    if low < -SLACK or high > 1 + SLACK:
        verb = "takes" if len(metrics) == 1 else "take"
        raise UsageError(
            f"{', '.join(metrics)} {verb} maps in [0, 1], {_maps(of)} go from {low:.4g} to {high:.4g}: rectify or "
            "scale them first"
        )


def read_images(images: Any, network: Network | None, count: int) -> Tensor:
    """Images (B, C, H, W), as many as there are maps, on the network's device and of its dtype.

    Raises:
        UsageError: something else.
    """
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point():
        got = f"{tuple(images.shape)} {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
        raise UsageError(f"images must be normalised floats (B, C, H, W), got {got}")
    if len(images) != count:
        raise UsageError(f"{count} maps for {len(images)} images: one map per image, or (B, T, H, W)")
    if not images.isfinite().all():
        raise UsageError("the images hold NaN or infinity")
    return images.detach() if network is None else network.prepare(images).detach()


def read_targets(targets: Any, batch: int, count: int) -> Tensor | None:
    """Class indices (B, T) on the CPU; None for each image's own top class.

    Raises:
        UsageError: no class indices, or another number of them than of maps.
    """
    rows = target_rows(targets, batch)
    if rows is None and count > 1:
        raise UsageError(f"{count} maps per image: pass targets, a list of {count} classes per image")
    if rows is None:
        return None
    made = rows.cpu() if isinstance(rows, Tensor) else rows
    if not isinstance(made, Tensor):
        if not isinstance(made, list) or not all(isinstance(each, int) for row in made for each in row):
            raise UsageError(f"metrics ask for classes' probabilities: targets are class indices, got {targets!r}")
        made = torch.tensor(made)
    if made.shape[1] != count:
        raise UsageError(f"{made.shape[1]} targets per image for {count} map{'s' * (count != 1)} per image")
    return made


def read_regions(regions: Any, batch: int, count: int, size: Sequence[int]) -> Tensor:
    """Where the objects are, (B * T, H, W) bool.

    Raises:
        UsageError: something else, another number or size, or a region that is empty.
    """
    made = _masks(regions)
    shapes = [(batch, *size), (batch, count, *size)]
    if tuple(made.shape) not in shapes:
        raise UsageError(
            f"regions must be {shapes[0]}, a mask per image, or {shapes[1]}, one per map; got {tuple(made.shape)}"
        )
    if made.dtype != torch.bool:
        if not ((made == 0) | (made == 1)).all():
            raise UsageError("regions must be True or 1 inside and False or 0 outside")
        made = made.bool()
    made = made[:, None].expand(shapes[1]) if made.ndim == 3 else made
    empty = (~made.flatten(2).any(2)).any(1).nonzero().flatten().tolist()
    if empty:
        raise UsageError(f"the region of image {', '.join(map(str, empty[:6]))} is empty")
    return made.flatten(0, 1)


def region_size(regions: Any) -> tuple[int, ...]:
    """Height and width of regions.

    Raises:
        UsageError: something else.
    """
    return tuple(_masks(regions).shape[-2:])


def read_explainer(given: Any, batch_size: int | None, of: str = "", count: int = 1) -> Explainer:
    """A way to explain, from images (N, C, H, W) and targets (N,) to maps (N, H, W) float64 on the CPU.

    Args:
        given: a CAM, or a function.
        batch_size: how many images are explained at a time; None for :data:`EXPLAINED`. Networks that take whole
            batches alone get each of an image's targets in a batch of its own.
        of: the method's name, for messages.
        count: how many maps an image has, side by side.

    Raises:
        UsageError: neither a CAM nor a function.
    """
    if isinstance(given, CAM):
        cam = given

        def call(images: Tensor, targets: Tensor) -> Any:
            return cam.compute(cam.network.prepare(images), targets.tolist())[0].maps[:, 0]

        whole = cam.network.takes_whole_batches
    elif callable(given):
        call, whole = given, False
    else:
        raise UsageError(f"explain is a CAM, or a function of (images, targets); got {type(given).__name__}")

    def explain(images: Tensor, targets: Tensor) -> Tensor:
        size = len(images) if whole else batch_size or EXPLAINED
        # Of whole batches, the images with each one's first map, then with its second, ...
        rows = [slice(first, None, count) for first in range(count)] if whole else [slice(None)]
        pairs = [
            pair
            for each in rows
            for pair in zip(torch.split(images[each], size), torch.split(targets[each], size), strict=True)
        ]
        made = []
        for part, own in pairs:
            maps = read_maps(call(part.clone(), own), of)  # a copy: some networks write to their input
            if maps.shape != (len(part), 1, *part.shape[2:]):
                raise UsageError(
                    f"explain must return maps {(len(part), *part.shape[2:])} of {len(part)} images, got "
                    f"{tuple(maps.shape)}"
                )
            made.append(maps[:, 0])
        return torch.stack(made, 1).flatten(0, 1) if whole else torch.cat(made)

    return explain


def _masks(regions: Any) -> Tensor:
    try:
        made = torch.as_tensor(regions).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        raise UsageError(f"regions must be a tensor (B, H, W) of bool, got {type(regions).__name__}") from None
    if made.ndim not in (3, 4):
        raise UsageError(f"regions must be (B, H, W) or (B, T, H, W), got {tuple(made.shape)}")
    return made


def _maps(of: str) -> str:
    return f"the maps of {of}" if of else "the maps"
