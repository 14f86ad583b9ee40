"""Which versions made a result, and whether torch and other packages will do. Needs the standard library alone."""

from __future__ import annotations

import platform
from functools import cache
from importlib import import_module
from typing import Any

from camkit.errors import PackageError, reason
from camkit.models.frameworks import FRAMEWORKS, installed, packages_of

OLDEST_TORCH = (2, 1)
OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
"""The packages that bring OpenCV; they overwrite each other's files."""


@cache
def versions() -> dict[str, str]:
    """Package to version: Python, camkit, and what of its dependencies and the frameworks is installed."""
    found = {"python": platform.python_version()}
    modules = ("camkit", "torch", "numpy", *(name for each in FRAMEWORKS.values() for name in each.packages))
    packages = [package for module in modules for package in packages_of(module)]
    packages[3:3] = OPENCV
    return found | {package: number for package in packages if (number := installed(package)) is not None}


@cache
def require_torch() -> None:
    """Make sure that torch is there, new enough, and works.

    Raises:
        PackageError: it isn't; the message says what to install.
    """
    oldest = ".".join(map(str, OLDEST_TORCH))
    try:
        torch = import_module("torch")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise PackageError(f"torch doesn't load without {error.name}: pip install {error.name}") from error
        raise PackageError(f"camkit needs torch {oldest} or newer, which is missing: pip install torch") from error
    except Exception as error:  # libraries that are missing, or of another version
        raise PackageError(
            f"torch is installed but doesn't load ({reason(error)}): pip install --force-reinstall torch"
        ) from error
    number = str(torch.__version__)
    if tuple(int(part) for part in number.split(".")[:2]) < OLDEST_TORCH:
        raise PackageError(f"camkit needs torch {oldest} or newer, this is {number}: pip install --upgrade torch")
    try:
        torch.zeros(1).numpy()
    except RuntimeError as error:  # built for NumPy 1, beside NumPy 2
        numpy = installed("numpy")
        remedy = "pip install numpy" if numpy is None else "pip install 'numpy<2', or a newer torch"
        raise PackageError(f"torch {number} can't use NumPy ({numpy or 'missing'}): {remedy}") from error


def require(module: str, extra: str, why: str) -> Any:
    """Import a package of one of camkit's extras.

    Raises:
        PackageError: It is missing or doesn't load; the message says what to install.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        name = error.name or module
        raise PackageError(f"{why}, and {name} is missing: pip install 'camkit[{extra}]'") from error
    except Exception as error:
        raise PackageError(
            f"{module} is installed but doesn't load ({reason(error)}): pip install -U {module}"
        ) from error
