"""Where results are kept, and what they were taken on."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from camkit.versions import versions

RESULTS = Path(__file__).parent / "results"


def machine(*peers: str) -> dict[str, Any]:
    """What the numbers were taken on; ``peers`` are packages that take part beside camkit's own."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "device": "cpu",
        "versions": versions() | {peer: version(peer) for peer in peers},
        "commit": commit.stdout.strip(),
    }
