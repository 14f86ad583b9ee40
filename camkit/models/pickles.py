"""Unpickle what ``torch.save`` wrote without running the code that a pickle can hold, or with it where asked."""

from __future__ import annotations

import argparse
import collections
import importlib
import importlib.util
import pickle
import pickletools
import re
import warnings
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from camkit.compat import load_safely
from camkit.errors import CheckpointError, first_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_PACKAGES = {  # modules of published packages in people's checkpoints, and what brings them where the name differs
    **dict.fromkeys((
        "accelerate", "addict", "cloudpickle", "detectron2", "dill", "easydict", "fastai", "fvcore", "iopath",
        "lightning", "mmengine", "mmpretrain", "monai", "numpy", "omegaconf", "pandas", "peft", "pretrainedmodels",
        "scipy", "timm", "torchmetrics", "torchvision", "transformers", "ultralytics", "yacs",
    )),
    "PIL": "pillow", "cv2": "opencv-python", "efficientnet_pytorch": "efficientnet-pytorch", "hydra": "hydra-core",
    "mmcv": "mmcv-lite", "open_clip": "open-clip-torch", "pytorch_lightning": "pytorch-lightning",
    "segmentation_models_pytorch": "segmentation-models-pytorch", "skimage": "scikit-image",
    "sklearn": "scikit-learn",
}  # fmt: skip
_STATE_DICT = "in that program, save the state dict: torch.save(model.state_dict(), 'weights.pth')"


def unpickle(path: Path, called: str, *, trust: bool) -> object:
    """Read a file of ``torch.save``: safely, and with ``trust`` fully where it can't be read safely.

    Raises:
        CheckpointError: Damaged, in need of a full unpickle, or of classes that aren't here. ``called`` is the file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols and quantised storages; errors follow below
            return load_safely(path, _harmless())
    except pickle.UnpicklingError as error:
        if not _is_whole(path):  # a name cut off in the middle isn't on the list either
            raise damaged(called, error) from error
        if not trust:
            blocked = re.search(r"GLOBAL (\S+)", str(error))
            what = f"it holds {blocked[1]}" if blocked else "it uses pickle features"
            raise CheckpointError(
                f"the checkpoint {called} can't be read safely: {what}, which may run code on loading; if you trust its"
                " origin, add --trust-checkpoint"
            ) from error
    except Exception as error:
        raise damaged(called, error) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=False)
    except ImportError as error:
        raise CheckpointError(f"the checkpoint {called} {_about_module(error)}") from error
    except AttributeError as error:
        raise CheckpointError(f"the checkpoint {called} {_about_class(error)}") from error
    except Exception as error:
        if not _is_whole(path):
            raise damaged(called, error) from error
        why = first_line(str(error)) or "no reason given"
        raise CheckpointError(
            f"the checkpoint {called} can't be unpickled here ({type(error).__name__}: {why}); {_STATE_DICT}"
        ) from error


def damaged(called: str, error: Exception) -> CheckpointError:
    """The error of a file that is a checkpoint by its first bytes and can't be read."""
    if "TorchScript" in str(error):
        return CheckpointError(f"{called} is a TorchScript archive, not a checkpoint; give the .pth it was made from")
    reason = "" if isinstance(error, pickle.UnpicklingError) else first_line(str(error)).partition(". ")[0]
    reason = reason or f"{type(error).__name__} in reading it"
    return CheckpointError(f"the checkpoint {called} is damaged or incomplete ({reason}); fetch it again")


def _about_module(error: ImportError) -> str:
    """What to do about a module that a pickle names and that can't be imported."""
    module = error.name or ""
    top = module.partition(".")[0]
    if not top:
        return f"needs what can't be imported here ({first_line(str(error))}); {_STATE_DICT}"
    if not isinstance(error, ModuleNotFoundError) or _is_there(top):
        return (
            f"needs {module}, which the {top} that is found here doesn't have ({first_line(str(error))}); use the "
            "version that it was saved with"
        )
    if top in _PACKAGES:
        package = _PACKAGES[top] or top
        return f"needs the package '{package}'; install with: pip install {package}"
    return (
        f"needs the module '{module}', which belongs to the program that wrote it: put the folder that holds {top} on "
        f"PYTHONPATH; or {_STATE_DICT}"
    )


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # half imported
        return True


def _about_class(error: AttributeError) -> str:
    """What to do about a class that a pickle names and that its module doesn't have."""
    found = re.search(r"attribute '([^']+)' on <module '([^']+)'", str(error))
    if not found:
        return f"can't be unpickled here ({first_line(str(error))}); {_STATE_DICT}"
    name, module = found.groups()
    if module.rpartition(".")[2] == "__main__":  # camkit's own is called by its package
        return (
            f"pickles the class {name} of the script that wrote it (__main__), which isn't here; {_STATE_DICT}, or keep"
            f" {name} in a module of its own and put that module's folder on PYTHONPATH"
        )
    return f"needs {module}.{name}, and the {module} that is found here has no {name}; use the one it was saved with"


def _is_whole(path: Path) -> bool:
    """Whether the file's pickles are complete and well-formed; they are parsed, not executed."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
                collections.deque(pickletools.genops(archive.read(name)), maxlen=0)
        else:
            with path.open("rb") as file:
                for _ in range(4):  # magic number, protocol, machine, content
                    collections.deque(pickletools.genops(file), maxlen=0)
    except Exception:  # noqa: BLE001  # whatever a parser of broken bytes raises
        return False
    return True


class _HistoryBuffer:
    """Stand-in for MMEngine's log history in checkpoints, which camkit doesn't use: reading them needs no MMEngine."""


def _statistic(*_: object) -> None:
    """Stand-in for the ``getattr(HistoryBuffer, "mean")`` in such a history's pickle. Looks nothing up."""


def _harmless() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """Classes and functions in OpenMMLab's checkpoints that are safe to load; numpy's by their names in 1.x and 2.x."""
    core = "numpy._core" if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else "numpy.core"
    multiarray = importlib.import_module(f"{core}.multiarray")
    dtypes = {type(np.dtype(code)) for code in "?bBhHiIlLqQefdgFDGOSUVMm"}
    numpy: list[tuple[Callable[..., Any], str]] = [
        (getattr(multiarray, name), f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for name in ("_reconstruct", "scalar")
    ]
    return [
        *numpy,
        *dtypes,
        np.dtype,
        np.ndarray,
        argparse.Namespace,
        (_HistoryBuffer, "mmengine.logging.history_buffer.HistoryBuffer"),
        (_statistic, "builtins.getattr"),
    ]
