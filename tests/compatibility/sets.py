"""The sets of versions that camkit is run with. Needs the standard library alone."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Versions:
    """One environment; the versions stand in ``constraints/NAME.txt``.

    Attributes:
        python: The interpreter's version.
        who: Whose environment it is.
        extras: Of camkit.
        packages: What is installed beside camkit.
        config: The model that the six methods are shown with.
    """

    python: str
    who: str
    extras: str
    packages: tuple[str, ...] = ()
    config: str = "mobilenet-v2_8xb32_in1k"


SETS = {
    "oldest": Versions("3.10", "OpenMMLab's last compiled packages", "check,demo,transformers"),
    "tested": Versions("3.11", "what the README installs", "check,demo,transformers"),
    "fork": Versions(
        "3.12",
        "OpenMMLab's maintained fork",
        "check,opencv,timm,transformers",
        ("onedl-mmpretrain", "onedl-mmengine", "onedl-mmcv"),
    ),
    "newest": Versions(
        "3.13",
        "all new, a server without MMPretrain",
        "check,headless,timm,transformers",
        config="timm:resnet18",
    ),
}


def find_python(version: str) -> Path | None:
    """An interpreter of that version: on the path, or among pyenv's; None where there is none."""
    candidates = [Path(f"python{version}")]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates += sorted(pyenv.glob(f"{version}.*/bin/python"))
    asked = "import sys; print(*sys.version_info[:2], sep='.'); print(sys.executable)"
    for candidate in candidates:
        try:
            done = subprocess.run([candidate, "-c", asked], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):  # pyenv's names for interpreters that aren't switched on
            continue
        found, executable = done.stdout.splitlines()
        if found == version:
            return Path(executable)
    return None
