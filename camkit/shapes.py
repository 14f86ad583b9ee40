"""Names for the tensors that travel through camkit.

With jaxtyping installed (the test extra) they carry shapes that tests check at run time; without it they are plain
tensors, so that ``import camkit`` needs torch and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

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
"""What the model is called with: normalised images, ``*size`` is (H, W) or (D, H, W)."""
Activations = Float[Tensor, "batch features *spatial"]
"""A target layer's output after layout: channels first, ``*spatial`` at the layer's resolution."""
Gradients = Float[Tensor, "targets batch features *spatial"]
"""The gradients of every image's score of several targets, laid out like the activations."""
InputGradients = Float[Tensor, "targets batch channels *size"]
"""The gradients of several targets' scores in the images themselves."""
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
