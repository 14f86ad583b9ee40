"""camkit: class activation maps for PyTorch, showing where an image classifier looked.

The public names are listed in ``__init__.pyi``. They load when they are first used, so that ``import camkit`` is cheap.
"""

import sys

import lazy_loader

__version__ = "0.1.0"

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    if name in __all__:
        from camkit.versions import require_torch

        try:
            found = _load(name)
        except Exception:
            require_torch()  # says more
            raise
        if "torch" in sys.modules:  # errors are there without it
            require_torch()
        return found
    from camkit.errors import closest

    raise AttributeError(f"module 'camkit' has no attribute {name!r}{closest(name, __all__)}")
