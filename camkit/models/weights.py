"""Load a checkpoint into a model, built with the checkpoint's number of classes, and report which tensors fitted."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from camkit.errors import CheckpointError, UsageError, first_line
from camkit.models.completeness import Builder, check_complete
from camkit.models.dependence import depended_on
from camkit.models.prefixes import fitting, shapes_of, strip_prefix
from camkit.models.quantised import refuse_quantised
from camkit.models.settings import Reading
from camkit.models.state_dicts import printable, some

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from torch import Tensor, nn

    from camkit.models.checkpoint import Checkpoint

    Shapes = Mapping[str, tuple[Sequence[int], Sequence[int]]]

_STRICT = Reading()
_MISMATCH = re.compile(r"size mismatch for (\S+): .*?torch\.Size\((\[[\d, ]*\])\).*?torch\.Size\((\[[\d, ]*\])\)")


@dataclass(frozen=True)
class LoadReport:
    """Which of a model's and a checkpoint's tensors fitted.

    ``loaded`` counts parameters and buffers but for ``num_batches_tracked``, which inference doesn't read. ``shapes``
    are the checkpoint's of the ``mismatched``, ``own_shapes`` the model's. ``notes`` say what was taken of the file.
    ``seed`` is what random weights were drawn with, where they are allowed in place of those that are lacking.
    """

    loaded: int
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict, compare=False)
    own_shapes: dict[str, tuple[int, ...]] = field(default_factory=dict, compare=False)
    notes: tuple[str, ...] = ()
    seed: int | None = None

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
        if not parts:
            return None
        lacking = (*self.missing, *self.mismatched)
        total = self.loaded + len(lacking)
        line = f"the checkpoint fits {self.loaded} of the model's {total} tensors: {'; '.join(parts)}"
        if lacking and self.seed is not None:
            return f"{line}; what is lacking is random, drawn with --seed {self.seed}"
        return f"{line}; what is lacking isn't needed for the scores" if lacking else line


def load_into(
    model: nn.Module, checkpoint: Checkpoint, reading: Reading = _STRICT, builder: Builder | None = None
) -> LoadReport:
    """Load a checkpoint into a model, without the prefix that wrappers put before its names.

    The model's own hooks may rename and resize. What the scores don't depend on may be missing, of another shape or
    unknown: it is skipped and reported.

    Args:
        model: On the CPU.
        checkpoint: What to load.
        reading: What may be lacking, and which weights are taken.
        builder: How the model was built, for advice on how to build one that fits.

    Raises:
        CheckpointError: None of the model's parameters is in the checkpoint, or not all that the scores depend on; it
            is of another architecture; or a hook of the model failed.
    """
    own = shapes_of(model.state_dict())
    tensors, note = strip_prefix(checkpoint.state_dict, own, checkpoint.source, weights=reading.weights)
    checkpoint = checkpoint.with_tensors(tensors, note)
    return _load(model, checkpoint, reading, builder)


def load_report(
    model: nn.Module,
    checkpoint: Checkpoint,
    reading: Reading,
    *,
    missing: Sequence[str],
    mismatched: Mapping[str, tuple[Sequence[int], Sequence[int]]],
    unexpected: Sequence[str],
) -> LoadReport:
    """Report on a checkpoint that was loaded into a model, from the names of the tensors that didn't fit.

    Args:
        model: The model.
        checkpoint: What was loaded.
        reading: See :func:`load_into`.
        missing: Names of the model's.
        mismatched: Of those in both, the shapes (checkpoint's, model's) where they differ.
        unexpected: Names of the checkpoint's.

    Raises:
        CheckpointError: None of the model's parameters is in the checkpoint, or they are quantised.
    """
    refuse_quantised(model, checkpoint.state_dict, checkpoint.source, unexpected)
    names = _counted(model.state_dict(keep_vars=True))
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    if parameters and not parameters.difference(missing, mismatched):
        other = f"; the file says that it is of {printable(checkpoint.arch)}" if checkpoint.arch else ""
        raise CheckpointError(
            f"the checkpoint {checkpoint.source} fits none of the model's {len(parameters)} parameters: it has "
            f"{some(checkpoint.state_dict)}, the model {some(names)}{other}; take the config that belongs to the "
            "checkpoint"
        )
    missing = _counted(missing)
    return LoadReport(
        len(names) - len(missing) - len(mismatched),
        tuple(missing),
        tuple(_counted(unexpected)),
        tuple(mismatched),
        {name: tuple(theirs) for name, (theirs, _) in mismatched.items()},
        {name: tuple(ours) for name, (_, ours) in mismatched.items()},
        checkpoint.notes,
        reading.seed if reading.allow_partial else None,
    )


def build_for(
    checkpoint: Checkpoint,
    builder: Builder,
    class_count: Callable[[nn.Module], int],
    rename: Callable[[nn.Module, dict[str, Tensor]], dict[str, Tensor]],
    reading: Reading = _STRICT,
) -> tuple[nn.Module, LoadReport]:
    """Build a model with as many classes as the checkpoint has, and load the checkpoint into it.

    Args:
        checkpoint: What to load.
        builder: Builds the model from keyword arguments, ``num_classes`` among them.
        class_count: The number of classes of a model.
        rename: The checkpoint's tensors under the model's names, where the framework has changed them since.
        reading: See :func:`load_into`.

    Raises:
        UsageError: The user asked for another number of classes.
        CheckpointError: See :func:`load_into`.
    """
    options = builder.options
    model = builder.build(options)
    own, classes = shapes_of(model.state_dict()), class_count(model)
    tensors, note = strip_prefix(
        checkpoint.state_dict,
        own,
        checkpoint.source,
        weights=reading.weights,
        fit=lambda tensors: fitting(rename(model, tensors), own, classes),
    )
    renamed = rename(model, tensors)
    checkpoint = checkpoint.with_tensors(tensors, note).with_tensors(renamed, _about_sizes(tensors, renamed))
    shapes = {name: (tuple(tensor.shape), own[name]) for name, tensor in checkpoint.state_dict.items() if name in own}
    count = other_class_count(model, shapes, classes)
    if count is not None:
        refuse_class_count(checkpoint.source, options, "num_classes", count)
        builder = replace(builder, options=options | {"num_classes": count})
        model = builder.build(builder.options)
    return model, _load(model, checkpoint, reading, builder)


def _load(model: nn.Module, checkpoint: Checkpoint, reading: Reading, builder: Builder | None) -> LoadReport:
    """Load the tensors that fit, and check that the others don't matter."""
    refuse_quantised(model, checkpoint.state_dict, checkpoint.source)
    found: list[tuple[list[str], list[str]]] = []
    # A mismatch of shapes makes load_state_dict raise, after everything else was loaded and after this hook ran.
    handle = model.register_load_state_dict_post_hook(  # type: ignore[no-untyped-call]
        lambda _, keys: found.append((list(keys.missing_keys), list(keys.unexpected_keys)))
    )
    mismatched: dict[str, tuple[Sequence[int], Sequence[int]]] = {}
    try:
        model.load_state_dict(checkpoint.state_dict, strict=False)
    except Exception as error:
        mismatched = {name: (_sizes(theirs), _sizes(ours)) for name, theirs, ours in _MISMATCH.findall(str(error))}
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
    report = load_report(model, checkpoint, reading, missing=missing, mismatched=mismatched, unexpected=unexpected)
    check_complete(model, checkpoint, report, reading, builder)
    return report


def _about_sizes(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> str | None:
    """A line about the tensors that the framework resampled to the model's size."""
    changed = [
        f"{name} {tuple(before[name].shape)} to {tuple(after[name].shape)}"
        for name in after
        if name in before and before[name].shape != after[name].shape
    ]
    return f"resampled to the model's size by its framework: {some(changed)}" if changed else None


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", text)))


def other_class_count(model: nn.Module, shapes: Shapes, class_count: int) -> int | None:
    """The number of classes of a checkpoint; None where it is the model's, or can't be told.

    It is told from the tensors whose shapes differ in their first dimension alone, where the model's is its number of
    classes: these are the classifier's weights. They must agree on the checkpoint's. Where they don't, or some of them
    fit, as auxiliary classifiers may, those count that the scores depend on.

    Args:
        model: The model.
        shapes: Name to the shapes (checkpoint's, model's) of the tensors in both.
        class_count: The model's number of classes.
    """
    classifiers = {
        name: theirs[0]
        for name, (theirs, ours) in shapes.items()
        if len(theirs) == len(ours) > 0 and ours[0] == class_count and theirs[1:] == ours[1:]
    }
    differing = {name: count for name, count in classifiers.items() if count != class_count}
    if differing and len(set(classifiers.values())) > 1:
        used = depended_on(model, list(differing))
        differing = differing if used is None else {name: differing[name] for name in used}
    counts = set(differing.values())
    return int(counts.pop()) if len(counts) == 1 and counts != {0} else None


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
