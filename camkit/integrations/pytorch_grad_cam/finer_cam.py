"""FinerCAM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from camkit.errors import UsageError
from camkit.integrations.pytorch_grad_cam.base_cam import BaseCAM
from camkit.integrations.pytorch_grad_cam.grad_cam import GradCAM
from camkit.integrations.pytorch_grad_cam.meta_cam import MetaCAM
from camkit.integrations.pytorch_grad_cam.running import Array, as_targets
from camkit.methods import METHODS, Method
from camkit.methods.needs import GradientsNeed


class FinerCAM(MetaCAM):
    """Finer-CAM, see :class:`camkit.FinerCAM`: of the lead of a class over those that score most like it.

    Args:
        model: the network.
        target_layers: its modules.
        reshape_transform: the layout of their outputs.
        base_method: a class of this package whose method is made of activations and gradients.
        **others: of the base method.

    Raises:
        UsageError: a base method that needs something else.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module] | None,
        reshape_transform: Callable[[Any], Tensor] | None = None,
        base_method: type[BaseCAM] = GradCAM,
        **others: Any,
    ) -> None:
        self.base_cam = base_method(model, target_layers, reshape_transform, **others)
        if not self.base_cam.camkit_method or not isinstance(self.base_cam.method.need, GradientsNeed):
            raise UsageError(
                f"FinerCAM changes what is differentiated, and {base_method.__name__} doesn't differentiate scores "
                "alone: take GradCAM, GradCAMPlusPlus, XGradCAM, LayerCAM or HiResCAM as base_method"
            )
        self.compute_input_gradient = self.base_cam.compute_input_gradient
        self.uses_gradients = self.base_cam.uses_gradients

    def forward(
        self,
        input_tensor: Tensor,
        targets: Sequence[Callable[[Any], Tensor]] | None = None,
        eigen_smooth: bool = False,  # noqa: FBT001
        alpha: float = 1,
        comparison_categories: Sequence[int] | None = None,
        target_idx: int | None = None,
    ) -> Array:
        """Maps of the images.

        Args:
            input_tensor: (B, C, H, W), normalised.
            targets: a category per image; functions of another kind are differentiated as they are. None for
                ``target_idx``, or each image's top class.
            eigen_smooth: the first principal component of the weighted channels in place of their sum.
            alpha: how strongly the other classes count.
            comparison_categories: which ones, by similarity: 1 is the class whose logit is closest. None for 1, 2, 3.
            target_idx: one class for all images.

        Returns:
            (B, H, W) float32 in [0, 1].
        """
        wanted: Any = target_idx if targets is None else as_targets(targets, len(input_tensor))
        if isinstance(wanted, list) and not all(isinstance(each, int) for each in wanted):
            return self.base_cam.forward(input_tensor, targets, eigen_smooth)
        ranks = (1, 2, 3) if comparison_categories is None else tuple(int(each) for each in comparison_categories)
        method = self._method(float(alpha), ranks)
        return self.base_cam.explained(input_tensor, wanted, eigen_smooth=eigen_smooth, method=method)

    def _method(self, alpha: float, ranks: tuple[int, ...]) -> Method:
        finer = METHODS["FinerCAM"].configured(gamma=alpha, comparison=ranks, weights="probability")
        return replace(self.base_cam.method, make_need=lambda **options: finer.need)

    @property
    def outputs(self) -> Any:
        """What the model returned in the last call."""
        return self.base_cam.outputs

    @property
    def activations_and_grads(self) -> Any:
        """The base's."""
        return self.base_cam.activations_and_grads
