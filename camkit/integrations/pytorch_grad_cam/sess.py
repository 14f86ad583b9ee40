"""SESS: any CAM of windows that slide over the image at several scales, put together again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from camkit.errors import UsageError
from camkit.integrations.pytorch_grad_cam.base_cam import BaseCAM
from camkit.integrations.pytorch_grad_cam.grad_cam import GradCAM
from camkit.integrations.pytorch_grad_cam.meta_cam import MetaCAM
from camkit.integrations.pytorch_grad_cam.running import Array, outputs_of
from camkit.integrations.pytorch_grad_cam.utils.image import scale_cam_image
from camkit.integrations.pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

BLUR = (11, 11), 5.0
"""Size and standard deviation, in pixels, of the blur of the fused map."""


class SESS(MetaCAM):
    """Saliency enhancing with scaling and sliding (Tursun et al. 2022) around any CAM of this package.

    The image is enlarged to several scales and cut into windows. Each window's map is weighted by the window's score
    and laid where the window was; the maps of all windows are fused.

    Args:
        model: the network; it takes windows of any number.
        target_layers: its modules.
        reshape_transform: the layout of their outputs.
        base_method: the class that makes the windows' maps.
        scales: lengths of the image's shorter side, none below the window's; None for ``num_scales`` of them from the
            window's length on, in steps of ``scale_step_ratio`` windows.
        num_scales: how many.
        scale_step_ratio: step between scales, in windows.
        window_size: side of a window; None for the image's shorter side.
        step_size: step between windows; None for a window's side. The last one in a row ends where the image ends.
        pre_filter_ratio: the share of windows, those that score least, that are left out; from 0 to below 1.
        theta: values up to this one don't take part in the mean.
        pool: ``"mean"`` or ``"max"``.
        smooth: whether the fused map is blurred.
        use_softmax_scores: whether a window's score is the target's of the softmax of the output; False takes it of the
            output as it is. Scores below 0 count as 0.
        batch_size: how many windows run at a time.
        **kwargs: of the base method.

    Raises:
        UsageError: a value outside of these ranges.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Any], Tensor] | None = None,
        base_method: type[BaseCAM] = GradCAM,
        scales: Sequence[int] | None = None,
        num_scales: int = 12,
        scale_step_ratio: float = 2 / 7,
        window_size: int | None = None,
        step_size: int | None = None,
        pre_filter_ratio: float = 0.0,
        theta: float = 0.0,
        pool: str = "mean",
        smooth: bool = True,  # noqa: FBT001
        use_softmax_scores: bool = True,  # noqa: FBT001
        batch_size: int = 32,
        **kwargs: Any,
    ) -> None:
        if pool not in ("mean", "max"):
            raise UsageError(f"pool is 'mean' or 'max', got {pool!r}")
        if not 0 <= pre_filter_ratio < 1:
            raise UsageError(f"pre_filter_ratio is a share from 0 to below 1, got {pre_filter_ratio}")
        if num_scales < 1 or batch_size < 1:
            raise UsageError(f"num_scales and batch_size are at least 1, got {num_scales} and {batch_size}")
        self.base_cam = base_method(model, target_layers, reshape_transform, **kwargs)
        self.model, self.device = self.base_cam.model, self.base_cam.device
        self.scales = scales
        self.num_scales = num_scales
        self.scale_step_ratio = scale_step_ratio
        self.window_size = window_size
        self.step_size = step_size
        self.pre_filter_ratio = pre_filter_ratio
        self.theta = theta
        self.pool = pool
        self.smooth = smooth
        self.use_softmax_scores = use_softmax_scores
        self.batch_size = batch_size

    def forward(
        self,
        input_tensor: Tensor,
        targets: Sequence[Callable[[Any], Tensor] | None] | None = None,
        eigen_smooth: bool = False,  # noqa: FBT001
    ) -> Array:
        """Maps (B, H, W), float32 in [0, 1], of images (B, C, H, W); one target per image, None for its top class.

        Raises:
            UsageError: another number of targets than images, or scales below the window's side.
        """
        images = input_tensor.detach().to(self.device)
        wanted = [None] * len(images) if targets is None else list(targets)
        if len(wanted) != len(images):
            raise UsageError(f"{len(wanted)} targets for {len(images)} images")
        pairs = zip(torch.split(images, 1), wanted, strict=True)
        return scale_cam_image(np.stack([self._enhanced(*pair, eigen_smooth=eigen_smooth) for pair in pairs]))

    def _enhanced(self, image: Tensor, target: Callable[[Any], Tensor] | None, *, eigen_smooth: bool) -> Array:
        """The map (H, W) of one image (1, C, H, W)."""
        if target is None:
            target = ClassifierOutputTarget(int(outputs_of(self.model, image)[0].argmax()))
        side = min(image.shape[2:]) if self.window_size is None else self.window_size
        windows = list(self._windows(image, side))
        scores = self._scores([window for window, *_ in windows], target)
        order = np.argsort(scores)[int(len(scores) * self.pre_filter_ratio) :]
        best = scores[order[-1]]
        weights = scores / best if best > 0 else np.ones_like(scores)
        fused = _Fused((image.shape[2], image.shape[3]), self.pool, self.theta)
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            batch = torch.cat([windows[each][0] for each in chosen])
            maps = self.base_cam(batch, [target] * len(chosen), eigen_smooth=eigen_smooth)
            for heat, each in zip(maps, chosen, strict=True):
                _, top, left, size = windows[each]
                canvas = torch.zeros(1, 1, *size)
                canvas[0, 0, top : top + side, left : left + side] = torch.from_numpy(heat * weights[each])
                fused.add(interpolate(canvas, image.shape[2:], mode="bilinear")[0, 0].numpy())
        if not self.smooth:
            return fused.result()
        from camkit.visualize.opencv import cv2

        return np.asarray(cv2.GaussianBlur(fused.result(), *BLUR), dtype=np.float32)

    def _windows(self, image: Tensor, side: int) -> Iterator[tuple[Tensor, int, int, tuple[int, int]]]:
        """Windows (1, C, side, side), their top and left, and the size of the image that they are of."""
        step = side if self.step_size is None else self.step_size
        grow = round(side * self.scale_step_ratio)
        scales = [side + grow * number for number in range(self.num_scales)] if self.scales is None else self.scales
        if min(scales) < side or step < 1:
            raise UsageError(f"scales are at least the window's side {side}, and steps 1; got {min(scales)} and {step}")
        height, width = image.shape[2:]
        for scale in scales:
            short = min(height, width)
            size = int(scale * height / short), int(scale * width / short)
            large = image if size == (height, width) else interpolate(image, size, mode="bilinear", antialias=True)
            for top in _starts(size[0], step, side):
                for left in _starts(size[1], step, side):
                    yield large[:, :, top : top + side, left : left + side], top, left, size

    def _scores(self, windows: Sequence[Tensor], target: Callable[[Any], Tensor]) -> Array:
        found = []
        for start in range(0, len(windows), self.batch_size):
            outputs = outputs_of(self.model, torch.cat(list(windows[start : start + self.batch_size])))
            found += [float(target(row)) for row in (outputs.softmax(-1) if self.use_softmax_scores else outputs)]
        return np.maximum(np.array(found, dtype=np.float32), 0)


class _Fused:
    """Maps of windows put together: their mean where they are above ``theta``, or their maximum."""

    def __init__(self, size: tuple[int, int], pool: str, theta: float) -> None:
        self._pool = pool
        self._theta = theta
        self._total = np.zeros(size, dtype=np.float32)
        self._count = np.zeros(size, dtype=np.float32)

    def add(self, heat: Array) -> None:
        """Add a map of the image's size."""
        if self._pool == "max":
            self._total = np.maximum(self._total, heat)
            return
        counts = heat > self._theta
        self._total += np.where(counts, heat, 0)
        self._count += counts

    def result(self) -> Array:
        """The fused map."""
        return self._total if self._pool == "max" else np.asarray(self._total / np.maximum(self._count, np.float32(1)))


def _starts(length: int, step: int, side: int) -> list[int]:
    """Where windows begin, so that the last one ends at the end."""
    return [*range(0, max(length - side, 0), step), max(length - side, 0)]
