"""OpenCV, from whichever of its packages is installed: camkit draws with it and reads it nowhere else.

The packages put their files into the same folder, so that a second one breaks the first. camkit therefore asks for
none of them by itself.
"""

from __future__ import annotations

from camkit.errors import PackageError, reason

try:
    import cv2 as cv2
except ImportError as error:
    if isinstance(error, ModuleNotFoundError) and error.name == "cv2":
        line = (
            "camkit draws with OpenCV, which is missing: pip install 'camkit[opencv]', or 'camkit[headless]' on a "
            "machine without a display"
        )
    else:  # libGL.so.1 on a server, or two packages on top of each other
        line = (
            f"OpenCV is installed but doesn't load ({reason(error)}): pip uninstall the packages whose names start "
            "with opencv-, then pip install opencv-python-headless"
        )
    raise PackageError(line) from error
