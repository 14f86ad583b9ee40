"""Checkpoints in the safetensors format."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from camkit.errors import CheckpointError
from camkit.models.checkpoint import read_checkpoint
from tests.helpers.refusals import refusal

if TYPE_CHECKING:
    from pathlib import Path

save_file = pytest.importorskip("safetensors.torch").save_file


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def refused(path: Path) -> str:
    message = refusal(read_checkpoint, CheckpointError, str(path))
    assert str(path) in message
    return message


@pytest.mark.parametrize("name", ["net.safetensors", "net.pth", "net"])
def test_known_by_what_is_in_it(tmp_path: Path, net: nn.Module, name: str) -> None:
    path = tmp_path / name
    save_file(net.state_dict(), path, metadata={"format": "pt"})
    got = read_checkpoint(str(path))
    torch.testing.assert_close(dict(got.state_dict), dict(net.state_dict()), rtol=0, atol=0)
    assert got.meta == {"format": "pt"}
    assert got.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("keep", [4, 8, 20, 300, -1])
def test_truncated(tmp_path: Path, net: nn.Module, keep: int) -> None:
    path = tmp_path / "x.safetensors"
    save_file(net.state_dict(), path)
    path.write_bytes(path.read_bytes()[:keep])
    assert "damaged" in refused(path)


def test_what_is_called_safetensors_and_is_not(tmp_path: Path, net: nn.Module) -> None:
    path = tmp_path / "x.safetensors"
    path.write_text("<html>404 Not Found</html>\n" * 9)
    assert "damaged" in refused(path)
    torch.save(net.state_dict(), path)
    assert "damaged" in refused(path)
    save_file({}, path)
    assert "no state dict" in refused(path)
