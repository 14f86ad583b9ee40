"""grad-cam 1.5.7, asked the right way: it is what camkit's maps are compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

FloatArray = NDArray[np.float32]
Layout = Callable[[Tensor], Tensor]

# camkit's names, and the reference's where they differ.
CLASSES = {"GradCAM++": "GradCAMPlusPlus"}

# Every module of the reference that the six methods take their principal component from.
PROJECTING = ("base_cam", "eigen_cam", "eigen_grad_cam", "layer_cam")


def reference_maps(
    model: nn.Module,
    images: Tensor,
    method: str,
    layers: Sequence[str],
    targets: Sequence[int] | None,
    *,
    layout: Layout | None,
    eigen_smooth: bool = False,
    aug_smooth: bool = False,
) -> FloatArray:
    """The reference's finished maps, ``(B, H, W)`` in [0, 1]; layers in the order in which they run."""
    with _running(model, method, layers, layout) as cam:
        maps: FloatArray = cam(images, _category(targets), aug_smooth=aug_smooth, eigen_smooth=eigen_smooth)
    return maps


def reference_raw(
    model: nn.Module,
    images: Tensor,
    method: str,
    layer: str,
    targets: Sequence[int] | None,
    *,
    layout: Layout | None,
    eigen_smooth: bool = False,
) -> FloatArray:
    """The reference's signed map at the layer's own resolution, ``(B, h, w)``."""
    with _running(model, method, [layer], layout) as cam:
        cam(images, _category(targets))
        kept = cam.activations_and_grads
        gradients = kept.gradients[0].numpy() if kept.gradients else None
        raw = cam.get_cam_image(
            images, cam.target_layers[0], None, kept.activations[0].numpy(), gradients, eigen_smooth
        )
    return np.asarray(raw, dtype=np.float32)


def cloning(num_extra_tokens: int = 0) -> Layout:
    """A ``reshape_transform`` that copies, so that no in-place op behind the layer reaches what was kept."""

    def layout(output: Tensor) -> Tensor:
        if output.ndim == 3:
            tokens = output[:, num_extra_tokens:]
            side = round(tokens.shape[1] ** 0.5)
            output = tokens.reshape(tokens.shape[0], side, side, -1).permute(0, 3, 1, 2)
        return output.clone()

    return layout


@contextmanager
def energy_sign() -> Iterator[None]:
    """Let the reference's principal components point where the layer has energy; LAPACK's sign is arbitrary.

    Its thin SVD yields the same first vector as the full one, in a fraction of the time.
    """
    with ExitStack() as stack:
        for module in PROJECTING:
            stack.enter_context(patch(f"pytorch_grad_cam.{module}.get_2d_projection", energy_projection))
        yield


def energy_projection(batch: FloatArray) -> FloatArray:
    """``get_2d_projection`` line by line, but for the sign."""
    return np.stack([_energy_projection(activations) for activations in batch])


def _energy_projection(activations: FloatArray) -> FloatArray:
    rows = activations.reshape(activations.shape[0], -1).T
    centred = rows - rows.mean(axis=0)
    projection = centred @ np.linalg.svd(centred, full_matrices=False)[2][0]
    energy = (rows.astype(np.float64) ** 2).sum(axis=1)
    if energy @ projection < 0:
        projection = -projection
    return np.asarray(projection.reshape(activations.shape[1:]), dtype=np.float32)


@contextmanager
def _running(model: nn.Module, method: str, layers: Sequence[str], layout: Layout | None) -> Iterator[Any]:
    import pytorch_grad_cam

    build = getattr(pytorch_grad_cam, CLASSES.get(method, method))
    cam = build(model=model, target_layers=[model.get_submodule(name) for name in layers], reshape_transform=layout)
    try:
        yield cam
    finally:
        cam.activations_and_grads.release()
        model.zero_grad(set_to_none=True)  # the reference leaves gradients on every parameter


def _category(targets: Sequence[int] | None) -> list[Any] | None:
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    return None if targets is None else [ClassifierOutputTarget(target) for target in targets]
