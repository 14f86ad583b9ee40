"""The explorer needs the packages of the extra web; where they are missing, test_available.py says so."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

NEEDED = ("fastapi", "uvicorn", "jinja2", "pyarrow", "PIL")
MISSING = [name for name in NEEDED if not find_spec(name)]
collect_ignore_glob = ["test_[b-z]*.py"] if MISSING else []


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of three pictures, ``000.png`` and so on."""
    from tests.datasets.pictures import write_pictures

    return write_pictures(tmp_path / "pictures", 3)


@pytest.fixture
def page(pictures: Path) -> Iterator[object]:
    """An explorer of a tiny network and the three pictures, as a client sees it; one that is slow is beside it."""
    from tests.explore.serving import served, tiny

    with served(tiny(pictures)) as client:
        yield client
