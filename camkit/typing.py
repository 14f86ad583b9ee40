"""Names for what travels through camkit: tensors with their shapes, targets, layers.

With jaxtyping installed (the test extra) the shapes are checked at run time by the tests; without it they are plain
tensors, so that ``import camkit`` needs torch and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Float, Int
else:
    try:
        from jaxtyping import Float, Int
    except ImportError:

        class Float:  # noqa: D101
            def __class_getitem__(cls, item: tuple[type, str]) -> type:
                return item[0]

        Int = Float

Images = Float[Tensor, "batch channels *size"]
"""What the model is called with: normalised images, ``*size`` is (H, W), (D, H, W), or (L,) for signals."""
Activations = Float[Tensor, "batch features *spatial"]
"""A target layer's output after layout: channels first, ``*spatial`` at the layer's resolution."""
Gradients = Float[Tensor, "targets batch features *spatial"]
"""Gradients of several targets' scores in a layer, laid out like the activations."""
InputGradients = Float[Tensor, "targets batch channels *size"]
"""Gradients of several targets' scores in the images themselves."""
SignedMaps = Float[Tensor, "targets batch *spatial"]
"""One signed, unnormalised map per target and image, at the layer's resolution."""
Map = Float[Tensor, "batch *spatial"]
"""One signed, unnormalised map per image, at the layer's resolution."""
InputMap = Float[Tensor, "batch *size"]
"""One map per image at the input's resolution."""
TargetMaps = Float[Tensor, "batch targets *spatial"]
"""One map per image and target."""
Scores = Float[Tensor, "batch targets"]
"""One score per image and target."""
Categories = Int[Tensor, "batch targets"]
"""One class index per image and target."""

ScoreFunction = Callable[[Any], Tensor]
"""From one image's row of the model's output, (K,) or whatever it is, to a scalar tensor."""
Target = int | ScoreFunction
Targets = Target | Sequence[Target] | Sequence[Sequence[Target]] | Tensor | None
"""None (each image's own top class), one target for all images, one per image, or a list per image."""
TargetRows = list[list[Target]] | Categories
"""One row of targets per image, all of one length; class indices (B, T) as a tensor where they are on a device."""
Chosen = Categories | tuple[tuple[Target, ...], ...]
"""What was explained: class indices (B, T), or the rows as given where a score function is among them."""

Layer = str | nn.Module
"""A target layer: its dotted name, or the module itself."""
Layers = Layer | Sequence[Layer] | None
"""One target layer, several, or None for the default layer."""
ReshapeTransform = Callable[[Any], Tensor]
"""The user's own layout: a layer's output to (batch, channels, *spatial)."""
Output = int | str | Callable[[Any], Any] | None
"""Which part of the model's output to explain: an index, a key or attribute (dots lead further in), or a function."""
Progress = Callable[[int, int], None]
"""Called with how many of how many perturbed images, or activations, went through the network."""
