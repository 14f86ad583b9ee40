"""What the tests of several frameworks use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.pictures import write_photo
from tests.models.installed import installed
from tests.models.loading import Loader


@pytest.fixture
def photo(tmp_path: Path) -> str:
    """A lossless picture of 120 x 90: to the right red falls and blue rises, below red falls and green rises."""
    return write_photo(tmp_path / "photo.png")


@pytest.fixture
def loader(tmp_path: Path) -> Loader:
    """Writes checkpoints and loads them."""
    torch.manual_seed(0)
    return Loader(tmp_path)


@pytest.fixture(scope="module")
def timm() -> Any:
    """timm itself."""
    return installed("timm")


@pytest.fixture(scope="module")
def models() -> Any:
    """torchvision's models."""
    return installed("torchvision").models
