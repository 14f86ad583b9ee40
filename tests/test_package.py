"""The package as a whole: what is public, what imports what, what an import costs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import camkit

PACKAGE = Path(camkit.__file__).parent
# Lower rooms never import higher ones.
FLOORS = [
    {"errors", "versions", "shapes", "memory"},
    {"layers", "capture", "functions", "state", "maps", "outputs"},
    {"methods.requests", "methods.options"},
    {"methods.registry", "methods.objectives"},
    {"methods.reductions"},
    {"methods.activation", "methods.gradient", "methods.scored", "methods.attention", "methods.concept"},
    {"methods.pixel"},
    {"methods"},
    {"survey", "targets", "objectives"},
    {"tokens", "trial"},
    {"layout", "recording"},
    {"forward"},
    {"run", "tail", "batching"},
    {"probe", "scoring", "attention", "pixels", "noise"},
    {"concepts", "linearity"},
    {"answers"},
    {"evidence"},
    {"cam"},
    {"smoothing"},
    {"compose"},
    {"page", "geometry", "checkpoint", "demo_model"},
    {"render"},
    {"sheet", "save", "show"},
    {"adapters", "adapters.prepared", "adapters.torchvision_shim"},
    {"adapters.pipeline", "adapters.classifier", "adapters.framework", "adapters.fitting"},
    {"adapters.photo"},
    {"adapters.mmpretrain", "adapters.timm", "adapters.torchvision", "adapters.transformers"},
    {"adapters.loading"},
    {"commands", "commands.progress", "commands.table"},
    {"commands.job"},
    {"commands.arguments"},
    {"commands.vis_cam", "commands.demo", "commands.layers", "commands.methods"},
    {"commands.gallery"},
    {"cli"},
    {"__main__"},
]
HEIGHT = {room: height for height, floor in enumerate(FLOORS) for room in floor}
ADAPTING = {"page", "render", "sheet", "geometry", "checkpoint", "demo_model", "save", "show", "cli", "__main__"}
LEAVES = {room for room in HEIGHT if room not in ADAPTING and room.partition(".")[0] not in ("adapters", "commands")}

HOMES = {
    **dict.fromkeys(("mmpretrain", "mmengine", "mmcv"), "adapters.mmpretrain"),
    **dict.fromkeys(("timm", "huggingface_hub"), "adapters.timm"),
    "torchvision": "adapters.torchvision",
    "transformers": "adapters.transformers",
    "safetensors": "checkpoint",
}


def rooms() -> dict[str, Path]:
    """Dotted name below camkit to file."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:
            found[name] = path
    return found


def imports(path: Path) -> set[str]:
    """Every module imported anywhere in a file, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_every_room_has_its_floor() -> None:
    assert set(rooms()) == set(HEIGHT)


@pytest.mark.parametrize("room", HEIGHT)
def test_imports_never_point_up(room: str) -> None:
    for target in imports(rooms()[room]):
        below = target.removeprefix("camkit.")
        if target.startswith("camkit.") and below in HEIGHT:
            assert HEIGHT[below] <= HEIGHT[room], f"{room} imports {below}"


@pytest.mark.parametrize("room", HEIGHT)
def test_frameworks_stay_in_their_adapters(room: str) -> None:
    names = {target.partition(".")[0] for target in imports(rooms()[room])}
    for framework, home in HOMES.items():
        assert framework not in names or room == home
    assert not names & {"pytorch_grad_cam", "captum", "torchcam"}
    if room in LEAVES:
        assert not names & {"argparse", "cv2", "numpy", "matplotlib", "timm", "torchvision"}


def test_only_capture_registers_hooks() -> None:
    """Hooks on forward and backward, that is, by any of torch's names; loading a state dict has hooks of its own."""
    hook = re.compile(r"register_(?!load_state_dict)\w*hook")
    users = {room for room, path in rooms().items() if hook.search(path.read_text())}
    assert users == {"capture"}


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
    assert sorted(dir(camkit)) == PUBLIC.split()
    assert sorted(camkit.__all__) == PUBLIC.split()
    for name in PUBLIC.split():
        assert getattr(camkit, name) is not None
    with pytest.raises(AttributeError, match="module 'camkit' has no attribute 'GradCAN'"):
        camkit.GradCAN  # noqa: B018


def loaded_after(code: str) -> set[str]:
    """The top-level packages in a fresh interpreter that ran ``code``."""
    printed = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return set(printed.splitlines()[-1].split())


def test_importing_and_using_the_core_loads_torch_and_nothing_else() -> None:
    loaded = loaded_after("import camkit; camkit.CAM; camkit.METHODS; camkit.AugSmooth")
    assert "torch" in loaded
    # numpy comes with torch.
    assert not loaded & {"cv2", "matplotlib", "mmpretrain", "mmengine", "mmcv", "timm", "torchvision", "rich"}


@pytest.mark.parametrize("arguments", ["['--help']", "['--version']", "['vis_cam']"])
def test_help_loads_no_torch(arguments: str) -> None:
    loaded = loaded_after(f"from camkit.cli import main\ntry: main({arguments})\nexcept SystemExit: pass")
    assert "camkit" in loaded
    assert "torch" not in loaded


def test_help_of_a_command_loads_no_mmpretrain() -> None:
    loaded = loaded_after("from camkit.cli import main\ntry: main(['vis-cam', '--help'])\nexcept SystemExit: pass")
    assert not loaded & {"mmpretrain", "mmengine", "mmcv", "torchvision"}
