"""A model for a checkpoint: built with the checkpoint's number of classes, unless another one was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from camkit.checkpoint import Checkpoint, LoadReport, load_into
from camkit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch import Tensor, nn

    Shapes = Iterable[tuple[Sequence[int], Sequence[int]]]


def build_for(
    checkpoint: Checkpoint,
    build: Callable[[dict[str, Any]], nn.Module],
    options: dict[str, Any],
    classes: Callable[[nn.Module], int],
    rename: Callable[[nn.Module, dict[str, Tensor]], dict[str, Tensor]],
) -> tuple[nn.Module, LoadReport]:
    """Build a model, with as many classes as the checkpoint has, and load it.

    Args:
        checkpoint: what to load.
        build: the model from keyword arguments, ``num_classes`` among them.
        options: the keyword arguments that the user gave.
        classes: the number of classes of a model.
        rename: the checkpoint's tensors under the model's names, where the framework has changed them since.

    Raises:
        UsageError: the user asked for another number of classes.
        CheckpointError: see :func:`camkit.checkpoint.load_into`.
    """
    model = build(options)
    state_dict = rename(model, checkpoint.state_dict)
    own = model.state_dict()
    shapes = ((tensor.shape, own[name].shape) for name, tensor in state_dict.items() if name in own)
    count = other_count(shapes, classes(model))
    if count is not None:
        refuse_count(checkpoint.source, options, "num_classes", count)
        model = build(options | {"num_classes": count})
    return model, load_into(model, Checkpoint(state_dict, checkpoint.meta, checkpoint.source, checkpoint.sha256))


def other_count(shapes: Shapes, classes: int) -> int | None:
    """The number of classes of a checkpoint, None where it is the model's or can't be told.

    Of the shapes (checkpoint's, model's) that differ, those of a head begin with the model's number of classes, and
    the checkpoint's all begin with one other.
    """
    counts = {
        theirs[0]
        for theirs, ours in shapes
        if theirs != ours and len(theirs) == len(ours) > 0 and ours[0] == classes and theirs[1:] == ours[1:]
    }
    return int(counts.pop()) if len(counts) == 1 else None


def refuse_count(source: str, options: dict[str, Any], key: str, count: int) -> None:
    """Refuse a number of classes that was asked for and isn't the checkpoint's.

    Raises:
        UsageError: it was.
    """
    if key in options:
        raise UsageError(
            f"--cfg-options {key}={options[key]} doesn't fit the checkpoint {source}, which has {count} classes; leave "
            "it out: the number is taken from the checkpoint"
        )
