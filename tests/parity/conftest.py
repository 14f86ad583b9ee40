"""Comparisons with other packages: where one of these isn't installed, they are skipped."""

from __future__ import annotations

import pytest

PACKAGES = ("pytorch_grad_cam", "torchcam", "captum")


@pytest.fixture(scope="session", autouse=True)
def packages() -> None:
    for package in PACKAGES:
        pytest.importorskip(package)
