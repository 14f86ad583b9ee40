"""What a call of the command gave, and the pictures that it wrote."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from camkit.visualize.picture import Picture

CLASSES = ("tabby cat", "tiger cat", "espresso", "cup", "dog, hound")
"""Of the tiny models."""


@dataclass(frozen=True)
class Run:
    """One call: the exit code and what was printed."""

    code: int
    out: str
    err: str

    @property
    def wrote(self) -> list[Path]:
        """The files that it says it wrote."""
        return [Path(path) for path in re.findall(r"^wrote: (.+)$", self.out, re.MULTILINE)]


def refused(run: Run, code: int, message: str) -> None:
    """Check that a call printed one line, an error that matches ``message``."""
    assert (run.code, run.out) == (code, ""), run.err
    assert len(run.err.splitlines()) == 1, run.err
    assert re.match(f"camkit: error: .*{message}", run.err), run.err


def same_picture(made: Picture, expected: Picture) -> None:
    """Check that two runs drew the same; rounding of a map may move its colours a step, in few pixels."""
    assert made.shape == expected.shape
    differences = np.abs(made.astype(int) - expected.astype(int))
    assert differences.max() <= 6
    assert (differences > 0).mean() < 0.02


def pixels(path: Path) -> Picture:
    """A picture file, RGB."""
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))
