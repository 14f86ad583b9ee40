"""The classes of methods, which are generated: that they are up to date, and what a type checker makes of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import camkit
from camkit.errors import UsageError
from camkit.methods import METHODS, Method
from docs.constructors import PACKAGE, files
from tests.helpers.networks import SmallCNN, seeded

CODE = """
import camkit
from torch import nn

model: nn.Module
camkit.ScoreCAM(model, top_k=3)
camkit.ScoreCAM(model, ["layer4"], batch_size=8)
camkit.FinerCAM(model, comparison=[1, 2], output="logits")


class Mine(camkit.GradCAM):
    pass


Mine(model, "layer4")
reveal_type(camkit.explain)
"""
MISTAKES = {
    "camkit.GradCan(model)": '"GradCan"',
    "camkit.ScoreCAM(model, topk=3)": 'Unexpected keyword argument "topk" for "ScoreCAM"; did you mean "top_k"?',
    "camkit.GradCAM(model, batchsize=8)": 'Unexpected keyword argument "batchsize"',
    "camkit.FullGrad(model, target_layers=[])": 'Unexpected keyword argument "target_layers"',
    "camkit.KPCACAM(model, kernel='gauss')": 'Argument "kernel" to "KPCACAM" has incompatible type',
}


@pytest.mark.parametrize("path", files(), ids=lambda path: path.name)
def test_files_are_not_stale(path: Path) -> None:
    assert path.read_text() == files()[path], "run: python -m docs.constructors"


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_each_is_a_class_of_its_method(method: Method) -> None:
    constructor = getattr(camkit, method.identifier)
    assert issubclass(constructor, camkit.CAM)
    cam = constructor(nn.Linear(2, 2))
    assert cam.method == method
    assert dict(cam.method.options) == dict(method.options)


def test_those_of_the_whole_network_refuse_layers() -> None:
    images, model = torch.rand(1, 3, 16, 16), seeded(SmallCNN())
    with pytest.raises(UsageError, match="FullGrad looks at the whole network: leave target layers out"):
        camkit.FullGrad(model, target_layers="conv2")(images)  # type: ignore[call-arg]


@pytest.mark.slow
def test_a_type_checker_knows_them() -> None:
    lines = [*CODE.splitlines(), *MISTAKES]
    root = PACKAGE.parent
    command = [sys.executable, "-m", "mypy", "--config-file", "setup.cfg", "-c", "\n".join(lines)]
    found = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False).stdout
    errors = [line for line in found.splitlines() if line.startswith("<string>:") and ": error: " in line]
    assert len(errors) == len(MISTAKES), found
    first = len(CODE.splitlines()) + 1
    for number, (error, text) in enumerate(zip(errors, MISTAKES.values(), strict=True), first):
        assert error.startswith(f"<string>:{number}: ")
        assert text in error
    assert "def (model: torch.nn" in found
