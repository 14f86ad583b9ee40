"""What every test starts from."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest
import torch

from camkit.models.torchvision_shim import ensure_torchvision

PEERS = ("pytorch_grad_cam", "torchcam", "captum")
"""Packages that camkit is compared with."""

# Where tests run in parallel, a worker has one core.
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)

# Before a framework or another package imports torchvision, which a CPU-only torch may not be able to load.
if find_spec("torchvision"):
    ensure_torchvision()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture: skip what needs packages that aren't there, and prepare for what a framework does."""
    missing = [package for package in PEERS if not find_spec(package)]
    if missing and item.get_closest_marker("peers"):
        pytest.skip(f"compares with packages that aren't installed: {', '.join(missing)}")
    if item.get_closest_marker("frameworks") and find_spec("mmengine"):
        # MMEngine's logger keeps the stdout it was born with: that must not be one test's capture, which gets closed.
        from mmengine.logging import MMLogger

        MMLogger.get_current_instance()
    # Weights that a framework draws are the same whichever tests ran before.
    torch.manual_seed(0)
