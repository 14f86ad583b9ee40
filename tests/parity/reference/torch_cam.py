"""torchcam 0.5.0, signed and unscaled, on noise that is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.parity.reference.grad_cam import Layout, restored

CLASSES = {"GradCAM++": "GradCAMpp", "Smooth Grad-CAM++": "SmoothGradCAMpp", "SS-CAM": "SSCAM", "IS-CAM": "ISCAM"}


class Dealt:
    """Stands in for a distribution: deals out given samples, each broadcast to the size that is asked for."""

    def __init__(self, noise: Tensor) -> None:
        self.noise = iter(noise)

    def sample(self, size: Sequence[int]) -> Tensor:
        return next(self.noise).expand(*size)


def torchcam_raw(
    model: nn.Module,
    images: Tensor,
    method: str,
    layer: str,
    targets: Sequence[int],
    *,
    layout: Layout | None = None,
    noise: Tensor | None = None,
    **options: Any,
) -> NDArray[Any]:
    """Signed map at the layer's own resolution, ``(B, h, w)``; ``options`` go to the method's class.

    ``noise`` (samples, ...) is broadcast to the masks (B, C, H, W) of SSCAM, to the images of SmoothGradCAMpp.
    """
    import torchcam.methods

    if noise is not None:
        options["num_samples"] = len(noise)
    build = getattr(torchcam.methods, CLASSES.get(method, method))
    with restored(model), build(model, layer, reshape_transform=layout, **options) as cam:
        model.eval()
        cam._relu = False
        if noise is not None:
            cam._distrib = Dealt(noise)
        scores = model(images)
        maps = cam(list(targets), scores, normalized=False)[0].detach().numpy().copy()
    return np.asarray(maps)


def torchcam_refine(
    model: nn.Module,
    images: Tensor,
    layers: Sequence[str],
    targets: Sequence[int],
    *,
    base: str = "GradCAM++",
    layout: Layout | None = None,
) -> NDArray[Any]:
    """RefineCAM's finished maps, ``(B, H, W)``."""
    import torchcam.methods

    method = getattr(torchcam.methods, CLASSES.get(base, base))
    with (
        restored(model),
        torchcam.methods.RefineCAM(model, list(layers), base_method=method, reshape_transform=layout) as cam,
    ):
        model.eval()
        maps = cam(list(targets), model(images), target_shape=tuple(images.shape[2:]))[0]
    return np.asarray(maps.detach().numpy())


def torchcam_finer(
    model: nn.Module,
    images: Tensor,
    layer: str,
    targets: Sequence[int],
    *,
    comparisons: Sequence[Sequence[int]] | None = None,
    gamma: float = 0.6,
    num_references: int = 3,
    base: str = "GradCAM",
    layout: Layout | None = None,
) -> NDArray[Any]:
    """FinerCAM's signed maps at the layer's own resolution, ``(B, h, w)``; ``comparisons`` are classes per image."""
    import torchcam.methods

    method = getattr(torchcam.methods, CLASSES.get(base, base))
    finer = torchcam.methods.FinerCAM(
        model, layer, base_method=method, gamma=gamma, num_references=num_references, reshape_transform=layout
    )
    rows = None if comparisons is None else [list(row) for row in comparisons]
    with restored(model), finer as cam:
        model.eval()
        cam.base_cam._relu = False
        maps = cam(list(targets), model(images), rows, normalized=False)[0]
    return np.asarray(maps.detach().numpy())


def torchcam_legrad(
    model: nn.Module,
    images: Tensor,
    blocks: Sequence[str],
    targets: Sequence[int],
    *,
    score: Callable[[Tensor], Tensor] | None = None,
    extra_tokens: int = 1,
    grid: tuple[int, int] | None = None,
) -> NDArray[Any]:
    """LeGrad at the grid's resolution, ``(B, h, w)``, of blocks like torchvision's (``self_attention``).

    ``score`` makes logits of a block's tokens; without it, torchvision's norm and heads of the tokens' mean.
    """
    from camkit.models.torchvision_shim import ensure_torchvision

    ensure_torchvision()
    from torchcam.methods import LeGrad

    extractor = LeGrad(model, list(blocks), score_projection=score, prefix_tokens=extra_tokens, grid_shape=grid)
    with restored(model), extractor as cam:
        model.eval()
        with torch.enable_grad():
            model(images)
        maps = cam(list(targets), normalized=False)[0]
    return np.asarray(maps.detach().numpy())
