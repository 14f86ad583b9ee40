"""A picture's edges: a control, which looks at no network."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def sobel_cam(img: NDArray[Any]) -> NDArray[np.uint8]:
    """The mean size of an RGB picture's horizontal and vertical Sobel derivatives, (H, W, 3) to (H, W), uint8."""
    from camkit.visualize.opencv import cv2

    grey = cv2.cvtColor(img, cv2.COLOR_RGB2GRAY)
    sizes = [cv2.convertScaleAbs(cv2.Sobel(grey, cv2.CV_64F, *order, ksize=3)) for order in ((1, 0), (0, 1))]
    return np.asarray(cv2.addWeighted(sizes[0], 0.5, sizes[1], 0.5, 0), dtype=np.uint8)
