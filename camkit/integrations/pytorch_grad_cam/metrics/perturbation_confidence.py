"""How much scores change where images are changed by their maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from camkit.errors import UsageError
from camkit.integrations.pytorch_grad_cam.running import outputs_of

Maps = NDArray[Any] | Sequence[NDArray[Any]]
Scored = Sequence[Callable[[Any], Tensor]]
Perturbation = Callable[[Tensor, Tensor], Tensor]
"""From an image (C, H, W) and its map (H, W), both on the CPU, to the changed image."""

EVERY_TENTH = (10, 20, 30, 40, 50, 60, 70, 80, 90)


class PerturbationConfidenceMetric:
    """The change of each target's score when the images are changed by their maps.

    Args:
        perturbation: changes an image.
    """

    def __init__(self, perturbation: Perturbation) -> None:
        self.perturbation = perturbation

    def __call__(
        self,
        input_tensor: Tensor,
        cams: Maps,
        targets: Scored,
        model: nn.Module,
        return_visualization: bool = False,  # noqa: FBT001
        return_diff: bool = True,  # noqa: FBT001
    ) -> Any:
        """Measure.

        Args:
            input_tensor: (B, C, H, W), normalised.
            cams: maps (B, H, W).
            targets: one function per image, from its row of the model's output to a score.
            model: the network; it runs in evaluation mode, and is left as it was.
            return_visualization: whether the changed images are returned too.
            return_diff: False for the scores of the changed images instead of the changes.

        Returns:
            (B,) float32; with the changed images (B, C, H, W) if asked for.

        Raises:
            UsageError: not a map and a target for each image, or maps of another size.
        """
        if not len(cams) == len(targets) == len(input_tensor):
            raise UsageError(f"{len(input_tensor)} images, {len(cams)} maps and {len(targets)} targets: one of each")
        changed = torch.stack([self._changed(*pair) for pair in zip(input_tensor, cams, strict=True)])
        scores = _scores(model, changed, targets)
        if return_diff:
            scores = scores - _scores(model, input_tensor, targets)
        return (scores, changed) if return_visualization else scores

    def _changed(self, image: Tensor, cam: NDArray[Any]) -> Tensor:
        heat = torch.from_numpy(np.ascontiguousarray(cam))
        if heat.shape != image.shape[1:]:
            raise UsageError(f"a map is {tuple(heat.shape)}, its image {tuple(image.shape[1:])}: resize one of them")
        return self.perturbation(image.detach().cpu(), heat).to(image)


class RemoveMostRelevantFirst:
    """Leave ``percentile`` per cent of the pixels, those where the map is lowest, and impute the others.

    Args:
        percentile: from 0 to 100, or ``"auto"`` for Otsu's threshold.
        imputer: from an image (C, H, W) and a mask (H, W), 0 where values are missing, to the image.

    Of equal values, those that come first in the picture are more relevant.
    """

    def __init__(self, percentile: float | str, imputer: Perturbation) -> None:
        if percentile != "auto" and not (isinstance(percentile, int | float) and 0 <= percentile <= 100):
            raise UsageError(f"percentile is from 0 to 100, or 'auto', got {percentile!r}")
        self.percentile = percentile
        self.imputer = imputer

    def __call__(self, input_tensor: Tensor, mask: Tensor) -> Tensor:
        """The changed image."""
        return self.imputer(input_tensor, self._left(mask))

    def _left(self, heat: Tensor) -> Tensor:
        """1 where pixels are left, (H, W) float32."""
        values = heat.double().flatten()
        if isinstance(self.percentile, str):
            from camkit.visualize.opencv import cv2

            grey = (heat.double().numpy() * 255).astype(np.uint8)
            _, high = cv2.threshold(grey, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
            return torch.from_numpy(1 - high).float()
        # As many as lie below the interpolated percentile where all values differ.
        left = int(np.ceil(round(self.percentile / 100 * (len(values) - 1), 9)))
        order = self._most_relevant_first(values)
        mask = torch.zeros(len(values))
        mask[order[len(values) - left :]] = 1
        return mask.reshape(heat.shape)

    def _most_relevant_first(self, values: Tensor) -> Tensor:
        return values.argsort(descending=True, stable=True)


class RemoveLeastRelevantFirst(RemoveMostRelevantFirst):
    """Leave ``percentile`` per cent of the pixels, those where the map is highest, and impute the others."""

    def _left(self, heat: Tensor) -> Tensor:
        return super()._left(1 - heat.double()) if isinstance(self.percentile, str) else super()._left(heat)

    def _most_relevant_first(self, values: Tensor) -> Tensor:
        return values.argsort(stable=True)


class AveragerAcrossThresholds:
    """The mean of a metric over percentiles.

    Args:
        imputer: from a percentile to the metric.
        percentiles: which.
    """

    def __init__(self, imputer: Callable[[float], Any], percentiles: Sequence[float] = EVERY_TENTH) -> None:
        if not len(percentiles):
            raise UsageError("percentiles is empty: name at least one")
        self.imputer = imputer
        self.percentiles = percentiles

    def __call__(self, input_tensor: Tensor, cams: Maps, targets: Scored, model: nn.Module) -> NDArray[np.float32]:
        """(B,) float32."""
        found = [self.imputer(each)(input_tensor, cams, targets, model) for each in self.percentiles]
        return np.asarray(np.mean(np.array(found), axis=0), dtype=np.float32)


def _scores(model: nn.Module, images: Tensor, targets: Scored) -> NDArray[np.float32]:
    rows = outputs_of(model, images)
    found = [target(row).cpu().numpy() for target, row in zip(targets, rows, strict=True)]
    return np.asarray(found, dtype=np.float32)
