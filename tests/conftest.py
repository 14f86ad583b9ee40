"""What every test starts from."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest
import torch

from camkit.models.torchvision_shim import ensure_torchvision

# Where tests run in parallel, a worker has one core.
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)

# Before a framework or another package imports torchvision, which a CPU-only torch may not be able to load.
if find_spec("torchvision"):
    ensure_torchvision()


@pytest.fixture(autouse=True)
def mmengine_logger(request: pytest.FixtureRequest) -> None:
    """MMEngine's logger keeps the stdout it was born with: that must not be one test's capture, which gets closed."""
    if request.node.get_closest_marker("frameworks") and find_spec("mmengine"):
        from mmengine.logging import MMLogger

        MMLogger.get_current_instance()
