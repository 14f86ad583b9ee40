"""``camkit env``: what a bug report needs to say about the environment. Works without torch."""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Iterator
from importlib import import_module

from camkit.cli.parser import Parser
from camkit.errors import PackageError
from camkit.models.frameworks import FRAMEWORKS, installed, packages_of
from camkit.versions import OPENCV, require_torch, versions


def add_arguments(parser: Parser) -> None:
    """The command has no flags."""


def main(options: argparse.Namespace) -> None:
    """Print a line about each thing."""
    for name, text in lines():
        print(f"{name:<14}{text}", flush=True)


def lines() -> Iterator[tuple[str, str]]:
    """What is asked about, and what was found; frameworks are imported, which takes seconds."""
    known = versions()
    yield "camkit", f"{known.get('camkit', 'a checkout that is not installed')}"
    yield "Python", f"{known['python']} on {platform.platform()}"
    try:
        require_torch()
    except PackageError as error:
        without = str(error)
        yield "torch", without
    else:
        without = ""
        yield from _torch()
    yield "NumPy", known.get("numpy", "missing")
    yield "OpenCV", _opencv()
    for package in ("matplotlib", "rich", "pyarrow", "ray"):
        yield package, installed(package) or "missing"
    for name, framework in FRAMEWORKS.items():
        yield framework.title, "unusable without torch" if without else _framework(name)


def _torch() -> Iterator[tuple[str, str]]:
    import torch

    from camkit.compat import accelerators

    build = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    yield "torch", f"{torch.__version__} {build}, {torch.get_num_threads()} threads of {os.cpu_count()} cores"
    yield "devices", ", ".join(("cpu", *accelerators()))


def _opencv() -> str:
    """The packages, and whether what they left behind works and can open windows."""
    packages = [f"{package} {number}" for package in OPENCV if (number := installed(package))]
    try:
        cv2 = import_module("camkit.visualize.opencv").cv2
    except PackageError as error:
        return str(error)
    built = cv2.getBuildInformation().splitlines()
    windows = next((line.split(":")[1].strip() for line in built if "GUI:" in line), "")
    several = "; several packages overwrite each other's files: keep one" if len(packages) > 1 else ""
    return (
        f"{cv2.__version__} from {' and '.join(packages) or 'elsewhere'}, windows: {windows.lower() or 'none'}{several}"
    )


def _framework(name: str) -> str:
    """The versions of a framework's packages, or why it can't be used."""
    framework = FRAMEWORKS[name]
    try:
        import_module("camkit.models.environment").import_framework(name)
    except PackageError as error:
        return f"unusable: {error}"
    packages = [package for module in framework.packages for package in packages_of(module)]
    return ", ".join(f"{package} {number}" for package in packages if (number := installed(package)))
