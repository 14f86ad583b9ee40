"""Refuse quantised weights, which frameworks would copy into a model as they are, without their scales."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor, nn

from camkit.errors import CheckpointError
from camkit.models.architecture import is_computed
from camkit.models.state_dicts import printable


def refuse_quantised(
    model: nn.Module, tensors: Mapping[str, Tensor], source: str, unexpected: Collection[str] | None = None
) -> None:
    """Refuse integers, and floating point of one byte, in place of what the model has in floating point.

    Args:
        model: The model.
        tensors: The file's.
        source: The file, for the message.
        unexpected: The names that the model didn't take. Where given, those count, too, that it took under other names.

    Raises:
        CheckpointError: There are such weights.
    """
    own: dict[str, Tensor] = model.state_dict()
    whole = {name.rpartition(".")[2] for name, tensor in own.items() if not tensor.is_floating_point()}
    for name, tensor in tensors.items():
        if not _is_quantised(tensor) or is_computed(name) or name.rpartition(".")[2] in whole:
            continue
        if name in own or (unexpected is not None and tensor.ndim > 1 and not _is_among(name, unexpected)):
            raise CheckpointError(
                f"the checkpoint {source} holds {printable(name)} as {tensor.dtype}: its weights are quantised; give "
                "those in floating point of 16 bits or more"
            )


def _is_quantised(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or tensor.element_size() < 2


def _is_among(name: str, unexpected: Collection[str]) -> bool:
    """Whether a name was not taken, also where loading put something before it, or took it away."""
    return any(name == each or each.endswith(f".{name}") or name.endswith(f".{each}") for each in unexpected)
