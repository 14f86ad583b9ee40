"""What every adapter does around its framework: import it, keep it quiet, find the device, read its options."""

from __future__ import annotations

import ast
import importlib
import logging
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from camkit.adapters.torchvision_shim import ensure_torchvision
from camkit.errors import CamkitError, UsageError, reason

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_WORDS = {"true": True, "false": False, "none": None}


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings and no log lines below ERROR from what is imported or built inside; errors pass."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def import_packages(extra: str, *packages: str) -> Any:
    """Import packages that the extra brings, behind a torchvision that works; the last one.

    Raises:
        CamkitError: One is missing, or doesn't like the versions it finds.
    """
    ensure_torchvision()
    module = None
    for package in packages:
        try:
            with quiet():
                module = importlib.import_module(package)
        except ModuleNotFoundError as error:
            raise CamkitError(
                f"a package that {extra} models need is missing: {error.name}; install with: pip install "
                f"'camkit[{extra}]'"
            ) from error
        except (AssertionError, ImportError) as error:  # AssertionError is how MMPretrain refuses versions
            raise CamkitError(f"can't import {package}: {reason(error)}") from error
    return module


def find_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        CamkitError: This machine doesn't have it.
    """
    available = ["cpu"]
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is not None:
        available += [f"{accelerator.type}:{index}" for index in range(torch.accelerator.device_count())]
    # "cuda" alone is the current one.
    if name in available or name in {known.partition(":")[0] for known in available}:
        return torch.device(name)
    raise CamkitError(f"no device '{name}' on this machine; available: {', '.join(available)}")


def keyword_options(options: Sequence[str]) -> dict[str, Any]:
    """``["num_classes=10", "act_layer=gelu"]`` as keyword arguments; values are Python's, or strings.

    Raises:
        UsageError: An option that isn't KEY=VALUE with the name of a keyword argument.
    """
    found = {}
    for option in options:
        key, equals, text = option.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(f"--cfg-options takes KEY=VALUE, got '{option}'; for example num_classes=10")
        try:
            found[key] = _WORDS[text.lower()] if text.lower() in _WORDS else ast.literal_eval(text)
        except (ValueError, SyntaxError):
            found[key] = text
    return found


def spelled(options: dict[str, Any]) -> str:
    """Options as they are typed."""
    return f"--cfg-options {' '.join(f'{key}={value}' for key, value in options.items())}"
