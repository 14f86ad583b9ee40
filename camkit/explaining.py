"""Explain images with several methods at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from camkit.cam import CAM
from camkit.explanation import Explanation
from camkit.methods import Method, find_methods
from camkit.smoothing import AugSmooth, EigenSmooth
from camkit.typing import Images, Layers, Output, Progress, ReshapeTransform, Targets


def explain(
    model: nn.Module,
    images: Images,
    methods: str | Method | Sequence[str | Method],
    targets: Targets = None,
    target_layers: Layers = None,
    *,
    eigen_smooth: bool = False,
    aug_smooth: bool = False,
    num_extra_tokens: int | None = None,
    reshape_transform: ReshapeTransform | None = None,
    output: Output = None,
    forward_kwargs: Mapping[str, Any] | None = None,
    image_argument: str | None = None,
    batch_size: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> dict[str, Explanation]:
    """Explain images with several methods that share one forward, and backwards where they can.

    Args:
        model: see :class:`camkit.CAM`, as for the arguments not named here.
        images: (B, C, H, W) or (B, C, D, H, W), floating point, normalised as the model takes them.
        methods: names from :data:`camkit.METHODS`, in any case, or ``METHODS[name].configured(...)``.
        targets: see :meth:`camkit.CAM.__call__`.
        target_layers: dotted names or modules; None for the default layer.
        eigen_smooth: wrap in :class:`camkit.EigenSmooth`.
        aug_smooth: wrap in :class:`camkit.AugSmooth`.
        num_extra_tokens: see :class:`camkit.CAM`.
        reshape_transform: see :class:`camkit.CAM`.
        output: see :class:`camkit.CAM`.
        forward_kwargs: see :class:`camkit.CAM`.
        image_argument: see :class:`camkit.CAM`.
        batch_size: see :class:`camkit.CAM`.
        progress: see :class:`camkit.CAM`.
        **options: of the methods; each goes to those that have it.

    Returns:
        The method's name to its explanation, in the order asked for.

    Raises:
        UsageError: no method, one that doesn't exist or is named twice; and what :class:`camkit.CAM` raises.

    Warns:
        EmptyMapWarning: a map is zero everywhere.
        OutputWarning: see :meth:`camkit.CAM.explain`.

    Example:
        >>> found = camkit.explain(model, images, ["GradCAM", "LayerCAM"], targets=3)
        >>> found["LayerCAM"].maps.shape
        torch.Size([2, 1, 32, 32])
    """
    wanted = find_methods(methods, options)
    cam: CAM = CAM(
        model,
        target_layers=target_layers,
        num_extra_tokens=num_extra_tokens,
        reshape_transform=reshape_transform,
        output=output,
        forward_kwargs=forward_kwargs,
        image_argument=image_argument,
        batch_size=batch_size,
        progress=progress,
    )
    cam = AugSmooth(EigenSmooth(cam, enabled=eigen_smooth), enabled=aug_smooth)
    found = cam.compute(cam.network.prepare(images), targets, wanted)
    for explanation in found:
        explanation.warn(stacklevel=2)
    return {method.name: explanation for method, explanation in zip(wanted, found, strict=True)}
