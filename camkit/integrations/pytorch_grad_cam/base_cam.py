"""BaseCAM: what all CAM classes are, and what a script's own subclasses override."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from camkit.errors import EmptyMapWarning, SinglePositionError, UsageError
from camkit.integrations.pytorch_grad_cam.activations_and_gradients import ActivationsAndGradients
from camkit.integrations.pytorch_grad_cam.running import (
    Array,
    LayerTensors,
    as_targets,
    device_of,
    explained,
    on_cuda,
    outputs_of,
    recorded,
    weighted_channels,
)
from camkit.integrations.pytorch_grad_cam.utils.image import scale_cam_image
from camkit.integrations.pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from camkit.integrations.pytorch_grad_cam.utils.svd_on_activations import get_2d_projection
from camkit.layers.names import find_layers
from camkit.methods import METHODS, Method, principal_component
from camkit.smoothing import VIEWS

if TYPE_CHECKING:
    from typing_extensions import Self

    Targets = Sequence[Callable[[Any], Tensor]] | None

OVERRIDABLE = ("get_cam_weights", "get_cam_image", "compute_cam_per_layer", "aggregate_multi_layers")
"""What subclasses override to change maps."""


class BaseCAM:
    """Maps of a network's layers, computed by camkit, in the form that scripts written for grad-cam expect.

    A subclass of a script's own overrides ``get_cam_weights`` (weights by channel) or ``get_cam_image`` (the map of a
    layer); activations and gradients come from camkit then too.

    Args:
        model: the network; it is left as it is, also in training mode.
        target_layers: its modules, dotted names, or a container of modules; None for the default layer of camkit.
        reshape_transform: from a layer's output to (B, C, *spatial), where camkit's own layout isn't wanted.
        compute_input_gradient: for subclasses: whether ``input_tensor.grad`` is there in ``get_cam_image``.
        uses_gradients: for subclasses: whether there are gradients.
        tta_transforms: what ``aug_smooth`` averages over, in place of flips and factors: transforms with
            ``augment_image(images)`` and ``deaugment_mask(maps)``, maps (B, 1, H, W).
        detach: for subclasses; only True.
        use_cuda: an argument of releases before 1.5: True moves the model to the GPU.

    Attributes:
        outputs: what the model returned in the last call, outside the graph.
        batch_size: how many perturbed images run at a time, for methods that need many; None asks the memory.
        device: the model's.

    Raises:
        UsageError: a layer that isn't in the model, or ``detach=False``.

    Example:
        >>> from camkit.integrations.pytorch_grad_cam import GradCAM
        >>> with GradCAM(model=model, target_layers=[model.features]) as cam:
        ...     maps = cam(input_tensor=images, targets=None)
        >>> maps.shape, maps.dtype
        ((2, 32, 32), dtype('float32'))
    """

    camkit_method: ClassVar[str] = ""
    """The name of the method in :data:`camkit.METHODS`; empty for what subclasses compute themselves."""

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module | str] | nn.Sequential | nn.ModuleList | None,
        reshape_transform: Callable[[Any], Tensor] | None = None,
        compute_input_gradient: bool = False,  # noqa: FBT001
        uses_gradients: bool = True,  # noqa: FBT001
        tta_transforms: Any = None,
        detach: bool = True,  # noqa: FBT001
        *,
        use_cuda: bool = False,
    ) -> None:
        if not detach:
            raise UsageError("detach=False is for second derivatives, which ShapleyCAM computes: leave it out")
        self.model = on_cuda(model) if use_cuda else model
        if isinstance(target_layers, nn.Sequential | nn.ModuleList):  # model.layer4, or a part of it: what is inside
            target_layers = list(target_layers)
        if target_layers is not None and self.takes_layers:
            find_layers(self.model, target_layers)
        self.target_layers = target_layers
        self.device = device_of(self.model)
        self.reshape_transform = reshape_transform
        self.compute_input_gradient = compute_input_gradient
        self.uses_gradients = self.method.need.records.gradients if self.camkit_method else uses_gradients
        self.tta_transforms = tta_transforms
        self.detach = detach
        self.outputs: Any = None
        self.batch_size: int | None = None
        self.activations_and_grads = ActivationsAndGradients(self.model, self.target_layers or [], reshape_transform)

    # What scripts call.

    def __call__(
        self,
        input_tensor: Tensor,
        targets: Targets = None,
        aug_smooth: bool = False,  # noqa: FBT001
        eigen_smooth: bool = False,  # noqa: FBT001
    ) -> Array:
        """Maps of the images.

        Args:
            input_tensor: (B, C, H, W) or (B, C, D, H, W), normalised.
            targets: one function per image, from its row of the model's output to a scalar; class indices will do.
                None for each image's top class.
            aug_smooth: average over flips and factors.
            eigen_smooth: the first principal component of the weighted channels in place of their sum.

        Returns:
            (B, H, W) float32 in [0, 1].

        Raises:
            UsageError: another number of targets than images; and what :class:`camkit.CAM` raises.
        """
        if aug_smooth:
            return self.forward_augmentation_smoothing(input_tensor, targets, eigen_smooth)
        return self.forward(input_tensor, targets, eigen_smooth)

    def forward(self, input_tensor: Tensor, targets: Targets, eigen_smooth: bool = False) -> Array:  # noqa: FBT001
        """Maps without augmentation; see :meth:`__call__`."""
        if self.is_extended:
            return self._extended(input_tensor, targets, eigen_smooth=eigen_smooth)
        return self.explained(input_tensor, targets, eigen_smooth=eigen_smooth)

    def forward_augmentation_smoothing(
        self,
        input_tensor: Tensor,
        targets: Targets,
        eigen_smooth: bool = False,  # noqa: FBT001
    ) -> Array:
        """The mean of the maps of changed images; see :meth:`__call__`."""
        if self.tta_transforms is None and not self.is_extended:
            return self.explained(input_tensor, targets, eigen_smooth=eigen_smooth, aug_smooth=True)
        first = self.forward(input_tensor, targets, eigen_smooth)
        outputs = self.outputs
        if targets is None:
            targets = [ClassifierOutputTarget(int(row.argmax())) for row in outputs]
        maps = [first]
        if self.tta_transforms is None:
            for view in VIEWS[1:]:
                found = self.forward(view.of(input_tensor), targets, eigen_smooth)
                maps.append(view.unflip(torch.from_numpy(found)).numpy())
        else:
            maps = []
            for transform in self.tta_transforms:
                found = self.forward(transform.augment_image(input_tensor), targets, eigen_smooth)
                maps.append(transform.deaugment_mask(torch.from_numpy(found)[:, None])[:, 0].numpy())
        self.outputs = outputs
        return np.asarray(np.mean(maps, axis=0), dtype=np.float32)

    def __enter__(self) -> Self:
        """Nothing needs releasing: hooks are in place only during a call."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Forget the activations of the last call; errors pass."""
        self.activations_and_grads.release()

    # The method of camkit.

    @property
    def method(self) -> Method:
        """The method of camkit, as it is configured."""
        return METHODS[self.camkit_method]

    @property
    def takes_layers(self) -> bool:
        """Whether the target layers count."""
        return not self.camkit_method or self.method.takes_layers

    @property
    def is_extended(self) -> bool:
        """Whether maps come from what a script's own subclass overrides, and not from a method of camkit alone."""
        return not self.camkit_method or any(map(self._overrides, OVERRIDABLE))

    def method_for(self, targets: Targets, *, eigen_smooth: bool) -> Method:
        """The method for a call, where it depends on the arguments."""
        return self.method

    def explained(
        self,
        input_tensor: Tensor,
        targets: Any,
        *,
        eigen_smooth: bool = False,
        aug_smooth: bool = False,
        method: Method | None = None,
    ) -> Array:
        """Maps by camkit's own method, or by another one, whatever the subclass overrides."""
        used = self.method_for(targets, eigen_smooth=eigen_smooth) if method is None else method
        layers = None if self.target_layers is None else list(self.target_layers)
        layers = layers if used.takes_layers else None
        while True:
            try:
                made = explained(
                    self.model,
                    used,
                    layers,
                    input_tensor,
                    as_targets(targets, len(input_tensor)),
                    reshape_transform=self.activations_and_grads.reshape_transform,
                    batch_size=self.batch_size,
                    eigen_smooth=eigen_smooth and used.takes_reduction,
                    aug_smooth=aug_smooth,
                )
                break
            except SinglePositionError as error:
                # grad-cam's map of such a layer is zero everywhere, which doesn't change the mean with others.
                single = find_layers(self.model, [error.layer])
                layers = [each for each in layers or [] if next(iter(find_layers(self.model, [each]))) not in single]
                warnings.warn(f"the map of {error.layer!r} is empty: {error}", EmptyMapWarning, stacklevel=4)
                if not layers:
                    self.outputs = outputs_of(self.model, input_tensor)
                    return np.zeros((len(input_tensor), *input_tensor.shape[2:]), dtype=np.float32)
        self.outputs = made.outputs
        self._keep(made.layers)
        return made.maps

    # What subclasses override.

    def get_cam_weights(
        self, input_tensor: Tensor, target_layer: Any, targets: Any, activations: Array, grads: Array | None
    ) -> Array:
        """Weights by channel (B, C), from a layer's activations and gradients (B, C, *spatial)."""
        weights = weighted_channels(self.method, activations, grads) if self.camkit_method else None
        if weights is None:
            raise NotImplementedError(f"{type(self).__name__} has no weights by channel: implement get_cam_weights")
        return weights

    def get_cam_image(
        self,
        input_tensor: Tensor,
        target_layer: Any,
        targets: Any,
        activations: Array,
        grads: Array | None,
        eigen_smooth: bool = False,  # noqa: FBT001
    ) -> Array:
        """The signed map (B, *spatial) of a layer."""
        if self.camkit_method and not self._overrides("get_cam_weights"):
            tensors = [torch.as_tensor(activations), *([] if grads is None else [torch.as_tensor(grads)[None]])]
            reduction = principal_component if eigen_smooth and self.method.takes_reduction else None
            return np.asarray(self.method.maps(*tensors, reduction=reduction).signed[0].numpy())
        weights = self.get_cam_weights(input_tensor, target_layer, targets, activations, grads)
        weighted = weights.reshape(*weights.shape, *[1] * (activations.ndim - weights.ndim)) * activations
        return get_2d_projection(weighted) if eigen_smooth else np.asarray(weighted.sum(1))

    def compute_cam_per_layer(
        self,
        input_tensor: Tensor,
        targets: Any,
        eigen_smooth: bool,  # noqa: FBT001
    ) -> list[Array]:
        """The map (B, 1, *size) of each layer, scaled to [0, 1] and to the images."""
        kept = self.activations_and_grads
        gradients = kept.gradients or [None] * len(kept.activations)
        named = self.target_layers or []
        maps = []
        for number, (activations, grads) in enumerate(zip(kept.activations, gradients, strict=True)):
            layer = named[number] if len(named) == len(kept.activations) else None
            arrays = activations.numpy(), None if grads is None else grads.numpy()
            found = self.get_cam_image(input_tensor, layer, targets, *arrays, eigen_smooth)
            scaled = scale_cam_image(np.maximum(found, 0), self.get_target_width_height(input_tensor))
            maps.append(scaled[:, None])
        return maps

    def aggregate_multi_layers(self, cam_per_target_layer: Sequence[Array]) -> Array:
        """One map (B, *size) of all layers' maps: their mean, scaled to [0, 1] again."""
        return scale_cam_image(np.maximum(np.concatenate(cam_per_target_layer, axis=1), 0).mean(axis=1))

    def get_target_width_height(self, input_tensor: Tensor) -> tuple[int, ...]:
        """The images' size as OpenCV has it, the width first."""
        return tuple(reversed(input_tensor.shape[2:]))

    def _extended(self, input_tensor: Tensor, targets: Targets, *, eigen_smooth: bool) -> Array:
        """Maps by the methods that a subclass overrides."""
        made = recorded(
            self.model,
            self.target_layers,
            input_tensor,
            as_targets(targets, len(input_tensor)),
            reshape_transform=self.activations_and_grads.reshape_transform,
            gradients=self.uses_gradients,
            inputs=self.compute_input_gradient,
        )
        self.outputs = made.outputs
        self._keep(made.layers)
        functions = [ClassifierOutputTarget(each) if isinstance(each, int) else each for each in made.targets]
        return self.aggregate_multi_layers(self.compute_cam_per_layer(made.images, functions, eigen_smooth))

    def _keep(self, layers: LayerTensors) -> None:
        self.activations_and_grads.activations = [each.detach().cpu() for each, _ in layers]
        self.activations_and_grads.gradients = [each.detach().cpu() for _, each in layers if each is not None]

    def _overrides(self, name: str) -> bool:
        """Whether a script's own subclass, or an object's own attribute, is in place of one of camkit's methods."""
        function = getattr(self, name)
        return getattr(function, "__func__", function) is not getattr(BaseCAM, name)
