"""The list of frameworks, and what CONFIG may be."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib import import_module
from importlib.metadata import requires
from pathlib import Path

import pytest

from camkit.errors import UsageError
from camkit.models.frameworks import (
    FRAMEWORKS,
    config_forms,
    find_framework,
    framework_titles,
    prefixed_forms,
    prefixed_name,
)
from camkit.models.load import load
from tests.helpers.refusals import refusal


def test_every_framework_has_a_module_with_the_same_load() -> None:
    signatures = {str(inspect.signature(import_module(f"camkit.models.{name}").load)) for name in FRAMEWORKS}
    assert len(signatures) == 1
    ours = inspect.signature(load).parameters.keys() - {"config", "cfg_options", "activation"}
    assert inspect.signature(import_module("camkit.models.timm").load).parameters.keys() - {"name", "options"} == ours


def test_every_framework_has_an_extra_that_installs_it() -> None:
    requirements = requires("camkit") or []
    for framework in FRAMEWORKS.values():
        own = [each for each in requirements if f'extra == "{framework.name}"' in each.replace("'", '"')]
        assert any(requirement.startswith(framework.name) for requirement in own)
        assert framework.install == f"pip install 'camkit[{framework.name}]'"
        assert framework.packages[-1] == framework.name


@pytest.mark.parametrize(
    ("config", "name", "model"),
    [
        ("timm:resnet18", "timm", "resnet18"),
        ("timm:hf-hub:timm/resnet18.a1_in1k", "timm", "hf-hub:timm/resnet18.a1_in1k"),
        ("torchvision:resnet18", "torchvision", "resnet18"),
        ("transformers:some/folder", "transformers", "some/folder"),
        ("resnet18_8xb32_in1k", "mmpretrain", "resnet18_8xb32_in1k"),
        ("mmpretrain:resnet18_8xb32_in1k", "mmpretrain", "resnet18_8xb32_in1k"),
        ("https://host/config.py", "mmpretrain", "https://host/config.py"),
        (r"C:\configs\mine.py", "mmpretrain", r"C:\configs\mine.py"),
        ("d:/configs/mine.py", "mmpretrain", "d:/configs/mine.py"),
    ],
)
def test_config_names_a_framework_and_a_model(config: str, name: str, model: str) -> None:
    assert find_framework(config) == (FRAMEWORKS[name], model)


def test_a_file_may_have_a_colon_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "timm:b.py").touch()
    config = str(tmp_path / "timm:b.py")
    assert find_framework(config) == (FRAMEWORKS["mmpretrain"], config)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("tim:resnet18", "no framework 'tim' in tim:resnet18; closest: timm; CONFIG is an MMPretrain config file"),
        ("keras:resnet18", "no framework 'keras' in keras:resnet18; CONFIG is an MMPretrain config file"),
        ("timm:", "timm: names no model; CONFIG is an MMPretrain config file"),
    ],
)
def test_what_names_none(config: str, says: str) -> None:
    assert refusal(find_framework, UsageError, config).startswith(says)


@pytest.mark.parametrize(
    ("config", "meant"),
    [
        ("timm/resnet18.a1_in1k", "timm:resnet18.a1_in1k"),
        ("torchvision.models.resnet18", "torchvision:resnet18"),
        ("configs/resnet18.py", None),
        ("resnet18", None),
    ],
)
def test_a_framework_in_front_without_the_colon(config: str, meant: str | None) -> None:
    assert prefixed_name(config) == meant


def test_texts() -> None:
    others = "timm:NAME, torchvision:NAME or transformers:FOLDER"
    assert config_forms() == f"an MMPretrain config file or model name, {others}"
    assert prefixed_forms() == others
    assert framework_titles() == "MMPretrain, timm, torchvision or transformers"


def test_the_list_and_versions_need_no_torch() -> None:
    code = "import sys, camkit.versions; camkit.versions.versions(); print('torch' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "False"
