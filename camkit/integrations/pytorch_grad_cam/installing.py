"""Answer ``import pytorch_grad_cam`` with this package."""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pkgutil import walk_packages

from camkit.errors import PackageError, UsageError
from camkit.models.torchvision_shim import ensure_torchvision

NAME = "pytorch_grad_cam"
OWN = __package__ or ""
HIDDEN = ("__main__", "installing", "running")
"""Modules that grad-cam has no counterpart of."""


def install() -> None:
    """Answer ``import pytorch_grad_cam``, and all of its submodules, with camkit from here on in this process.

    Installing it again changes nothing. torchvision, which grad-cam's users import beside it, is imported, so that one
    that doesn't fit torch is mended as for models of MMPretrain.

    Raises:
        UsageError: grad-cam itself has been imported: who holds its names wouldn't notice.

    Example:
        >>> from camkit.integrations import pytorch_grad_cam
        >>> pytorch_grad_cam.install()
        >>> from pytorch_grad_cam.utils.image import show_cam_on_image
        >>> show_cam_on_image.__module__
        'camkit.integrations.pytorch_grad_cam.utils.image'
    """
    own = import_module(OWN)
    there = sys.modules.get(NAME)
    if there is not None and there is not own:
        raise UsageError(
            f"{NAME} itself is imported already, from {getattr(there, '__file__', None)}: call install() before "
            "anything imports it"
        )
    modules = {NAME: own}
    for found in walk_packages(own.__path__, f"{OWN}."):
        inner = found.name.removeprefix(f"{OWN}.")
        if inner.partition(".")[0] not in HIDDEN:
            modules[f"{NAME}.{inner}"] = import_module(found.name)
    sys.modules.update(modules)
    if find_spec("torchvision"):
        with suppress(PackageError):  # whoever imports it will hear
            ensure_torchvision()
