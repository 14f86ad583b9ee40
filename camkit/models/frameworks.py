"""The frameworks that camkit loads classifiers of: the only list of them, and what CONFIG may be.

Needs the standard library alone, so that ``camkit --help`` and ``camkit --version`` import no torch.

- ``FRAMEWORKS``: name to :class:`Framework`, in the order in which texts name them.
- :func:`find_framework`: CONFIG to its framework and the model's name there.
- :func:`prefixed_name`: how CONFIG is written for somebody who wrote ``timm/NAME``.
- :func:`config_forms`, :func:`prefixed_forms` and :func:`framework_titles`: text for help and messages.

To add a framework, add an entry here, an extra of that name to pyproject.toml, and a module of that name beside this
one with a ``load`` like the others'.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from os.path import expanduser
from pathlib import Path

from camkit.errors import UsageError, closest


@dataclass(frozen=True)
class Framework:
    """A framework that camkit loads classifiers of.

    Attributes:
        name: The prefix of CONFIG, the extra of ``pip install 'camkit[...]'`` and the module in ``camkit.models``.
        title: The name as the framework's own documentation spells it.
        form: How CONFIG names one of its models.
        packages: What is imported for it, in this order.
    """

    name: str
    title: str
    form: str
    packages: tuple[str, ...]

    @property
    def install(self) -> str:
        """The command that installs what its models need."""
        return f"pip install 'camkit[{self.name}]'"

    def remedy(self, module: str | None) -> str:
        """The command that brings a module which its models lack: beside a fork, the fork's."""
        fork = installed("onedl-mmpretrain") is not None and module in SAME_MODULE
        return f"pip install onedl-{module}" if fork else self.install


SAME_MODULE = {
    "mmcv": ("mmcv", "mmcv-lite", "onedl-mmcv"),
    "mmengine": ("mmengine", "mmengine-lite", "onedl-mmengine"),
    "mmpretrain": ("mmpretrain", "onedl-mmpretrain"),
}
"""Modules that several packages bring; ``onedl-`` is the fork of all three."""


def packages_of(module: str) -> tuple[str, ...]:
    """The packages that bring a module, of which one at most should be installed."""
    return SAME_MODULE.get(module, (module,))


def installed(package: str) -> str | None:
    """The version of a package, None where it isn't installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


FRAMEWORKS = {
    framework.name: framework
    for framework in (
        Framework(
            "mmpretrain", "MMPretrain", "an MMPretrain config file or model name", ("mmengine", "mmcv", "mmpretrain")
        ),
        Framework("timm", "timm", "timm:NAME", ("timm",)),
        Framework("torchvision", "torchvision", "torchvision:NAME", ("torchvision",)),
        Framework("transformers", "transformers", "transformers:FOLDER", ("safetensors", "transformers")),
    )
}


def find_framework(config: str) -> tuple[Framework, str]:
    """CONFIG's framework, and the model's name without the prefix. Without a prefix, CONFIG is MMPretrain's.

    A ``~`` at the start of a path is the home folder, also behind a prefix.

    Raises:
        UsageError: The prefix is no framework's, or there is no name behind it.
    """
    config = ":".join(map(expanduser, config.split(":")))
    prefix, colon, name = config.partition(":")
    is_url_or_drive = name.startswith("//") or (len(prefix) == 1 and name.startswith(("/", "\\")))
    if not colon or is_url_or_drive or Path(config).exists():  # a file may have a colon in its name
        return FRAMEWORKS["mmpretrain"], config
    if prefix not in FRAMEWORKS:
        raise UsageError(
            f"no framework '{prefix}' in {config}{closest(prefix, FRAMEWORKS)}; CONFIG is {config_forms()}"
        )
    if not name:
        raise UsageError(f"{config} names no model; CONFIG is {config_forms()}")
    return FRAMEWORKS[prefix], name


def prefixed_name(config: str) -> str | None:
    """``timm:resnet18`` for ``timm/resnet18`` and ``torchvision.models.resnet18``; None for what looks otherwise."""
    match = re.fullmatch(r"(\w+)[/\\.](?:models[/\\.])?(.+)", config)
    prefix = match[1].lower() if match else ""
    return f"{prefix}:{match[2]}" if match and prefix in FRAMEWORKS else None


def config_forms() -> str:
    """``"an MMPretrain config file or model name, timm:NAME, torchvision:NAME or transformers:FOLDER"``."""
    return _alternatives([framework.form for framework in FRAMEWORKS.values()])


def prefixed_forms() -> str:
    """``"timm:NAME, torchvision:NAME or transformers:FOLDER"``: the models that bring weights of their own."""
    return _alternatives([each.form for each in FRAMEWORKS.values() if each.form.startswith(f"{each.name}:")])


def framework_titles() -> str:
    """``"MMPretrain, timm, torchvision or transformers"``."""
    return _alternatives([framework.title for framework in FRAMEWORKS.values()])


def _alternatives(texts: Sequence[str]) -> str:
    return f"{', '.join(texts[:-1])} or {texts[-1]}"
