"""The registry's methods by what can be tested of them alike."""

from __future__ import annotations

from typing import Any

import pytest

from camkit.methods import METHODS
from camkit.methods.needs import ActivationsNeed, CurvatureNeed, GradientsNeed, LinearHeadNeed, NoisyGradientsNeed
from tests.helpers.networks import SmallCNN, SmallViT

SIX = ("GradCAM", "GradCAM++", "XGradCAM", "EigenCAM", "EigenGradCAM", "LayerCAM")
"""Those that grad-cam's users know; they cost one forward and at most one backward."""
PURE = tuple(
    name
    for name, method in METHODS.items()
    if isinstance(method.need, ActivationsNeed | GradientsNeed | LinearHeadNeed)
)
"""Functions of activations (B, C, *S) and gradients (T, B, C, *S), or of activations alone."""
DERIVED = tuple(name for name, method in METHODS.items() if isinstance(method.need, CurvatureNeed | NoisyGradientsNeed))
"""Functions of activations and of several tensors like their gradients."""
CATEGORICAL = tuple(name for name, method in METHODS.items() if method.need.depends_on_targets)
"""Those whose maps depend on the class."""
ON_SMALL_CNN = tuple(name for name, method in METHODS.items() if method.family != "attention")
"""Those that work on SmallCNN, CAM at layer "relu" alone."""
ON_SMALL_VIT = tuple(name for name in METHODS if name not in ("CAM", "GuidedBackprop", "GuidedGradCAM"))
"""Those that work on SmallViT: all but those that need ReLUs, or a head of pooling."""


def layer_of(name: str) -> str | None:
    """A layer of SmallCNN for the method; None for its default ones."""
    if not METHODS[name].of_layers or METHODS[name].fusion == "product":
        return None
    return "relu" if name == "CAM" else "conv2"


def options(name: str, **wanted: Any) -> dict[str, Any]:
    """Those of the options that the method has."""
    return {option: value for option, value in wanted.items() if option in METHODS[name].options}


ONE_PER_NEED = tuple({type(METHODS[name].need): name for name in reversed(METHODS)}.values())
"""The first method with each kind of need: these run the network in different ways, others alike."""
CASES = [
    *(pytest.param(SmallCNN, name, layer_of(name), id=f"cnn {name}") for name in ON_SMALL_CNN),
    *(
        pytest.param(SmallViT, name, "layers.1.ln1" if layer_of(name) else None, id=f"vit {name}")
        for name in ON_SMALL_VIT
        if name in ONE_PER_NEED or METHODS[name].family == "attention"
    ),
]
"""What makes a small network, a method's name, and a layer or None: every method, and tokens for each kind of need."""
