"""Pickled models whose classes aren't here: whose they are, and what to do; never a stranger's package."""

from __future__ import annotations

import collections
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from camkit.errors import CheckpointError
from camkit.models.checkpoint import read_checkpoint
from tests.helpers.refusals import refusal
from tests.models.test_checkpoint import rewrite

NET = """
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 3)
"""
SAVE = "import torch\ntorch.save({expression}, 'net.pth')\n"


def run(folder: Path, script: str) -> Path:
    """What a script of somebody else's leaves in a folder."""
    (folder / "train.py").write_text(script)
    subprocess.run([sys.executable, "train.py"], cwd=folder, check=True, capture_output=True)
    return folder / "net.pth"


def refused(path: Path, *, trust: bool = True) -> str:
    message = refusal(read_checkpoint, CheckpointError, str(path), trust=trust)
    assert "damaged" not in message
    return message


@pytest.mark.parametrize("module", ["models", "utils", "networks.resnet"])
def test_a_module_of_ones_own(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``pip install models`` would bring is a stranger's."""
    source = tmp_path / "own" / f"{module.replace('.', '/')}.py"
    source.parent.mkdir(parents=True)
    source.write_text(NET)
    path = run(tmp_path / "own", f"from {module} import Net\n{SAVE.format(expression='Net()')}")
    message = refused(path)
    top = module.partition(".")[0]
    assert "belongs to the program that wrote it" in message
    assert f"put the folder that holds {top} on PYTHONPATH" in message
    assert "pip install" not in message
    monkeypatch.syspath_prepend(str(tmp_path / "own"))
    try:
        assert read_checkpoint(str(path), trust=True).state_dict["fc.weight"].shape == (3, 2)
    finally:
        for name in [each for each in sys.modules if each.partition(".")[0] == top]:
            del sys.modules[name]


def test_a_class_of_the_script_itself(tmp_path: Path) -> None:
    message = refused(run(tmp_path, NET + SAVE.format(expression="Net()")))
    assert "the class Net of the script that wrote it (__main__)" in message
    assert "torch.save(model.state_dict(), 'weights.pth')" in message
    assert "pip install" not in message


def test_a_module_without_the_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shapes_of_mine.py").write_text(NET)
    path = run(tmp_path, f"from shapes_of_mine import Net\n{SAVE.format(expression='Net()')}")
    (tmp_path / "shapes_of_mine.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert "the shapes_of_mine that is found here has no Net" in refused(path)


@pytest.mark.parametrize(
    ("module", "package"), [("ultralytics.nn.tasks", "ultralytics"), ("pytorch_lightning.x", "pytorch-lightning")]
)
def test_a_published_package_is_named(module: str, package: str, tmp_path: Path) -> None:
    top = module.partition(".")[0]
    if importlib.util.find_spec(top):
        pytest.skip(f"{top} is here")
    folder = tmp_path / "there" / module.rpartition(".")[0].replace(".", "/")
    folder.mkdir(parents=True)
    (folder / f"{module.rpartition('.')[2]}.py").write_text(NET)
    path = run(tmp_path / "there", f"from {module} import Net\n{SAVE.format(expression='Net()')}")
    assert refused(path).endswith(f"needs the package '{package}'; install with: pip install {package}")


def test_another_version_of_a_package_that_is_here(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2), "x": collections.ChainMap}, tmp_path / "net.pth")
    rewrite(tmp_path / "net.pth", b"collections\nChainMap", b"torch.nn.gone\nGone")
    message = refused(tmp_path / "net.pth")
    assert "needs torch.nn.gone, which the torch that is found here doesn't have" in message
    assert "use the version that it was saved with" in message


def test_code_that_fails_is_not_called_damage(tmp_path: Path) -> None:
    script = (
        "import torch, os\nclass Broken:\n    def __reduce__(self):\n        return (int, ('many',))\n"
        + SAVE.format(expression="{'w': torch.ones(2), 'x': Broken()}")
    )
    assert "can't be unpickled here (ValueError: " in refused(run(tmp_path, script))
