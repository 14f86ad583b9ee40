"""Let MMEngine read configs where ``pkg_resources`` is missing, which setuptools 81 and newer no longer bring.

MMEngine asks it where a package lies, for ``_base_ = "mmpretrain::..."`` and for ``with read_base():``.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def find_packages() -> Iterator[None]:
    """Within it, MMEngine's ``is_installed`` and ``get_installed_path`` work without ``pkg_resources``.

    Where there is one they go on using it, and nothing is left behind: neither in MMEngine nor in ``sys.modules``.
    """
    from mmengine.utils import package_utils

    helped = {
        "is_installed": _helped(package_utils.is_installed, _is_installed),
        "get_installed_path": _helped(package_utils.get_installed_path, _folder_of),
    }
    originals = {name: getattr(package_utils, name) for name in helped}
    users = [  # MMEngine's modules import the functions by name
        (vars(module), name)
        for module_name, module in list(sys.modules.items())
        for name, original in originals.items()
        if module_name.partition(".")[0] == "mmengine" and vars(module).get(name) is original
    ]
    for namespace, name in users:
        namespace[name] = helped[name]
    try:
        yield
    finally:
        for namespace, name in users:
            namespace[name] = originals[name]


def _helped(original: Callable[[str], Any], ours: Callable[[str], Any]) -> Callable[[str], Any]:
    def call(package: str) -> Any:
        try:
            return original(package)
        except ModuleNotFoundError as error:
            if error.name != "pkg_resources":
                raise
        return ours(package)

    return call


def _is_installed(package: str) -> bool:
    try:
        distribution(package)
    except PackageNotFoundError:
        return _folder(package) is not None
    return True


def _folder_of(package: str) -> str:
    folder = _folder(package)
    if folder is None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    return folder


def _folder(package: str) -> str | None:
    """The folder of a package's module, which may have another name than the package, as mmseg of mmsegmentation."""
    names = [package] if find_spec(package) else []
    names = names or [module for module, packages in packages_distributions().items() if package in packages]
    for spec in map(find_spec, names):
        if spec is not None and spec.origin is not None:
            return str(Path(spec.origin).parent)
    return None
