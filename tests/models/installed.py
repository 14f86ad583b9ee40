"""Frameworks in tests."""

from __future__ import annotations

from typing import Any

import pytest

from camkit.errors import CamkitError
from camkit.models.environment import import_framework


def installed(name: str) -> Any:
    """A framework's module, imported as camkit does; where it isn't installed, the test is skipped."""
    try:
        return import_framework(name)
    except CamkitError as error:
        pytest.skip(str(error))
