"""Devices, silence, and packages that are missing or don't load."""

from __future__ import annotations

import logging
import subprocess
import sys
import types
import warnings
from pathlib import Path

import pytest
import torch

from camkit.errors import CamkitError, PackageError
from camkit.models.environment import find_device, import_framework, quiet
from camkit.models.torchvision_shim import ensure_torchvision
from tests.helpers.refusals import refusal


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "", "meta", "cpu:1:2"])
def test_a_device_that_is_not_there(device: str) -> None:
    message = refusal(find_device, CamkitError, device)
    assert message.startswith(f"no device '{device}' on this machine; available: cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_without_cuda() -> None:
    assert refusal(find_device, CamkitError, "cuda") == "no device 'cuda' on this machine; available: cpu"
    assert find_device("cpu") == torch.device("cpu")


def test_quiet_is_over_afterwards(caplog: pytest.LogCaptureFixture) -> None:
    before = logging.root.manager.disable
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with quiet():
            warnings.warn("unheard", stacklevel=1)
            logging.getLogger("x").warning("unlogged")
            logging.getLogger("x").error("an error")
        warnings.warn("heard", stacklevel=1)
    logging.getLogger("x").warning("logged")
    assert [str(each.message) for each in heard] == ["heard"]
    assert [record.message for record in caplog.records] == ["an error", "logged"]
    assert logging.root.manager.disable == before


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A torchvision that loads."""
    module = types.ModuleType("torchvision")
    monkeypatch.setitem(sys.modules, "torchvision", module)
    return module


def test_a_torchvision_that_works_is_not_touched(torchvision: types.ModuleType) -> None:
    ensure_torchvision()
    assert sys.modules["torchvision"] is torchvision


def test_a_missing_package_is_named(torchvision: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    assert refusal(import_framework, PackageError, "timm") == (
        "a package that timm models need is missing: timm; install with: pip install 'camkit[timm]'"
    )
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert "torchvision; install with: pip install 'camkit[torchvision]'" in refusal(ensure_torchvision, PackageError)


def test_a_package_that_refuses_others_versions(
    torchvision: types.ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    (tmp_path / "timm.py").write_text("assert False, 'torch 2.13 is too new. Sorry'")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert refusal(import_framework, PackageError, "timm") == (
        "timm is installed but doesn't load (torch 2.13 is too new); install what fits with: pip install 'camkit[timm]'"
    )


BROKEN = """
import torch
torch._C._dispatch_has_kernel_for_dispatch_key("torchvision::nms", "Meta")  # where the mismatched build fails
from torchvision import half
"""
SHIM = """
from camkit.models.torchvision_shim import ensure_torchvision
ensure_torchvision()
ensure_torchvision()
import torchvision
assert torchvision.half.ready
"""


def test_a_torchvision_that_does_not_load_is_helped(tmp_path: Path) -> None:
    """A stand-in that fails as the mismatched build does, in a fresh interpreter; said once, in one line."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(BROKEN)
    (tmp_path / "torchvision" / "half.py").write_text("ready = True")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{SHIM}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == done.stderr.count("NMS") == 1


def test_other_trouble_with_torchvision_is_not_swallowed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('something else')")
    monkeypatch.syspath_prepend(str(tmp_path))
    message = refusal(ensure_torchvision, PackageError)
    assert message.startswith("torchvision doesn't load beside torch ")
    assert "(something else): pip install 'torchvision==" in message
