"""Where pictures and curves go: a folder, TensorBoard, Weights & Biases, or anything with the two functions."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, Protocol

from camkit.errors import CamkitError, UsageError
from camkit.visualize.picture import Picture
from camkit.visualize.save import check_writable, picture_writer, write_together

GROUP = "cam/"
"""What names in TensorBoard and Weights & Biases begin with, which makes a group of their own there."""
CURVES = "curves.csv"
"""The file in a folder that holds curves."""


class Logger(Protocol):
    """What takes pictures and curves; MMEngine's Visualizer is one."""

    def add_image(self, name: str, image: Picture, step: int) -> object:
        """Take a picture, (H, W, 3) uint8, RGB."""

    def add_scalar(self, name: str, value: float, step: int) -> object:
        """Take a point of a curve."""


class Writer:
    """TensorBoard's SummaryWriter, and whatever has its functions (tensorboardX)."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def add_image(self, name: str, image: Picture, step: int) -> None:
        """See :class:`Logger`."""
        self._writer.add_image(GROUP + name, image, step, dataformats="HWC")

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """See :class:`Logger`."""
        self._writer.add_scalar(GROUP + name, value, step)


class WandbRun:
    """A run of Weights & Biases; the step goes beside the values, as the run's own steps may be ahead of it."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def add_image(self, name: str, image: Picture, step: int) -> None:
        """See :class:`Logger`."""
        from wandb import Image

        self._run.log({GROUP + name: Image(image), f"{GROUP}step": step})

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """See :class:`Logger`."""
        self._run.log({GROUP + name: value, f"{GROUP}step": step})


class Several:
    """Hands everything to each of several loggers."""

    def __init__(self, loggers: Sequence[Logger]) -> None:
        self._loggers = loggers

    def add_image(self, name: str, image: Picture, step: int) -> None:
        """See :class:`Logger`."""
        for each in self._loggers:
            each.add_image(name, image, step)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """See :class:`Logger`."""
        for each in self._loggers:
            each.add_scalar(name, value, step)


class Folder:
    """A folder with pictures ``{name}_{step}.png``, and curves in :data:`CURVES`.

    Raises:
        CamkitError: it can't be written to.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        check_writable(self.path / "picture.png")

    def add_images(self, images: Mapping[str, Picture], step: int) -> None:
        """Write the pictures of a step, all or none."""
        self._write({f"{name}_{step}.png": image for name, image in images.items()})

    def replace_images(self, images: Mapping[str, Picture]) -> None:
        """Write pictures that belong to no step, over those of before."""
        self._write({f"{name}.png": image for name, image in images.items()})

    def add_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Append a line per curve: its name, the step and the value."""
        path = self.path / CURVES
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        try:
            if not path.exists():
                lines.writerow(("name", "step", "value"))
            lines.writerows((name, step, repr(value)) for name, value in values.items())
            with path.open("a", encoding="utf-8", newline="") as file:
                file.write(text.getvalue())
        except OSError as error:
            raise CamkitError(f"can't write '{path}': {error.strerror or error}") from error

    def _write(self, images: Mapping[str, Picture]) -> None:
        paths = {self.path / name: image for name, image in images.items()}
        write_together({path: picture_writer(path, image) for path, image in paths.items()})


def as_logger(given: Any) -> Logger:
    """What takes pictures, from what users have.

    Args:
        given: TensorBoard's SummaryWriter, a run of Weights & Biases, or an object with the functions of
            :class:`Logger`.

    Raises:
        UsageError: it takes no pictures.
    """
    add_image, add_scalar = getattr(given, "add_image", None), getattr(given, "add_scalar", None)
    if callable(add_image) and callable(add_scalar):
        is_writer = "dataformats" in signature(add_image).parameters
        return Writer(given) if is_writer else given
    if type(given).__module__.partition(".")[0] == "wandb" and callable(getattr(given, "log", None)):
        return WandbRun(given)
    raise UsageError(
        f"a {type(given).__name__} takes no pictures: give a SummaryWriter, a run of Weights & Biases, an object with "
        "add_image(name, image, step) and add_scalar(name, value, step), or a folder="
    )
