"""The registry's methods by what can be tested of them alike."""

from __future__ import annotations

from camkit.methods import METHODS
from camkit.methods.requests import Concepts, Curvature, Gradients, GuidedLayer, NoisyGradients, OnlyActivations

SIX = ("GradCAM", "GradCAM++", "XGradCAM", "EigenCAM", "EigenGradCAM", "LayerCAM")
"""Those that grad-cam's users know, whose engine is one forward and at most one backward."""
PURE = tuple(
    name
    for name, method in METHODS.items()
    if isinstance(method.request, Gradients | OnlyActivations) and not isinstance(method.request, GuidedLayer)
)
"""Functions of activations (B, C, *S) and gradients (T, B, C, *S), or of activations alone."""
DERIVED = tuple(name for name, method in METHODS.items() if isinstance(method.request, Curvature | NoisyGradients))
"""Functions of activations and of several tensors like their gradients."""
OF_LAYERS = tuple(name for name, method in METHODS.items() if method.request.of_layers)
"""Those that have target layers."""
CATEGORICAL = tuple(
    name for name, method in METHODS.items() if method.request.has_targets and not isinstance(method.request, Concepts)
)
"""Those whose maps depend on the class."""
ON_SMALL_CNN = tuple(name for name, method in METHODS.items() if method.family != "attention")
"""Those that work on tests.networks.SmallCNN, CAM at layer "relu" alone."""


def layer_of(name: str) -> str | None:
    """A layer of SmallCNN for the method; None for its default ones."""
    if not METHODS[name].request.of_layers or METHODS[name].fusion == "product":
        return None
    return "relu" if name == "CAM" else "conv2"
