"""What every test starts from."""

from __future__ import annotations

import pytest

from camkit.adapters.torchvision_shim import ensure_torchvision

# Before grad-cam, timm or MMPretrain import torchvision, which a CPU-only torch may not be able to load.
ensure_torchvision()


@pytest.fixture(scope="session", autouse=True)
def mmengine_logger() -> None:
    """MMEngine's logger keeps the stdout it was born with: that must not be one test's capture, which gets closed."""
    from mmengine.logging import MMLogger

    MMLogger.get_current_instance()
