"""How a model was started, and the command that makes one of its maps again."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from camkit.explore.kinds import View
from camkit.methods import Method
from camkit.visualize.overlay import Style


@dataclass(frozen=True)
class Setting:
    """How the model was started, for explanations and for the commands that repeat them.

    Attributes:
        words: CONFIG, CHECKPOINT and the flags that load the model so, as they are typed.
        device: As it was asked for.
        cfg_options: As they were given.
        output: Which part of the model's output is explained.
        num_extra_tokens: See :class:`camkit.CAM`.
        batch_size: See :class:`camkit.CAM`.
        method_options: For the methods that have them.
        bands: See :class:`camkit.models.prepared.Prepared`.
    """

    words: tuple[str, ...]
    device: str = "cpu"
    cfg_options: tuple[str, ...] = ()
    output: Any = None
    num_extra_tokens: int | None = None
    batch_size: int | None = None
    method_options: dict[str, Any] = field(default_factory=dict)
    bands: tuple[int, ...] = ()

    def options_of(self, method: Method) -> dict[str, Any]:
        """Those of ``method_options`` that a method has."""
        return {name: value for name, value in self.method_options.items() if name in method.options}

    def command(self, typed: str, method: Method, view: View, style: Style, *, original_size: bool) -> str:
        """The ``camkit vis-cam`` line of a view, quoted for the shell.

        Args:
            typed: The picture's file, as it is typed.
            method: Of the view.
            view: Which map.
            style: How it is drawn.
            original_size: Whether on the whole image.
        """
        words = ["camkit", "vis-cam", typed, *self.words, "--method", method.name]
        if options := self.options_of(method):
            words += ["--method-options", *(f"{name}={value!r}" for name, value in options.items())]
        if self.batch_size is not None:
            words += ["--batch-size", str(self.batch_size)]
        if view.category is not None:
            words += ["--target-category", str(view.category)]
        if view.layers and method.takes_layers:
            words += ["--target-layers", *view.layers]
        words += ["--eigen-smooth"] * view.eigen_smooth + ["--aug-smooth"] * view.aug_smooth
        if self.bands:
            words += ["--bands", *map(str, self.bands)]
        words += ["--original-size"] * original_size + words_of_style(style)
        return shlex.join([*words, "--save-path", f"{Path(typed).stem or 'picture'}-{method.name}.png"])


def words_of_style(style: Style) -> list[str]:
    """The flags of a style, but for what is usual."""
    usual = Style()
    words = ["--colormap", style.colormap] if style.colormap != usual.colormap else []
    return words + (["--alpha", repr(style.alpha)] if style.alpha != usual.alpha else [])
