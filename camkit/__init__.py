"""camkit: class activation maps for PyTorch, showing where an image classifier looked.

Public names load when they are first used, so that ``import camkit`` is cheap.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from camkit.cam import CAM as CAM
    from camkit.cam import Explanation as Explanation
    from camkit.compose import explain as explain
    from camkit.errors import CamkitError as CamkitError
    from camkit.errors import CamkitWarning as CamkitWarning
    from camkit.errors import CheckpointError as CheckpointError
    from camkit.errors import EmptyMapWarning as EmptyMapWarning
    from camkit.errors import ForwardError as ForwardError
    from camkit.errors import LayerError as LayerError
    from camkit.errors import NonFiniteError as NonFiniteError
    from camkit.errors import OutputWarning as OutputWarning
    from camkit.errors import TokenGridError as TokenGridError
    from camkit.errors import UsageError as UsageError
    from camkit.layers import layer_names as layer_names
    from camkit.methods import METHODS as METHODS
    from camkit.methods import Method as Method
    from camkit.objectives import BinaryLogit as BinaryLogit
    from camkit.objectives import BoxScore as BoxScore
    from camkit.objectives import Logit as Logit
    from camkit.objectives import Probability as Probability
    from camkit.objectives import SegmentationCategory as SegmentationCategory
    from camkit.objectives import Similarity as Similarity
    from camkit.render import grid as grid
    from camkit.render import overlay as overlay
    from camkit.save import load_raw as load_raw
    from camkit.save import save_picture as save_picture
    from camkit.save import save_raw as save_raw
    from camkit.smoothing import AugSmooth as AugSmooth
    from camkit.smoothing import EigenSmooth as EigenSmooth

_HOMES = {
    "CAM": "cam",
    "Explanation": "cam",
    "METHODS": "methods",
    "Method": "methods",
    "EigenSmooth": "smoothing",
    "AugSmooth": "smoothing",
    "explain": "compose",
    "overlay": "render",
    "grid": "render",
    "save_picture": "save",
    "save_raw": "save",
    "load_raw": "save",
    "layer_names": "layers",
    "BinaryLogit": "objectives",
    "BoxScore": "objectives",
    "Logit": "objectives",
    "Probability": "objectives",
    "SegmentationCategory": "objectives",
    "Similarity": "objectives",
    "CamkitError": "errors",
    "UsageError": "errors",
    "CheckpointError": "errors",
    "LayerError": "errors",
    "TokenGridError": "errors",
    "ForwardError": "errors",
    "NonFiniteError": "errors",
    "CamkitWarning": "errors",
    "EmptyMapWarning": "errors",
    "OutputWarning": "errors",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(import_module(f"camkit.{_HOMES[name]}"), name)
    elif name == "__all__":
        value = [*_HOMES, *_constructors()]
    elif not name.startswith("_") and name in (constructors := _constructors()):
        value = constructors[name]
    else:
        raise AttributeError(f"module 'camkit' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*_HOMES, *_constructors()])


def _constructors() -> dict[str, Any]:
    """A named constructor per registered method: ``camkit.GradCAM(model, ...)`` is ``CAM(model, "GradCAM", ...)``."""
    methods, cam = import_module("camkit.methods"), import_module("camkit.cam")
    return {method.identifier: partial(cam.CAM, method=method) for method in methods.METHODS.values()}
