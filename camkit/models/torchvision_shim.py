"""Make torchvision importable where its compiled operators don't load: a CUDA build beside a CPU-only torch.

``import torchvision`` then fails on ``operator torchvision::nms does not exist``. Declaring the operators that it
misses, without an implementation, lets its Python half load, which is all that classifiers need.
"""

from __future__ import annotations

import importlib
import logging
import sys

import torch

from camkit.compat import torch_version
from camkit.errors import PackageError, reason

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[torch.library.Library] = []  # kept, because a library that is collected undeclares its operators


def ensure_torchvision() -> None:
    """Import torchvision, with missing operators declared where it needs them. One that works isn't touched.

    Raises:
        PackageError: torchvision isn't installed, or doesn't load beside this torch.
    """
    try:
        importlib.import_module("torchvision")
        return
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise _unfit(error) from error
        raise PackageError(
            "a package that the model needs is missing: torchvision; install with: pip install 'camkit[torchvision]'"
        ) from error
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise _unfit(error) from error
    except Exception as error:
        raise _unfit(error) from error
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    if not _declared:
        library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for schema in _SCHEMAS:
            library.define(schema)  # type: ignore[no-untyped-call]
        _declared.append(library)
    try:
        importlib.import_module("torchvision")
    except Exception as error:
        raise _unfit(error) from error
    logging.getLogger("camkit").warning(
        "torchvision's compiled operators don't match torch %s: its Python half is in use, operators such as NMS aren't"
        " available",
        torch.__version__,
    )


def _unfit(error: Exception) -> PackageError:
    """What to say when torchvision fails on import: it belongs to another torch."""
    major, minor = torch_version()
    # The one's minor version has always been 15 less than the other's since torch 2.0.
    fitting = f"torchvision==0.{minor + 15}.*" if major == 2 else "the torchvision that belongs to it"
    return PackageError(
        f"torchvision doesn't load beside torch {torch.__version__} ({reason(error)}): pip install '{fitting}'"
    )
