"""Which versions made a result."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from camkit.models.frameworks import FRAMEWORKS


@cache
def versions() -> dict[str, str]:
    """Package to version: Python, camkit, and what of its dependencies and the frameworks is installed."""
    found = {"python": platform.python_version()}
    frameworks = (package for framework in FRAMEWORKS.values() for package in framework.packages)
    for package in ("camkit", "torch", "numpy", "opencv-python", *frameworks):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
