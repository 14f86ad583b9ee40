"""The package as a whole: what is public, what imports what, what an import loads."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import FunctionType

import pytest

import camkit
import camkit.explaining
from camkit.models.frameworks import FRAMEWORKS

PACKAGE = Path(camkit.__file__).parent
# A package, or a module beside them, imports only those behind it.
PACKAGES = [
    "__main__",
    "cli",
    "explore",
    "report",
    "web",
    "integrations",
    "metrics",
    "datasets",
    "constructors",
    "explaining",
    "smoothing",
    "cam",
    "neighbours",
    "raw",
    "explanation",
    "targets",
    "signals",
    "layers",
    "engine",
    "methods",
    "visualize",
    "versions",
    "models",
    "compat",
    "errors",
    "typing",
]
CORE = ("smoothing", "cam", "targets", "signals", "layers", "engine", "methods", "errors", "typing")
HOMES = {package: name for name, framework in FRAMEWORKS.items() for package in framework.packages}
HOMES |= {"huggingface_hub": "timm", "safetensors": "checkpoint"}
"""Packages by the module of camkit.models that may import them, as may those whose names it begins (mmpretrain_...)."""
TRAINERS = {
    "mmengine": "mmengine",
    "lightning": "lightning",
    "pytorch_lightning": "lightning",
    "transformers": "transformers",
    "wandb": "loggers|transformers",
}
"""Packages of trainings by the modules of camkit.integrations that may import them."""

FILES = {str(path.relative_to(PACKAGE)): path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"}
each_file = pytest.mark.parametrize("name", FILES)


def package_of(name: str) -> str:
    """The package, or the module beside packages, that a file belongs to."""
    return Path(name).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Every module imported anywhere in a file, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@each_file
def test_imports_never_point_up(name: str) -> None:
    above = PACKAGES[: PACKAGES.index(package_of(name))]
    assert [each for each in imports(FILES[name]) if each.startswith("camkit.") and each.split(".")[1] in above] == []


def files_of(home: str) -> list[str]:
    """A module of camkit.models and those that its name begins."""
    return [name for name in FILES if re.fullmatch(rf"models/{home}(_\w+)?\.py", name)]


@each_file
def test_frameworks_stay_in_their_module(name: str) -> None:
    found = imports(FILES[name])
    names = {each.partition(".")[0] for each in found}
    own = {each for each in TRAINERS if re.fullmatch(rf"integrations/({TRAINERS[each]})\.py", name)}
    assert {each for each in names - own if each in HOMES and name not in files_of(HOMES[each])} == set()
    assert {each for each in found - own if each in TRAINERS and each not in HOMES} == set()
    assert not names & {"pytorch_grad_cam", "captum", "torchcam"}, "packages to compare with, in tests alone"
    if package_of(name) in CORE:
        assert not names & {"argparse", "cv2", "numpy", "matplotlib", "PIL", "rich"}


def test_only_one_module_registers_hooks() -> None:
    """Hooks on forward and backward, that is, by any of torch's names; loading a state dict has hooks of its own."""
    hook = re.compile(r"register_(?!load_state_dict)\w*hook")
    assert [name for name, path in FILES.items() if hook.search(path.read_text())] == ["engine/hooks.py"]


PUBLIC = """
    AblationCAM AttentionRollout AugSmooth BinaryLogit BoxScore CAM CamkitError CamkitWarning CheckpointError
    ClassActivationMapping DeepFeatureFactorization EigenCAM EigenGradCAM EigenSmooth EmptyMapWarning Explanation
    FEM FinerCAM ForwardError FullGrad GradCAM GradCAMElementWise GradCAMPlusPlus GradientRollout GuidedBackprop
    GuidedGradCAM HiResCAM ISCAM KPCACAM LayerCAM LayerError LeGrad Logit METHODS Method NonFiniteError
    OutputWarning Probability RandomCAM RefineCAM SSCAM ScoreCAM SegEigenCAM SegmentationCategory ShapleyCAM
    Similarity SmoothGradCAMPlusPlus TokenGridError UsageError XGradCAM explain grid layer_names load_raw overlay
    save_picture save_raw
"""


def test_public_names() -> None:
    """A removed name fails here: users import these."""
    assert set(PUBLIC.split()) <= set(dir(camkit)) == set(camkit.__all__)  # type: ignore[attr-defined]
    for name in PUBLIC.split():
        assert getattr(camkit, name) is not None


def test_no_public_name_is_a_module_too() -> None:
    """Importing a module makes it an attribute of the package, in place of a function of that name."""
    assert not {package_of(name) for name in FILES} & set(PUBLIC.split())
    assert isinstance(camkit.explain, FunctionType)


def test_a_misspelt_name_is_answered_with_the_closest() -> None:
    with pytest.raises(AttributeError, match="module 'camkit' has no attribute 'GradCan'; closest: GradCAM, "):
        camkit.GradCan  # type: ignore[attr-defined]  # noqa: B018


def test_version() -> None:
    assert camkit.__version__ == version("camkit")


def loaded_after(code: str) -> set[str]:
    """The top-level packages in a fresh interpreter that ran ``code``."""
    printed = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return set(printed.splitlines()[-1].split())


def test_importing_loads_next_to_nothing() -> None:
    assert not loaded_after("import camkit; dir(camkit); camkit.UsageError") & {"torch", "numpy", "typing_extensions"}


def test_using_the_core_loads_torch_and_nothing_else() -> None:
    loaded = loaded_after("import camkit; camkit.GradCAM; camkit.METHODS; camkit.AugSmooth")
    assert "torch" in loaded
    # numpy comes with torch.
    assert not loaded & {"cv2", "matplotlib", "mmpretrain", "mmengine", "mmcv", "timm", "torchvision", "rich"}


@pytest.mark.parametrize("arguments", ["['--help']", "['--version']", "['vis_cam']"])
def test_help_loads_no_torch(arguments: str) -> None:
    loaded = loaded_after(f"from camkit.cli.main import main\ntry: main({arguments})\nexcept SystemExit: pass")
    assert "camkit" in loaded
    assert "torch" not in loaded


def test_the_recorder_loads_no_framework() -> None:
    loaded = loaded_after("from camkit.integrations import Recorder")
    assert "torch" in loaded
    assert not loaded & {"mmpretrain", "mmengine", "lightning", "transformers", "tensorboard", "wandb", "torchvision"}


def test_help_of_a_command_loads_no_mmpretrain() -> None:
    loaded = loaded_after("from camkit.cli.main import main\ntry: main(['vis-cam', '--help'])\nexcept SystemExit: pass")
    assert not loaded & {"mmpretrain", "mmengine", "mmcv", "torchvision"}
