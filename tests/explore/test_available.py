"""Which of the explorer's tests can run here."""

from __future__ import annotations

import pytest

from tests.explore.conftest import MISSING


def test_the_explorers_packages_are_there() -> None:
    if MISSING:
        pytest.skip(f"the explorer's tests need {', '.join(MISSING)}: pip install 'camkit[web]'")
