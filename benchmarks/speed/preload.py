"""What cells import, once: a process per cell is forked from one that has imported this, and run nothing."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module

from benchmarks.speed import contestants, networks
from camkit.models.environment import quiet
from camkit.models.torchvision_shim import ensure_torchvision

__all__ = ["contestants", "networks"]

with quiet():
    ensure_torchvision()
    for package in ("pytorch_grad_cam", "torchcam.methods", "captum.attr", "mmpretrain.models"):
        with suppress(ImportError):
            import_module(package)
