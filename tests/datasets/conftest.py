"""Data sets need pyarrow, which the check extra brings; where it is missing, that is said."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

collect_ignore_glob = [] if find_spec("pyarrow") else ["test_*.py"]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures, for runs that are disturbed."""
    from tests.datasets.pictures import IMAGES, write_pictures

    return write_pictures(tmp_path_factory.mktemp("data") / "data", IMAGES)


@pytest.fixture(scope="session")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of it that nothing disturbed."""
    from camkit.datasets import run
    from tests.datasets.pictures import classifier

    out = tmp_path_factory.mktemp("undisturbed") / "run"
    run(data, classifier(), out, batch_size=4, workers=0)
    return out
