"""Principal components of activations, as arrays. Signs are camkit's; NaN counts as 0."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from camkit.methods import principal_component
from camkit.methods.options import checked
from camkit.methods.reductions import extremes_component, kernel_component

Array = NDArray[np.float32]


def get_2d_projection(activation_batch: NDArray[Any]) -> Array:
    """Project every position on the first principal component, (B, C, *spatial) to (B, *spatial) float32.

    High where activations are large, see :func:`camkit.methods.reductions.principal_component`.
    """
    return _as_array(principal_component(_as_tensor(activation_batch), None))


def get_2d_projection_kernel(
    activation_batch: NDArray[Any], kernel: str = "sigmoid", gamma: float | None = None
) -> Array:
    """Project every position on the first kernel principal component, (B, C, *spatial) to (B, *spatial) float32.

    Raises:
        UsageError: no such kernel, or a ``gamma`` that isn't above 0.
    """
    for name, value in (("kernel", kernel), ("gamma", gamma)):
        checked("get_2d_projection_kernel", name, value, [kernel_component])
    return _as_array(kernel_component(_as_tensor(activation_batch), None, kernel=kernel, gamma=gamma))


def get_2d_projection_with_sign_correction(activation_batch: NDArray[Any]) -> Array:
    """As :func:`get_2d_projection`, with the largest entry by size positive."""
    return _as_array(extremes_component(_as_tensor(activation_batch), None))


def _as_tensor(activations: NDArray[Any]) -> torch.Tensor:
    given = np.asarray(activations)
    return torch.from_numpy(np.where(np.isnan(given), 0, given).astype(given.dtype))


def _as_array(maps: torch.Tensor) -> Array:
    return np.asarray(maps[0].numpy(), dtype=np.float32)
