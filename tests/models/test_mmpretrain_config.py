"""Configs with bases in packages, with imports or one data loader, and those that can't be read."""

from __future__ import annotations

import inspect
import sys
from functools import partial
from importlib.util import spec_from_loader
from pathlib import Path
from typing import Any

import pytest
from torch.testing import assert_close

from camkit.errors import CamkitError, UsageError
from camkit.models import mmpretrain
from camkit.models.mmpretrain_packages import find_packages
from tests.helpers.refusals import refusal
from tests.models.installed import installed
from tests.models.mmpretrain_kit import MODEL, RESIZE, RGB, assert_same, own_of, write_config

pytestmark = [
    pytest.mark.frameworks,
    pytest.mark.filterwarnings("ignore::camkit.errors.EmptyMapWarning"),  # as weights are drawn
]

load = partial(mmpretrain.load, pretrained=False)

LOAD = f"dict(type='LoadImageFromFile'), {RESIZE}"
LAZY_BASE = """
from mmpretrain.datasets import CustomDataset, LoadImageFromFile, PackInputs
from mmcv.transforms import Resize
from mmpretrain.models import GlobalAveragePooling, ImageClassifier, LinearClsHead, ResNet

model = dict(
    type=ImageClassifier, backbone=dict(type=ResNet, depth=18, stem_channels=8, base_channels=8),
    neck=dict(type=GlobalAveragePooling), head=dict(type=LinearClsHead, num_classes=10, in_channels=64),
)
data_preprocessor = dict(mean=[120.0, 115.0, 105.0], std=[58.0, 57.0, 56.0], to_rgb=True)
pipeline = [dict(type=LoadImageFromFile), dict(type=Resize, scale=(48, 40)), dict(type=PackInputs)]
test_dataloader = dict(
    dataset=dict(type=CustomDataset, data_prefix='.', ann_file='images.txt', with_label=True, pipeline=pipeline)
)
"""


@pytest.fixture(autouse=True)
def _installed() -> None:
    installed("mmpretrain")


CALLS: list[str] = []
"""Of the stand-in for ``pkg_resources``."""


class DistributionNotFound(Exception):  # noqa: N818  the stand-in's
    """As ``pkg_resources`` has it."""


class OldSetuptools:
    """Finds ``pkg_resources``: a stand-in that knows no package and counts its calls."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return spec_from_loader(name, self) if name == "pkg_resources" else None  # type: ignore[arg-type]

    def create_module(self, spec: Any) -> None:
        return None

    def exec_module(self, module: Any) -> None:
        def get_distribution(name: str) -> None:
            CALLS.append(name)
            raise DistributionNotFound

        vars(module).update(DistributionNotFound=DistributionNotFound, get_distribution=get_distribution)


@pytest.fixture(params=["as it is", "setuptools 81", "setuptools 80"])
def packages(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With and without ``pkg_resources``."""
    if request.param == "setuptools 81":
        monkeypatch.setitem(sys.modules, "pkg_resources", None)
    if request.param == "setuptools 80":
        monkeypatch.setattr(sys, "meta_path", [OldSetuptools(), *sys.meta_path])
        monkeypatch.setitem(sys.modules, "pkg_resources", None)  # to be put back in the end
        del sys.modules["pkg_resources"]
        CALLS.clear()
    return str(request.param)


@pytest.fixture
def lazy_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that holds a config."""
    folder = tmp_path / "packages" / "lazyconfigs"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "base.py").write_text(LAZY_BASE)
    monkeypatch.syspath_prepend(str(folder.parent))


def asks_pkg_resources() -> bool:
    """Whether MMEngine does; its fork doesn't."""
    from mmengine.utils import package_utils

    return "pkg_resources" in inspect.getsource(package_utils)


@pytest.mark.usefixtures("lazy_package")
@pytest.mark.parametrize("form", ["mmpretrain::", "read_base, a file", "read_base, a package"])
def test_bases_in_packages(tmp_path: Path, photo: str, packages: str, form: str) -> None:
    """They load with every setuptools, equal MMPretrain's own, and leave no pkg_resources behind."""
    if form == "mmpretrain::":
        changes = "dict(depth=18, stem_channels=8, base_channels=8)"
        (tmp_path / "config.py").write_text(
            "_base_ = 'mmpretrain::resnet/resnet50_8xb32_in1k.py'\n"
            f"model = dict(backbone={changes}, head=dict(num_classes=10, in_channels=64))\n"
            f"data_preprocessor = dict(mean=[1.0, 2.0, 3.0])\npipeline = [{LOAD}, dict(type='PackInputs')]\n"
            "test_dataloader = dict(dataset=dict(_delete_=True, type='CustomDataset', data_prefix='.', "
            "ann_file='images.txt', with_label=True, pipeline=pipeline))\n"
        )
    else:
        (tmp_path / "base.py").write_text(LAZY_BASE)
        module = ".base" if form == "read_base, a file" else "lazyconfigs.base"
        (tmp_path / "config.py").write_text(
            f"from mmengine.config import read_base\nwith read_base():\n    from {module} import *\n"
            "data_preprocessor.update(mean=[1.0, 2.0, 3.0])\n"
        )
    config = str(tmp_path / "config.py")
    classifier = load(config, None)
    if packages == "setuptools 81":
        assert sys.modules["pkg_resources"] is None
    if packages == "setuptools 80" and form != "read_base, a file" and asks_pkg_resources():
        assert CALLS
    with find_packages():  # MMPretrain itself can't read it otherwise
        own = own_of(config, classifier, photo)
    assert_same(classifier, photo, own)


def test_find_packages_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmengine import utils
    from mmengine.config import config

    monkeypatch.setitem(sys.modules, "pkg_resources", None)
    before = config.get_installed_path, config.is_installed, utils.is_installed
    with find_packages():
        assert config.is_installed("mmpretrain")
        assert utils.is_installed("torch")
        assert not config.is_installed("nothing_of_that_name")
        assert (Path(config.get_installed_path("mmpretrain")) / "__init__.py").is_file()
    with pytest.raises(ImportError, match="nothing_of_that_name"), find_packages():
        config.get_installed_path("nothing_of_that_name")
    assert (config.get_installed_path, config.is_installed, utils.is_installed) == before


@pytest.mark.parametrize("loaders", ["val_dataloader = test_dataloader\ntest_dataloader = None", "val alone", "{}"])
def test_only_a_validation_set(tmp_path: Path, photo: str, loaders: str) -> None:
    expected = load(write_config(tmp_path, LOAD), None).prepare(photo).inputs
    config = Path(write_config(tmp_path, LOAD, extra=loaders if "=" in loaders else ""))
    if loaders == "val alone":
        config.write_text(config.read_text().replace("test_dataloader", "val_dataloader"))
    if loaders == "{}":
        text = config.read_text().replace("test_dataloader", "val_dataloader")
        config.write_text(f"{text}test_dataloader = dict()\n")
    assert_close(load(str(config), None).prepare(photo).inputs, expected, rtol=0, atol=0)


def test_an_old_config_is_named_as_such(tmp_path: Path, photo: str) -> None:
    """Its model alone loads."""
    config = tmp_path / "old.py"
    pipeline = "[dict(type='LoadImageFromFile'), dict(type='ImageToTensor', keys=['img'])]"
    text = f"model = {MODEL}\ndata = dict(samples_per_gpu=32, test=dict(type='ImageNet', pipeline={pipeline}))\n"
    config.write_text(text)
    message = refusal(load(str(config), None).prepare, UsageError, photo)
    assert message.startswith(f"the config {config} is MMClassification 0.x's (data = dict(test=...)")
    assert "https://mmpretrain.readthedocs.io/en/latest/migration.html" in message
    config.write_text(text.replace("num_classes=10", "num_classes=10, topk=(1, 5), cal_acc=True, gone=1"))
    assert "the config is MMClassification 0.x's" in refusal(load, CamkitError, str(config), None)
    config.write_text(f"custom_imports = dict(imports=['mmcls.models'])\n{text}")
    assert "mmcls is MMClassification 0.x's package" in refusal(load, UsageError, str(config), None)


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (None, "ModuleNotFoundError: No module named 'mine'); put the folder that holds mine on PYTHONPATH"),
        ("import nothing_of_that_name", "it needs nothing_of_that_name, which isn't installed or on PYTHONPATH"),
        ("x = (", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("from mmpretrain.models import Gone", "cannot import name 'Gone'"),
    ],
)
def test_custom_imports_that_fail(
    tmp_path: Path, module: str | None, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if module is not None:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "steps.py").write_text(module)
        monkeypatch.syspath_prepend(str(tmp_path))
    imports = "custom_imports = dict(imports=['mine.steps'])"
    config = write_config(tmp_path, LOAD, extra=imports)
    message = refusal(load, UsageError, config, None)
    assert message.startswith(f"can't import mine.steps, which custom_imports in the config {config} names (")
    assert says in message
    sys.modules.pop("mine", None)
    if module is None:
        extra = imports.replace("])", "], allow_failed_imports=True)")
        load(write_config(tmp_path, LOAD, extra=extra), None)


def test_custom_imports(tmp_path: Path, photo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_steps.py").write_text(
        "from mmpretrain.registry import TRANSFORMS\n\n\n@TRANSFORMS.register_module(force=True)\n"
        "class Mine:\n    def __call__(self, results):\n        return results | {'img': results['img'] // 2}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for form in ("['my_steps']", "'my_steps'"):
        extra = f"custom_imports = dict(imports={form}, allow_failed_imports=False)"
        config = write_config(tmp_path, f"{LOAD}, dict(type='Mine')", extra=extra)
        classifier = load(config, None)
        assert_same(classifier, photo, own_of(config, classifier, photo))
    config = write_config(tmp_path, LOAD, extra="custom_imports = dict(imports=[3])")
    assert "custom_imports in the config" in refusal(load, UsageError, config, None)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (r"C:\configs\resnet50_8xb32_in1k.py", r"no config file C:\configs\resnet50_8xb32_in1k.py; closest model name"),
        ("D:/configs/mine.yml", "no config file D:/configs/mine.yml"),
        ("timm/resnet18", "no config file timm/resnet18; for that model write timm:resnet18; CONFIG is an MMPretrain"),
        ("timm/resnet18.a1_in1k", "for that model write timm:resnet18.a1_in1k"),
        ("torchvision.models.resnet18", "for that model write torchvision:resnet18"),
        ("transformers/some/folder", "for that model write transformers:some/folder"),
    ],
)
def test_config_in_other_spellings(config: str, says: str) -> None:
    from camkit.models.load import load as load_any

    assert says in refusal(load_any, UsageError, config, pretrained=False)


def test_a_folder_and_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "is a folder, not a config" in refusal(load, UsageError, str(tmp_path), None)
    write_config(tmp_path, LOAD, preprocessor=RGB)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load("~/config.py", None).source == str(tmp_path / "config.py")
