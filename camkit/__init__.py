"""camkit: class activation maps for PyTorch, showing where an image classifier looked.

The public names are listed in ``__init__.pyi``. They load when they are first used, so that ``import camkit`` is cheap.
"""

import lazy_loader

__version__ = "0.1.0"

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    if name in __all__:
        return _load(name)
    from camkit.errors import closest

    raise AttributeError(f"module 'camkit' has no attribute {name!r}{closest(name, __all__)}")
