"""What it costs to get started: fresh processes, in turn, round after round."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.speed.networks import NETWORKS, build, has_mmpretrain
from benchmarks.speed.timing import quartiles

FORWARD = """
from camkit.models.torchvision_shim import ensure_torchvision
ensure_torchvision()
import torch
from mmpretrain import get_model
model = get_model({name!r}, pretrained=False)
model.load_state_dict(torch.load({checkpoint!r}, weights_only=True))
with torch.inference_mode():
    model.eval()(torch.randn(1, 3, 224, 224))
"""


def startup(repeats: int, *, vis_cam: bool) -> dict[str, Any]:
    """Wall seconds of commands; ``vis_cam`` also of a whole job, which takes many."""
    with tempfile.TemporaryDirectory() as folder:
        commands = {
            "python": _python("pass"),
            "import torch": _python("import torch"),
            "import torch, then camkit": _python("import torch; import camkit"),
            "import torch, then camkit.CAM": _python("import torch; from camkit import CAM"),
            "camkit --help": [sys.executable, "-m", "camkit", "--help"],
        }
        if vis_cam and has_mmpretrain():
            commands |= _jobs(Path(folder))
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for round_ in range(repeats + 1):
            for name, command in commands.items():
                for _ in range(1 if name in (JOB, BARE) else SHORT):
                    start = time.perf_counter()
                    subprocess.run(command, check=True, capture_output=True)
                    if round_:  # the first round reads the files from disk
                        seconds[name].append(time.perf_counter() - start)
    rows: list[dict[str, Any]] = [
        {"what": name, "seconds": statistics.median(taken), "quartiles": quartiles(taken), "rounds": len(taken)}
        for name, taken in seconds.items()
    ]
    return {"rows": rows, "differences": _differences(seconds)}


JOB, BARE = "camkit vis-cam", "import MMPretrain, load, one forward"
SHORT = 2
"""How often what takes a second or two runs in a round."""


def _differences(seconds: dict[str, list[float]]) -> list[dict[str, Any]]:
    """What camkit adds, the median over rounds, and the most that it should."""

    def added(what: str, to: str) -> float:
        return statistics.median(a - b for a, b in zip(seconds[what], seconds[to], strict=True))

    found: dict[str, tuple[float, float | None]] = {
        "import camkit": (added("import torch, then camkit", "import torch"), 0.1),
        "from camkit import CAM": (added("import torch, then camkit.CAM", "import torch"), None),
        "camkit --help": (added("camkit --help", "python"), None),
    }
    if JOB in seconds:
        found[JOB] = (added(JOB, BARE), 0.15 * statistics.median(seconds[BARE]))
    return [
        {"what": what, "seconds": taken, "target": most} | ({} if most is None else {"met": taken <= most})
        for what, (taken, most) in found.items()
    ]


def _python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def _jobs(folder: Path) -> dict[str, list[str]]:
    """ResNet-50 explained from files, and the least that anyone would have to do for it."""
    import cv2

    source = NETWORKS["resnet50"].source
    checkpoint, picture = str(folder / "weights.pth"), str(folder / "noise.png")
    torch.save(build("resnet50").state_dict(), checkpoint)
    cv2.imwrite(picture, np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8))
    explain = [sys.executable, "-m", "camkit", "vis-cam", picture, source.name, checkpoint]
    return {
        JOB: [*explain, "--save-path", str(folder / "map.png")],
        BARE: _python(FORWARD.format(name=source.name, checkpoint=checkpoint)),
    }
