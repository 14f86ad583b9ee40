"""A picture and a checkpoint for ``camkit vis-cam``, made with what a set has installed.

``python -m tests.compatibility.inputs CONFIG PHOTOGRAPH CHECKPOINT``
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from PIL import Image

from camkit.models.environment import import_framework, quiet
from camkit.models.frameworks import find_framework


def write(config: str, photograph: str, checkpoint: str) -> None:
    """Write a picture with structure at all scales, and the random weights of a model."""
    rows, columns = np.mgrid[:240, :320] / 240
    waves = [np.sin(20 * rows * columns + phase) + np.sin(9 * columns - 5 * rows * phase) for phase in range(3)]
    Image.fromarray((63 * (np.stack(waves, -1) + 2)).astype(np.uint8)).save(photograph)
    framework, name = find_framework(config)
    torch.manual_seed(0)
    with quiet():
        module = import_framework(framework.name)
        model = module.create_model(name) if framework.name == "timm" else module.get_model(name)
    torch.save(model.state_dict(), checkpoint)


if __name__ == "__main__":
    write(*sys.argv[1:])
