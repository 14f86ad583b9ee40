"""What every test starts from. The process that only hands out tests to others imports nothing of it."""

from __future__ import annotations

import os
from collections.abc import Generator
from functools import cache
from importlib.util import find_spec

import pytest

TOO_OLD = {
    "FullGrad needs torch 2.2 or newer": "no FullGrad",
    "not implemented for 'Half'": "no float16 on the CPU",
}
"""What torch before 2.2 says, and what it lacks."""
PEERS = ("pytorch_grad_cam", "torchcam", "captum")
"""Packages that camkit is compared with."""


def pytest_collectstart() -> None:
    """Before test files are imported."""
    prepare()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture."""
    if missing() and item.get_closest_marker("peers"):
        pytest.skip(f"compares with packages that aren't installed: {', '.join(missing())}")
    if item.get_closest_marker("frameworks"):
        prepare_mmengine()
    # Weights that a framework draws are the same whichever tests ran before.
    import torch

    torch.default_generator.manual_seed(0)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Generator[None, object, object]:
    """Skip what an old torch can't do, with its own words, whichever test asks for it."""
    try:
        return (yield)
    except Exception as error:
        reason = next((text for text in TOO_OLD if text in str(error)), None)
        if reason is None or not is_old():
            raise
        pytest.skip(f"torch before 2.2: {TOO_OLD[reason]}")


def is_old() -> bool:
    """Whether torch is older than what most tests take for granted."""
    from camkit.compat import torch_version

    return torch_version() < (2, 2)


@cache
def prepare() -> None:
    """One thread for each of several workers; torchvision before frameworks and other packages import it."""
    import torch

    from camkit.models.torchvision_shim import ensure_torchvision

    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)
    if find_spec("torchvision"):
        ensure_torchvision()


@cache
def missing() -> list[str]:
    """The packages of PEERS that aren't installed."""
    return [package for package in PEERS if not find_spec(package)]


@cache
def prepare_mmengine() -> None:
    """MMEngine's logger keeps the stdout it was born with: that must not be one test's capture, which gets closed."""
    if find_spec("mmengine"):
        from mmengine.logging import MMLogger

        MMLogger.get_current_instance()
