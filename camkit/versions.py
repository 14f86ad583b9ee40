"""Which versions made a result."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = (
    "camkit",
    "torch",
    "numpy",
    "opencv-python",
    "mmpretrain",
    "mmengine",
    "timm",
    "torchvision",
    "transformers",
)


@cache
def versions() -> dict[str, str]:
    """Package to version, for Python and every package that takes part and is installed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
