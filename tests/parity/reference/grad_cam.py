"""grad-cam 1.5.7."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from io import StringIO
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

FloatArray = NDArray[np.float32]
Layout = Callable[[Tensor], Tensor]
# A class index, or a function of one image's outputs.
Target = int | Callable[[Tensor], Tensor]

# camkit's names, and the reference's where they differ.
CLASSES = {"GradCAM++": "GradCAMPlusPlus", "KPCA-CAM": "KPCA_CAM"}

# Every module of the reference that takes a principal component from `get_2d_projection`.
PROJECTING = ("base_cam", "eigen_cam", "eigen_grad_cam", "layer_cam", "hirescam", "grad_cam_elementwise")


def reference_maps(
    model: nn.Module,
    images: Tensor,
    method: str,
    layers: Sequence[str],
    targets: Sequence[Target] | None,
    *,
    layout: Layout | None,
    eigen_smooth: bool = False,
    aug_smooth: bool = False,
    **options: Any,
) -> FloatArray:
    """The reference's finished maps, ``(B, H, W)`` in [0, 1]; layers in the order in which they run.

    ``options`` go to the method's class. FullGrad takes no layers. AblationCAM of tokens needs
    ``ablation_layer=token_ablation()``, RandomCAM ``random_weights`` around it.
    """
    with running(model, method, layers, layout, **options) as cam:
        maps: FloatArray = cam(images, _category(targets), aug_smooth=aug_smooth, eigen_smooth=eigen_smooth)
    return maps


def reference_raw(
    model: nn.Module,
    images: Tensor,
    method: str,
    layer: str | None,
    targets: Sequence[Target] | None,
    *,
    layout: Layout | None,
    eigen_smooth: bool = False,
    **options: Any,
) -> FloatArray:
    """The reference's signed map at the layer's own resolution, ``(B, h, w)``; FullGrad's sum at the input's."""
    with running(model, method, [] if layer is None else [layer], layout, **options) as cam:
        source = "compute_cam_per_layer" if method == "FullGrad" else "get_cam_image"
        raw = _recorded(cam, source, lambda: cam(images, _category(targets), eigen_smooth=eigen_smooth))
    return _like(images, raw[:, 0] if method == "FullGrad" else raw)


def reference_finer(
    model: nn.Module,
    images: Tensor,
    layers: Sequence[str],
    *,
    target_idx: int | None,
    alpha: float = 1.0,
    ranks: Sequence[int] | None = None,
    base: str = "GradCAM",
    layout: Layout | None,
) -> tuple[FloatArray, FloatArray]:
    """FinerCAM's finished maps ``(B, H, W)`` and the last layer's signed ones.

    ``ranks`` is what the package calls comparison categories: places in the order of nearness to the target's logit.
    """
    from pytorch_grad_cam import FinerCAM

    with restored(model), quiet():
        cam = FinerCAM(model, _modules(model, layers), layout, base_method=_class(base))
        with cam.base_cam:
            finished: list[FloatArray] = []
            raw = _recorded(
                cam.base_cam,
                "get_cam_image",
                lambda: finished.append(
                    cam(images, alpha=alpha, comparison_categories=ranks, target_idx=target_idx),
                ),
            )
    return finished[0], _like(images, raw)


def reference_refine(
    model: nn.Module,
    images: Tensor,
    layers: Sequence[str],
    targets: Sequence[Target] | None,
    *,
    base: str = "GradCAM++",
    layout: Layout | None,
) -> FloatArray:
    """RefineCAM's finished maps, ``(B, H, W)``."""
    from pytorch_grad_cam import RefineCAM

    with restored(model), quiet(), ExitStack() as stack:
        cam = RefineCAM(model, _modules(model, layers), layout, base_method=_class(base))
        for each in cam.base_cam_per_layer:
            stack.enter_context(each)
        maps: FloatArray = cam(images, _category(targets))
    return maps


def reference_concepts(
    model: nn.Module, images: Tensor, layer: str, components: int, *, layout: Layout | None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Deep Feature Factorization: concepts ``(C, K)``, maps ``(B, K, h, w)``, finished maps ``(B, K, H, W)``."""
    from pytorch_grad_cam.feature_factorization import deep_feature_factorization as module

    with restored(model), quiet(), torch.no_grad():
        cam = module.DeepFeatureFactorization(model, model.get_submodule(layer), layout)
        try:
            with patch.object(module, "dff", wraps=module.dff) as factorize:
                concepts, finished = cam(images, components)
            maps = module.dff(*factorize.call_args.args, **factorize.call_args.kwargs)[1]
        finally:
            cam.activations_and_grads.release()
    return concepts, maps, np.stack(finished)


def factorization_start(matrix: NDArray[Any], components: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Where scikit-learn's NMF sets out from with ``init="random", random_state=0``: W (C, K) and H (K, B * S)."""
    from sklearn.decomposition._nmf import _initialize_nmf

    w, h = _initialize_nmf(matrix, components, init="random", random_state=0)
    return w, h


def reference_guided(model: nn.Module, images: Tensor, targets: Sequence[int]) -> FloatArray:
    """Guided backpropagation, ``(B, 3, H, W)``; the package explains the first image of a batch alone."""
    from pytorch_grad_cam import GuidedBackpropReLUModel

    made = []
    for image, target in zip(images, targets, strict=True):
        with restored(model):
            gradient = GuidedBackpropReLUModel(model)(image[None].detach().clone(), target)
        made.append(gradient.transpose(2, 0, 1))
    return np.stack(made)


def token_ablation() -> Any:
    """AblationCAM's ``ablation_layer`` where the layer's output is (B, N, C)."""
    from pytorch_grad_cam import AblationLayerVit

    return AblationLayerVit()


@contextmanager
def random_weights(weights: NDArray[Any]) -> Iterator[None]:
    """Let RandomCAM draw these ``(B, C)``."""

    def draw(low: float, high: float, size: tuple[int, ...]) -> NDArray[Any]:
        assert (low, high) == (-1, 1)
        return weights.reshape(size)

    with patch("numpy.random.uniform", draw):
        yield


@contextmanager
def half_pixel_upsampling() -> Iterator[None]:
    """Let ScoreCAM's masks be resized as everything else is: ``UpsamplingBilinear2d`` aligns corners."""

    def upsampling(size: Sequence[int]) -> nn.Module:
        return nn.Upsample(size=tuple(size), mode="bilinear", align_corners=False)

    with patch("torch.nn.UpsamplingBilinear2d", upsampling):
        yield


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
        stack.enter_context(patch("pytorch_grad_cam.kpca_cam.get_2d_projection_kernel", energy_kernel_projection))
        yield


def energy_kernel_projection(batch: FloatArray, kernel: str, gamma: float | None) -> FloatArray:
    """``get_2d_projection_kernel``, whose sign is scikit-learn's, turned to where the layer has energy."""
    from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection_kernel

    projections: FloatArray = get_2d_projection_kernel(batch, kernel, gamma)
    energies = (batch.astype(np.float64) ** 2).sum(axis=1)
    for projection, energy in zip(projections, energies, strict=True):
        if (projection * energy).sum() < 0:
            projection *= -1
    return projections


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
def restored(model: nn.Module) -> Iterator[None]:
    """Children, training flags and gradients as they were, or None, once the reference is through with ``model``."""
    children = [(module, dict(module._modules), module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, named, training in children:
            module._modules.update(named)
            module.training = training
        model.zero_grad(set_to_none=True)  # the reference leaves gradients on every parameter


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, no prints, and no word on an NMF that used up its sweeps."""
    with patch("tqdm.tqdm", iter), redirect_stdout(StringIO()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Maximum number of iterations")
        yield


@contextmanager
def running(
    model: nn.Module, method: str, layers: Sequence[str], layout: Layout | None, **options: Any
) -> Iterator[Any]:
    """The package's CAM, for as long as its hooks are to be in the model."""
    if method == "AblationCAM":
        from pytorch_grad_cam import AblationLayer

        options = {"ablation_layer": AblationLayer(), **options}  # the default is one object for all time
    with restored(model), quiet():
        cam = _class(method)(model, _modules(model, layers), reshape_transform=layout, **options)
        try:
            yield cam
        finally:
            cam.activations_and_grads.release()


def _class(method: str) -> Any:
    import pytorch_grad_cam

    return getattr(pytorch_grad_cam, CLASSES.get(method, method))


def _modules(model: nn.Module, layers: Sequence[str]) -> list[nn.Module]:
    return [model.get_submodule(name) for name in layers]


def _recorded(owner: Any, name: str, run: Callable[[], Any]) -> Any:
    """What ``owner``'s method ``name`` returned the last time that ``run`` called it."""
    returned: list[Any] = []
    compute = getattr(owner, name)

    def keep(*args: Any, **kwargs: Any) -> Any:
        returned.append(compute(*args, **kwargs))
        return returned[-1]

    with patch.object(owner, name, keep):
        run()
    return returned[-1].copy()


def _like(images: Tensor, raw: Any) -> Any:
    """In the images' precision: a few methods' masks and weights are float64 whatever the network is."""
    return np.asarray(raw, dtype=np.float64 if images.dtype == torch.float64 else np.float32)


def _category(targets: Sequence[Target] | None) -> list[Any] | None:
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    if targets is None:
        return None
    return [target if callable(target) else ClassifierOutputTarget(target) for target in targets]
