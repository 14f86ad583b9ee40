"""Refuse checkpoints that lack what a network's scores depend on, or that are of another architecture."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

import torch

from camkit.errors import CamkitError, CheckpointError
from camkit.models.architecture import foreign_tensors
from camkit.models.dependence import depended_on
from camkit.models.options import spelled
from camkit.models.settings import Reading
from camkit.models.state_dicts import printable, some

if TYPE_CHECKING:
    from torch import Tensor, nn

    from camkit.models.checkpoint import Checkpoint
    from camkit.models.weights import LoadReport

Shape = tuple[int, ...]

_SHOWN = 2  # tensors whose place in the file is described
_ALIKE = 0.5  # names at least, for one to stand in the other's place
_PREFIX_TOKENS = (1, 0, 2, 5)  # class, distillation and register tokens in a position embedding
_PATCHES = (16, 14, 32, 8, 4)


@dataclass(frozen=True)
class Builder:
    """How a framework builds the model that a checkpoint is loaded into.

    Attributes:
        build: Builds it from options.
        options: Those that the user gave.
        classes: The options that set the number of classes, of which one may be right; and so on.
        channels: Those that set the number of input channels.
        size: Those that set the side of the input image.
    """

    build: Callable[[dict[str, Any]], nn.Module]
    options: dict[str, Any]
    classes: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    size: tuple[str, ...] = ()


def check_complete(
    model: nn.Module, checkpoint: Checkpoint, report: LoadReport, reading: Reading, builder: Builder | None = None
) -> None:
    """Check that a checkpoint held all that the scores of the model it was loaded into depend on.

    Raises:
        CheckpointError: It didn't, or it has more blocks than the model; not where ``reading.allow_partial`` is set.
    """
    if reading.allow_partial:
        return
    _check_parts(model, checkpoint, report, builder)
    _check_architecture(model, checkpoint, report)


def _check_parts(model: nn.Module, checkpoint: Checkpoint, report: LoadReport, builder: Builder | None) -> None:
    lacking = (*report.missing, *report.mismatched)
    if not lacking:
        return
    rebuild = (lambda: builder.build(builder.options)) if builder else None
    needed = depended_on(model, lacking, rebuild)
    if needed == []:
        return
    depends = f"what the scores of the {type(model).__name__} depend on"
    if needed is None:
        needed = list(lacking)
        depends = f"all of the {type(model).__name__}, which ran on no image that could tell what its scores depend on"
    own = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    needed.sort(key=lambda name: name.endswith("bias"))  # the weights say more
    told = [_in_its_place(name, own.get(name), checkpoint, report) for name in needed[:_SHOWN]]
    more = f", and others of {len(lacking)}" if len(needed) > _SHOWN else ""
    raise CheckpointError(
        f"the checkpoint {_called(checkpoint)} doesn't hold {depends}: {'; '.join(told)}{more}; "
        f"{_remedy(checkpoint, report, needed, builder)}; --allow-partial leaves the rest random"
    )


def _check_architecture(model: nn.Module, checkpoint: Checkpoint, report: LoadReport) -> None:
    own = [*dict(model.named_parameters()), *dict(model.named_buffers())]
    unknown = {name: _tensor(name, checkpoint) for name in report.unexpected}
    foreign = foreign_tensors(own, unknown, [name for name, _ in model.named_modules()])
    if not foreign:
        return
    beside = list(dict.fromkeys(itertools.chain.from_iterable(foreign.values())))
    used = depended_on(model, beside)
    if used is not None:
        foreign = {name: names for name, names in foreign.items() if not names or not set(names).isdisjoint(used)}
    if not foreign:
        return
    raise CheckpointError(
        f"the checkpoint {_called(checkpoint)} is of another architecture: {len(foreign)} of its tensors belong to "
        f"blocks that the {type(model).__name__} doesn't have ({some(foreign)}); {_take_the_right(checkpoint)}; "
        "--allow-partial leaves them out"
    )


def _called(checkpoint: Checkpoint) -> str:
    notes = [note for note in checkpoint.notes if "weights" in note]
    return f"{checkpoint.source} ({notes[0]})" if notes else checkpoint.source


def _in_its_place(name: str, own: Tensor | None, checkpoint: Checkpoint, report: LoadReport) -> str:
    """What is in the file in a tensor's place: ``fc.weight is missing (the file has fc.1.weight (10, 512))``."""
    ours = f" {tuple(own.shape)}" if own is not None else ""
    if name in report.shapes:
        return f"{printable(name)} is {report.shapes[name]} in the file and{ours} in the model"
    candidates = {other: each for other in report.unexpected if (each := _tensor(other, checkpoint)) is not None}
    near = max(candidates, key=lambda other: _nearness(name, own, other, candidates[other]), default=None)
    if near is None or _nearness(name, own, near, candidates[near]) < (2, _ALIKE):
        return f"{printable(name)}{ours} is missing"
    return f"{printable(name)}{ours} is missing (the file has {printable(near)} {tuple(candidates[near].shape)})"


def _nearness(name: str, own: Tensor | None, other: str, tensor: Tensor) -> tuple[int, float]:
    same_leaf = name.rpartition(".")[2] == other.rpartition(".")[2]
    same_kind = own is not None and own.ndim == tensor.ndim and own.shape[1:] == tensor.shape[1:]
    return same_leaf + same_kind, SequenceMatcher(None, name, other).ratio()


def _tensor(name: str, checkpoint: Checkpoint) -> Tensor | None:
    """A tensor of the file, also where the model's own loading put something before its name, or took it away."""
    state_dict = checkpoint.state_dict
    if name in state_dict:
        return state_dict[name]
    found = [each for each in state_dict if each.endswith(f".{name}") or name.endswith(f".{each}")]
    return state_dict[found[0]] if len(found) == 1 else None


def _remedy(checkpoint: Checkpoint, report: LoadReport, needed: Sequence[str], builder: Builder | None) -> str:
    shapes = {name: report.shapes[name] for name in needed if name in report.shapes}
    if builder is not None and len(shapes) == len(needed):
        for settings in _settings(shapes, report.own_shapes, builder):
            if _fits(builder, settings, shapes):
                return f"build the network that fits with {spelled(settings)}"
    return _take_the_right(checkpoint)


def _take_the_right(checkpoint: Checkpoint) -> str:
    if checkpoint.arch:
        return f"the file says that it is of {printable(checkpoint.arch)}: take the CONFIG of that"
    return (
        "take the CONFIG that belongs to it, or in Python build the network as it was trained and call "
        "camkit.GradCAM(model)"
    )


def _settings(theirs: Mapping[str, Shape], ours: Mapping[str, Shape], builder: Builder) -> Iterator[dict[str, Any]]:
    """Options that could build a network of the file's shapes."""
    pairs = [(theirs[name], ours[name]) for name in theirs if name in ours and len(theirs[name]) == len(ours[name])]
    classes = {one[0] for one, other in pairs if one[1:] == other[1:] and one != other and len(one) < 3}
    channels = {one[1] for one, other in pairs if len(one) > 3 and one[1] != other[1] and one[2:] == other[2:]}
    sides = {one[-2] for one, other in pairs if len(one) in (2, 3) and one[-1] == other[-1] and one[-2] != other[-2]}
    choices: list[list[dict[str, Any]]] = []
    for counts, names in ((classes, builder.classes), (channels, builder.channels)):
        if len(counts) == 1 and names:
            choices.append([{name: count} for name in names for count in counts])
    grids = [math.isqrt(tokens - extra) for tokens in sides for extra in _PREFIX_TOKENS if _is_square(tokens - extra)]
    if grids and builder.size:
        choices.append([{name: grid * patch} for grid in grids for patch in _PATCHES for name in builder.size])
    for size in range(1, len(choices) + 1):
        for chosen in itertools.combinations(choices, size):
            for settings in itertools.islice(itertools.product(*chosen), 30):
                yield {name: value for each in settings for name, value in each.items()}


def _is_square(count: int) -> bool:
    return count > 0 and math.isqrt(count) ** 2 == count


def _fits(builder: Builder, settings: dict[str, Any], shapes: Mapping[str, Shape]) -> bool:
    """Whether the network that the options build has the file's shapes."""
    if settings.keys() & builder.options.keys() or any(not 0 < value < 10**6 for value in settings.values()):
        return False
    try:
        with torch.random.fork_rng(devices=[]):
            model = builder.build(builder.options | settings)
    except CamkitError:
        return False
    own = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    return all(name in own and tuple(own[name].shape) == shape for name, shape in shapes.items())
