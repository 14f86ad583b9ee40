"""Small questions about the tensors in a layer's output."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from camkit.compat import tree_leaves, tree_map


def is_float(leaf: Any) -> bool:
    """Whether ``leaf`` is a real floating-point tensor, as activations are."""
    return is_strided(leaf) and leaf.is_floating_point()


def is_strided(leaf: Any) -> bool:
    """Whether ``leaf`` is a dense tensor; sparse ones have no storage to look at."""
    return isinstance(leaf, Tensor) and leaf.layout == torch.strided


def floats(output: Any) -> list[Tensor]:
    """The floating-point tensors in a layer's output, in order."""
    return [leaf for leaf in tree_leaves(output) if is_float(leaf)]


def at_least_float32(tensor: Tensor) -> Tensor:
    """The precision of the CAM maths: float64 stays, everything else becomes float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def detached(output: Any) -> Any:
    """The same output with its tensors outside the graph."""
    return tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, output)
