"""Load a checkpoint into a model, built with the checkpoint's number of classes, and report which tensors fitted."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from camkit.errors import CheckpointError, UsageError, first_line
from camkit.models.checkpoint import some

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch import Tensor, nn

    from camkit.models.checkpoint import Checkpoint

    Shapes = Iterable[tuple[Sequence[int], Sequence[int]]]


@dataclass(frozen=True)
class LoadReport:
    """Which of a model's and a checkpoint's tensors fitted.

    ``loaded`` counts parameters and buffers but for ``num_batches_tracked``, which inference doesn't read.
    """

    loaded: int
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()

    @property
    def warning(self) -> str | None:
        """One line if only a part fitted, else None."""
        parts = [
            f"{len(names)} {what} ({some(names)})"
            for names, what in (
                (self.missing, "missing from the checkpoint"),
                (self.mismatched, "of another shape"),
                (self.unexpected, "unknown to the model"),
            )
            if names
        ]
        total = self.loaded + len(self.missing) + len(self.mismatched)
        if not parts:
            return None
        return f"the checkpoint fits {self.loaded} of the model's {total} tensors: {'; '.join(parts)}"


def load_into(model: nn.Module, checkpoint: Checkpoint) -> LoadReport:
    """Load the tensors that fit, skip and report the others. The model's own hooks may rename and resize.

    Raises:
        CheckpointError: None of the model's parameters is in the checkpoint, or a hook of the model failed.
    """
    found: list[tuple[list[str], list[str]]] = []
    # A mismatch of shapes makes load_state_dict raise, after everything else was loaded and after this hook ran.
    handle = model.register_load_state_dict_post_hook(  # type: ignore[no-untyped-call]
        lambda _, keys: found.append((list(keys.missing_keys), list(keys.unexpected_keys)))
    )
    mismatched: list[str] = []
    try:
        model.load_state_dict(checkpoint.state_dict, strict=False)
    except Exception as error:
        mismatched = re.findall(r"size mismatch for (\S+): ", str(error))
        lines = str(error).splitlines()
        others = [line for line in lines if "size mismatch for " not in line and "Error(s) in loading" not in line]
        if not found or not mismatched or others:
            raise CheckpointError(
                f"the checkpoint {checkpoint.source} can't be loaded into the {type(model).__name__}: "
                f"{first_line(chr(10).join(others)) or type(error).__name__}"
            ) from error
    finally:
        handle.remove()
    missing, unexpected = found[-1]
    return load_report(model, checkpoint, missing=missing, mismatched=mismatched, unexpected=unexpected)


def load_report(
    model: nn.Module,
    checkpoint: Checkpoint,
    *,
    missing: Sequence[str],
    mismatched: Sequence[str],
    unexpected: Sequence[str],
) -> LoadReport:
    """Report on a checkpoint that was loaded into a model, from the names of the tensors that didn't fit.

    Raises:
        CheckpointError: None of the model's parameters is in the checkpoint.
    """
    names = _counted(model.state_dict(keep_vars=True))
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    if parameters and not parameters.difference(missing, mismatched):
        raise CheckpointError(
            f"the checkpoint {checkpoint.source} fits none of the model's {len(parameters)} parameters: it has "
            f"{some(checkpoint.state_dict)}, the model {some(names)}; take the config that belongs to the checkpoint"
        )
    missing = _counted(missing)
    return LoadReport(
        len(names) - len(missing) - len(mismatched), tuple(missing), tuple(_counted(unexpected)), tuple(mismatched)
    )


def build_for(
    checkpoint: Checkpoint,
    build: Callable[[dict[str, Any]], nn.Module],
    options: dict[str, Any],
    class_count: Callable[[nn.Module], int],
    rename: Callable[[nn.Module, dict[str, Tensor]], dict[str, Tensor]],
) -> tuple[nn.Module, LoadReport]:
    """Build a model with as many classes as the checkpoint has, and load the checkpoint into it.

    Args:
        checkpoint: What to load.
        build: Builds the model from keyword arguments, ``num_classes`` among them.
        options: The keyword arguments that the user gave.
        class_count: The number of classes of a model.
        rename: The checkpoint's tensors under the model's names, where the framework has changed them since.

    Raises:
        UsageError: The user asked for another number of classes.
        CheckpointError: See :func:`load_into`.
    """
    model = build(options)
    state_dict = rename(model, checkpoint.state_dict)
    own = model.state_dict()
    shapes = ((tensor.shape, own[name].shape) for name, tensor in state_dict.items() if name in own)
    count = other_class_count(shapes, class_count(model))
    if count is not None:
        refuse_class_count(checkpoint.source, options, "num_classes", count)
        model = build(options | {"num_classes": count})
    return model, load_into(model, replace(checkpoint, state_dict=state_dict))


def other_class_count(shapes: Shapes, class_count: int) -> int | None:
    """The number of classes of a checkpoint; None where it is the model's, or can't be told.

    It is told from the shapes (checkpoint's, model's) that differ in their first dimension alone, where the model's is
    its number of classes: these are the classifier's weights. They must agree on the checkpoint's.
    """
    counts = {
        theirs[0]
        for theirs, ours in shapes
        if theirs != ours and len(theirs) == len(ours) > 0 and ours[0] == class_count and theirs[1:] == ours[1:]
    }
    return int(counts.pop()) if len(counts) == 1 else None


def refuse_class_count(source: str, options: dict[str, Any], key: str, count: int) -> None:
    """Refuse ``--cfg-options KEY=...`` that contradicts the checkpoint's number of classes, ``count``.

    Raises:
        UsageError: The options hold ``key``.
    """
    if key in options:
        raise UsageError(
            f"--cfg-options {key}={options[key]} doesn't fit the checkpoint {source}, which has {count} classes; leave "
            "it out: the number is taken from the checkpoint"
        )


def _counted(names: Iterable[str]) -> list[str]:
    return [name for name in names if not name.endswith("num_batches_tracked")]
