"""Make torchvision importable where its compiled operators don't load: a CUDA build beside a CPU-only torch.

``import torchvision`` then fails on ``operator torchvision::nms does not exist``. Declaring the operators that it
misses, without an implementation, lets its Python half load, which is all that classifiers need.
"""

from __future__ import annotations

import importlib
import logging
import sys

import torch

from camkit.errors import CamkitError

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[torch.library.Library] = []  # kept, because a library that is collected undeclares its operators


def ensure_torchvision() -> None:
    """Import torchvision, with missing operators declared where it needs them. One that works isn't touched.

    Raises:
        CamkitError: torchvision isn't installed.
    """
    try:
        importlib.import_module("torchvision")
        return
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise
        raise CamkitError(
            "a package that the model needs is missing: torchvision; install with: pip install 'camkit[torchvision]'"
        ) from error
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    if not _declared:
        library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for schema in _SCHEMAS:
            library.define(schema)  # type: ignore[no-untyped-call]
        _declared.append(library)
    importlib.import_module("torchvision")
    logging.getLogger("camkit").warning(
        "torchvision's compiled operators don't match torch %s: its Python half is in use, operators such as NMS aren't"
        " available",
        torch.__version__,
    )
