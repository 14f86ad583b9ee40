"""Deep feature factorization."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from camkit.integrations.pytorch_grad_cam.activations_and_gradients import ActivationsAndGradients
from camkit.integrations.pytorch_grad_cam.running import Array, device_of, recorded
from camkit.integrations.pytorch_grad_cam.utils.image import (
    create_labels_legend,
    scale_cam_image,
    show_factorization_on_image,
)
from camkit.layers.names import find_layers
from camkit.methods import METHODS

if TYPE_CHECKING:
    from typing_extensions import Self


def dff(activations: NDArray[Any], n_components: int = 5) -> tuple[Array, Array]:
    """Factorise activations into concepts and a map of each, see :class:`camkit.DeepFeatureFactorization`.

    Args:
        activations: (B, C, H, W).
        n_components: the number of concepts K.

    Returns:
        Concepts (C, K), and maps (B, K, H, W), not negative.

    Raises:
        UsageError: more concepts than channels or positions.
    """
    given = np.asarray(activations)
    made = METHODS["DFF"].configured(num_concepts=n_components).maps(torch.from_numpy(np.nan_to_num(given)))
    assert made.concepts is not None  # noqa: S101 (the method has them)
    return np.asarray(made.concepts.T.numpy()), np.asarray(made.signed.transpose(0, 1).numpy())


class DeepFeatureFactorization:
    """Concepts in what a layer makes of a batch of images, a map of each, and what a head makes of the concepts.

    Args:
        model: the network.
        target_layer: its module, or a dotted name.
        reshape_transform: from the layer's output to (B, C, H, W), where camkit's own layout isn't wanted.
        computation_on_concepts: from concepts (K, C) to (K, ...), such as the network's linear head.

    Raises:
        UsageError: a layer that isn't in the model.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module,
        reshape_transform: Callable[[Any], Tensor] | None = None,
        computation_on_concepts: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.model = model
        self.computation_on_concepts = computation_on_concepts
        find_layers(model, [target_layer])
        self.activations_and_grads = ActivationsAndGradients(model, [target_layer], reshape_transform)

    def __call__(self, input_tensor: Tensor, n_components: int = 16) -> Any:
        """Factorise.

        Args:
            input_tensor: (B, C, H, W), normalised.
            n_components: the number of concepts K.

        Returns:
            Concepts (channels, K); for each image its maps (K, H, W) in [0, 1]; and what ``computation_on_concepts``
            makes of the concepts, as an array, where there is one.

        Raises:
            UsageError: more concepts than channels or positions.
        """
        kept = self.activations_and_grads
        made = recorded(
            self.model,
            kept.target_layers,
            input_tensor,
            None,
            reshape_transform=kept.reshape_transform,
            gradients=False,
        )
        activations = made.layers[0][0].cpu()
        kept.activations = [activations]
        concepts, maps = dff(activations.numpy(), n_components)
        width_first = tuple(reversed(input_tensor.shape[2:]))
        finished = [scale_cam_image(each, width_first) for each in maps]
        if self.computation_on_concepts is None:
            return concepts, finished
        with torch.no_grad():
            given = torch.from_numpy(np.ascontiguousarray(concepts.T)).to(device_of(self.model))
            return concepts, finished, self.computation_on_concepts(given).cpu().numpy()

    def __enter__(self) -> Self:
        """Nothing needs releasing: hooks are in place only during a call."""
        return self

    def __exit__(self, *error: object) -> None:
        """Forget the activations of the last call; errors pass."""
        self.activations_and_grads.release()


def run_dff_on_image(
    model: nn.Module,
    target_layer: nn.Module,
    classifier: Callable[[Tensor], Tensor],
    img_pil: Any,
    img_tensor: Tensor,
    reshape_transform: Callable[[Any], Tensor] | None = None,
    n_components: int = 5,
    top_k: int = 2,
) -> NDArray[np.uint8]:
    """One image, its concepts over it, and a legend with the classes that the concepts are.

    Args:
        model: the network; ``model.config.id2label`` names its classes.
        target_layer: its module.
        classifier: from concepts (K, C) to logits (K, classes).
        img_pil: the image, of the size of ``img_tensor``.
        img_tensor: (C, H, W), normalised.
        reshape_transform: see :class:`DeepFeatureFactorization`.
        n_components: the number of concepts K.
        top_k: how many classes of a concept the legend has.

    Returns:
        (H, 3 W, 3) uint8.
    """
    factorization = DeepFeatureFactorization(model, target_layer, reshape_transform, classifier)
    _, maps, scores = factorization(img_tensor[None], n_components)
    config: Any = model.config
    labels = create_labels_legend(torch.from_numpy(scores).softmax(-1).numpy(), config.id2label, top_k)
    picture = np.array(img_pil)
    shown = show_factorization_on_image(picture / 255, maps[0], image_weight=0.3, concept_labels=labels)
    return np.hstack([picture, shown])
