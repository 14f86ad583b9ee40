"""Import a framework's packages, keep them quiet, and find the device."""

from __future__ import annotations

import importlib
import logging
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from camkit.compat import accelerators
from camkit.errors import CamkitError, PackageError, reason
from camkit.models.frameworks import FRAMEWORKS
from camkit.models.torchvision_shim import ensure_torchvision

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings, and log lines below ERROR, of what is imported or run inside."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def import_framework(name: str) -> Any:
    """Import a framework of ``FRAMEWORKS`` with the packages it needs, and return its module.

    torchvision comes first: all of the frameworks import it, and it may need help (see ``ensure_torchvision``).

    Raises:
        PackageError: A package is missing, or doesn't load beside the others.
    """
    framework = FRAMEWORKS[name]
    ensure_torchvision()
    for package in framework.packages:
        try:
            with quiet():
                importlib.import_module(package)
        except ModuleNotFoundError as error:
            raise PackageError(
                f"a package that {framework.title} models need is missing: {error.name}; install with: "
                f"{framework.remedy(error.name)}"
            ) from error
        # AssertionError is how MMPretrain refuses versions; compiled packages fail in many ways beside another torch.
        except Exception as error:
            raise PackageError(
                f"{package} is installed but doesn't load ({reason(error)}); install what fits with: "
                f"{framework.remedy(package)}"
            ) from error
    return importlib.import_module(name)


def find_device(name: str) -> torch.device:
    """The device of that name; ``"cuda"`` alone is the current one.

    Raises:
        CamkitError: This machine doesn't have it.
    """
    available = ["cpu", *accelerators()]
    if name in available or name in {known.partition(":")[0] for known in available}:
        return torch.device(name)
    raise CamkitError(f"no device '{name}' on this machine; available: {', '.join(available)}")
