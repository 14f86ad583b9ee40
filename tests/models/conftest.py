"""What the tests of several frameworks use."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.pictures import write_photo


@pytest.fixture
def photo(tmp_path: Path) -> str:
    """A lossless picture of 120 x 90: to the right red falls and blue rises, below red falls and green rises."""
    return write_photo(tmp_path / "photo.png")
