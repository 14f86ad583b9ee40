"""``import pytorch_grad_cam`` answered by camkit, in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

INSTALL = "from camkit.integrations import pytorch_grad_cam as own; own.install(); "


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


def test_every_module_is_camkits() -> None:
    code = INSTALL + (
        "import sys, pytorch_grad_cam as cam; "
        "from pytorch_grad_cam.utils.image import show_cam_on_image; "
        "from pytorch_grad_cam.metrics.cam_mult_image import DropInConfidence; "
        "import pytorch_grad_cam.utils.model_targets as targets; "
        "assert cam is own and cam.base_cam.BaseCAM is own.BaseCAM and targets is cam.utils.model_targets; "
        "own.install(); "
        "names = [name for name in sys.modules if name.partition('.')[0] == 'pytorch_grad_cam']; "
        "assert all(sys.modules[name].__name__.startswith('camkit.') for name in names); "
        "print(len(names), *sorted(each.__name__ for each in cam.base_cam.BaseCAM.__subclasses__()))"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    count, *classes = done.stdout.split()
    assert int(count) > 30
    assert {"GradCAM", "GradCAMPlusPlus", "EigenCAM", "XGradCAM", "LayerCAM", "EigenGradCAM"} <= set(classes)


def test_importing_needs_neither_grad_cam_nor_what_it_brings() -> None:
    code = (
        "import sys; "
        "sys.modules.update(dict.fromkeys(['pytorch_grad_cam', 'ttach', 'sklearn', 'scipy', 'torchvision', 'cv2'])); "
        "import camkit.integrations.pytorch_grad_cam"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr


@pytest.mark.peers
def test_a_package_that_is_imported_already_is_refused() -> None:
    code = (
        "from camkit.models.torchvision_shim import ensure_torchvision; ensure_torchvision(); "
        "import pytorch_grad_cam; from camkit.integrations.pytorch_grad_cam import install; install()"
    )
    done = python("-c", code)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        "camkit.errors.UsageError: pytorch_grad_cam itself is imported already"
    )


class TestRunningAScript:
    """python -m camkit.integrations.pytorch_grad_cam SCRIPT."""

    def test_with_its_arguments(self, tmp_path: Path) -> None:
        script = tmp_path / "script.py"
        (tmp_path / "beside.py").write_text("value = 3\n")
        script.write_text(
            "import sys, beside\nfrom pytorch_grad_cam import GradCAM\n"
            "print(__name__, GradCAM.__module__, *sys.argv[1:], beside.value)\n"
        )
        done = python("-m", "camkit.integrations.pytorch_grad_cam", str(script), "--flag", "a b")
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == [
            *("__main__", "camkit.integrations.pytorch_grad_cam.grad_cam", "--flag", "a", "b", "3")
        ]

    def test_that_isnt_there(self) -> None:
        done = python("-m", "camkit.integrations.pytorch_grad_cam", "nowhere.py")
        assert done.returncode == 2
        assert done.stderr.startswith("no script 'nowhere.py'; usage: python -m camkit.integrations.pytorch_grad_cam")

    def test_whose_call_is_bad(self, tmp_path: Path) -> None:
        script = tmp_path / "script.py"
        script.write_text(
            "import torch\nfrom pytorch_grad_cam import GradCAM\nGradCAM(torch.nn.ReLU(), [torch.nn.ReLU()])\n"
        )
        done = python("-m", "camkit.integrations.pytorch_grad_cam", str(script))
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1] == ("the ReLU given as target layer is not a submodule of the model")
