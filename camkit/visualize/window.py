"""Show pictures in windows, where there is a display."""

from __future__ import annotations

from collections.abc import Mapping

from camkit.errors import CamkitError
from camkit.visualize.picture import Picture


def require_display() -> None:
    """Make sure that a window can be opened.

    Raises:
        CamkitError: There is no display.
    """
    import matplotlib

    try:
        from matplotlib.backends.registry import BackendFilter, backend_registry
    except ImportError:  # before matplotlib 3.9
        windows = [name.lower() for name in matplotlib.rcsetup.interactive_bk]  # type: ignore[attr-defined]
    else:
        windows = backend_registry.list_builtin(BackendFilter.INTERACTIVE)
    backend = matplotlib.get_backend()
    if backend.lower() not in windows:
        raise CamkitError(f"no display to show the picture on (matplotlib chose {backend}): give --save-path FILE.png")


def show(pictures: Mapping[str, Picture]) -> None:
    """Open a window per picture, title to RGB picture, and wait until all are closed."""
    import matplotlib.pyplot as plt

    for title, picture in pictures.items():
        height, width = picture.shape[:2]
        figure = plt.figure(num=title, figsize=(width / 100, height / 100), dpi=100)
        figure.figimage(picture)
    plt.show()
