"""What camkit says where packages are missing, too old or broken. Stand-ins of theirs run in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from camkit.models.frameworks import FRAMEWORKS, installed
from camkit.versions import require_torch, versions

CALL = "from camkit.cli.main import main; sys.exit(main(sys.argv[1:]))"


def run(folder: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code in front of whose imports the modules in ``folder`` stand."""
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); {code}"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


def module(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.py").write_text(text, encoding="utf-8")


TORCH = {
    "raise ModuleNotFoundError('No module', name='torch')": (
        "camkit needs torch 2.1 or newer, which is missing: pip install torch"
    ),
    "__version__ = '1.13.1+cu117'": (
        "camkit needs torch 2.1 or newer, this is 1.13.1+cu117: pip install --upgrade torch"
    ),
    "raise OSError('libcudart.so.12: cannot open shared object file')": (
        "torch is installed but doesn't load (libcudart.so.12: cannot open shared object file): "
        "pip install --force-reinstall torch"
    ),
    "raise ModuleNotFoundError('No module', name='filelock')": (
        "torch doesn't load without filelock: pip install filelock"
    ),
}
NO_NUMPY = """
__version__ = "2.1.2"
class zeros:
    def __init__(self, *size): pass
    def numpy(self): raise RuntimeError("Numpy is not available")
"""


@pytest.mark.parametrize("text", TORCH)
def test_torch_that_will_not_do(text: str, tmp_path: Path) -> None:
    module(tmp_path, "torch", text)
    done = run(tmp_path, CALL, "methods")
    assert (done.returncode, done.stderr) == (1, f"camkit: error: {TORCH[text]}\n")
    library = run(tmp_path, "import camkit\ntry: camkit.GradCAM\nexcept ImportError as error: print(error)")
    assert library.stdout == f"{TORCH[text]}\n"


def test_torch_that_knows_no_numpy(tmp_path: Path) -> None:
    module(tmp_path, "torch", NO_NUMPY)
    done = run(tmp_path, CALL, "methods")
    expected = f"torch 2.1.2 can't use NumPy ({installed('numpy')}): pip install 'numpy<2', or a newer torch"
    assert (done.returncode, done.stderr) == (1, f"camkit: error: {expected}\n")


def test_help_and_env_need_no_torch(tmp_path: Path) -> None:
    module(tmp_path, "torch", "raise ModuleNotFoundError('No module', name='torch')")
    for arguments in (["--help"], ["--version"], ["env"]):
        done = run(tmp_path, CALL, *arguments)
        assert (done.returncode, done.stderr) == (0, "")
    assert "torch         camkit needs torch 2.1 or newer, which is missing: pip install torch" in done.stdout


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "raise ModuleNotFoundError('No module', name='cv2')",
            "camkit draws with OpenCV, which is missing: pip install",
        ),
        (
            "raise ImportError('libGL.so.1: cannot open shared object file')",
            "OpenCV is installed but doesn't load (libGL.so.1: cannot open shared object file)",
        ),
    ],
)
def test_no_opencv(text: str, says: str, tmp_path: Path) -> None:
    module(tmp_path, "cv2", text)
    done = run(tmp_path, CALL, "vis-cam", "x.png", "timm:resnet18")
    assert done.returncode == 1
    assert done.stderr.startswith(f"camkit: error: {says}")
    assert done.stderr.count("\n") == 1
    assert says in run(tmp_path, CALL, "env").stdout
    maps = (
        "import torch, camkit\n"
        "net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())\n"
        "print(tuple(camkit.GradCAM(net, ['0'])(torch.ones(1, 3, 8, 8)).shape))"
    )
    assert run(tmp_path, maps).stdout == "(1, 8, 8)\n"


@pytest.mark.parametrize("error", ["AttributeError('no ops')", "OSError('undefined symbol: x')", "ImportError('old')"])
def test_a_torchvision_that_belongs_to_another_torch(error: str, tmp_path: Path) -> None:
    module(tmp_path, "torchvision", f"raise {error}")
    done = run(tmp_path, CALL, "layers", "timm:resnet18")
    assert done.returncode == 1
    assert done.stderr.startswith("camkit: error: torchvision doesn't load beside torch ")
    assert done.stderr.endswith("'\n")
    assert "pip install 'torchvision==0." in done.stderr


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "raise ModuleNotFoundError('No module', name='mmcv')",
            "a package that MMPretrain models need is missing: mmcv;",
        ),
        ("assert False, 'MMCV==1.7 is used but incompatible'", "mmcv is installed but doesn't load (MMCV==1.7 is used"),
        ("raise ImportError('_ext.so: undefined symbol')", "mmcv is installed but doesn't load (_ext.so: undefined"),
    ],
)
def test_an_mmcv_that_does_not_fit(text: str, says: str, tmp_path: Path) -> None:
    # torchvision and MMEngine need not be there to see what is said of mmcv.
    module(tmp_path, "torchvision", "")
    module(tmp_path, "mmengine", "")
    module(tmp_path, "mmcv", text)
    done = run(tmp_path, CALL, "layers", "resnet18_8xb32_in1k")
    assert done.returncode == 1
    assert done.stderr.startswith(f"camkit: error: {says}")
    assert done.stderr.endswith(f"{FRAMEWORKS['mmpretrain'].remedy('mmcv')}\n")


def test_a_fork_is_mended_with_the_forks_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"onedl-mmpretrain": "1.3.6"}
    monkeypatch.setattr("camkit.models.frameworks.installed", known.get)
    assert FRAMEWORKS["mmpretrain"].remedy("mmcv") == "pip install onedl-mmcv"
    assert FRAMEWORKS["mmpretrain"].remedy("addict") == "pip install 'camkit[mmpretrain]'"
    known.clear()
    assert FRAMEWORKS["mmpretrain"].remedy("mmcv") == "pip install 'camkit[mmpretrain]'"


def test_env_names_everything_a_report_needs() -> None:
    done = subprocess.run([sys.executable, "-m", "camkit", "env"], capture_output=True, text=True, check=True)
    named = [line.split()[0] for line in done.stdout.splitlines()]
    wanted = ["camkit", "Python", "torch", "devices", "NumPy", "OpenCV", "matplotlib", "rich", "pyarrow", "ray"]
    assert named == [*wanted, "MMPretrain", "timm", "torchvision", "transformers"]


def test_a_console_without_the_characters(tmp_path: Path) -> None:
    code = (
        "import sys; sys.stdout.reconfigure(encoding='cp1252'); import camkit.cli.methods as methods; "
        "methods.markdown = lambda: chr(0x732b); " + CALL
    )
    assert run(tmp_path, code, "methods", "--markdown").stdout == "\\u732b\n"


def test_this_torch_will_do() -> None:
    require_torch()
    assert {"python", "torch", "numpy"} <= versions().keys()
