"""Strip the prefix that wrappers such as DataParallel, torch.compile and LightningModules put before names."""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from camkit.errors import CheckpointError
from camkit.models.state_dicts import is_averaged, printable

Shapes = Mapping[str, tuple[int, ...]]


class Fitted(NamedTuple):
    """How many of the model's tensors a state dict has: in their shape or of other classes, and in their shape."""

    found: int
    exact: int


Fit = Callable[[dict[str, Tensor]], Fitted]

_WRAPPERS = {"module", "_orig_mod", "_forward_module", "model", "base_model", "net", "network", "backbone", "encoder"}
_INNER = {"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_fpw_module", "_forward_module"}
_COUNTERS = {"n_averaged", "steps"}  # of torch's AveragedModel and of MMEngine's
_TRIED = 6
_NEAR = 0.9  # of the most tensors that fit, for another network to fit as well


def strip_prefix(
    state_dict: dict[str, Tensor], own: Shapes, source: str, *, weights: str | None = None, fit: Fit | None = None
) -> tuple[dict[str, Tensor], str | None]:
    """Strip what stands before the model's names, or wrappers put into them, where more of its tensors are found then.

    Args:
        state_dict: Tensors by name.
        own: The shapes of the model's tensors.
        source: The file, for messages.
        weights: ``"live"``, ``"ema"`` or a prefix, where the file holds several networks that fit.
        fit: How many of the model's tensors a state dict has; by name and shape where None.

    Returns:
        The tensors, those beside the prefix under their whole names; and a line that says what was stripped.

    Raises:
        CheckpointError: Several networks fit equally, or nearly so.
    """
    fit = fit or (lambda tensors: fitting(tensors, own))
    tensors, dropped, counts, best = state_dict, set[str](), *_tried(state_dict, own, weights, fit)
    for inner in (_INNER, _INNER | {"module"}):
        plain, parts = _without_inner(state_dict, inner)
        if parts - dropped:
            found, likely = _tried(plain, own, weights, fit)
            if found[likely[0]].found > counts[best[0]].found:
                tensors, dropped, counts, best = plain, parts, found, likely
    prefix = _choose(best, counts, tensors, source)
    notes = [f"without the parts {', '.join(sorted(dropped))} in them"] if dropped else []
    if prefix:
        others = [other for other in _rivals(prefix, counts, tensors, own) if other]
        also = f" (beside {', '.join(map(printable, others))}; --weights chooses)" if others else ""
        notes.insert(0, f"without their prefix '{printable(prefix)}'{also}")
    return without(tensors, prefix), f"names {' and '.join(notes)}" if notes else None


def fitting(tensors: Mapping[str, Tensor], own: Shapes, classes: int | None = None) -> Fitted:
    """How many of the model's tensors are there.

    Args:
        tensors: Those of a file.
        own: The shapes of the model's.
        classes: The model's number of classes, where it is built anew for a file that has another.
    """
    both = [(tuple(tensors[name].shape), shape) for name, shape in own.items() if name in tensors]
    exact = sum(theirs == ours for theirs, ours in both)
    return Fitted(exact + sum(is_of_other_classes(theirs, ours, classes) for theirs, ours in both), exact)


def is_of_other_classes(theirs: Sequence[int], ours: Sequence[int], classes: int | None) -> bool:
    """Whether shapes differ in the number of classes alone: in the first dimension, which is the model's number."""
    same_kind = len(theirs) == len(ours) > 0 and tuple(theirs[1:]) == tuple(ours[1:])
    return same_kind and ours[0] == classes != theirs[0]


def without(state_dict: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors without a prefix ``"model."``; the others keep their names. Versions that torch attaches go along."""
    if not prefix:
        return state_dict
    stripped: collections.OrderedDict[str, Tensor] = collections.OrderedDict()
    for name, tensor in state_dict.items():
        if name.startswith(prefix):
            stripped[name.removeprefix(prefix)] = tensor
    for name, tensor in state_dict.items():
        if not name.startswith(prefix) and name not in _COUNTERS:
            stripped.setdefault(name, tensor)
    versions: dict[str, Any] | None = getattr(state_dict, "_metadata", None)
    if versions is not None:  # modules are called without the dot at the end
        dotted = {f"{name}.": each for name, each in versions.items()}
        inside = {name[len(prefix) : -1]: each for name, each in dotted.items() if name.startswith(prefix)}
        stripped._metadata = inside  # type: ignore[attr-defined]
    return stripped


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Shapes by name, of what inference reads."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}


def _tried(
    state_dict: dict[str, Tensor], own: Shapes, weights: str | None, fit: Fit
) -> tuple[dict[str, Fitted], list[str]]:
    """How many tensors are found without each prefix, and the prefixes of the networks that fit."""
    counts = {prefix: fit(without(state_dict, prefix)) for prefix in _candidates(state_dict, own)}
    return counts, _best(counts, state_dict, own, weights)


def _without_inner(state_dict: dict[str, Tensor], inner: set[str]) -> tuple[dict[str, Tensor], set[str]]:
    """The tensors without the parts of their names that wrappers of a network's own modules add; and these parts."""
    parts = {part for name in state_dict for part in name.split(".")} & inner
    if not parts:
        return state_dict, parts

    def plain(name: str) -> str:
        return ".".join(part for part in name.split(".") if part not in parts)

    renamed: collections.OrderedDict[str, Tensor] = collections.OrderedDict()
    taken = state_dict.keys()
    for name, tensor in state_dict.items():
        short = plain(name)
        renamed[name if short != name and (short in taken or short in renamed) else short] = tensor
    versions: dict[str, Any] | None = getattr(state_dict, "_metadata", None)
    if versions is not None:
        renamed._metadata = {plain(name): each for name, each in versions.items()}  # type: ignore[attr-defined]
    return renamed, parts


def _candidates(state_dict: dict[str, Tensor], own: Shapes) -> list[str]:
    """No prefix; those behind which half of the model's names are found; and those that nearly all names share."""
    votes: collections.Counter[str] = collections.Counter()
    for key in state_dict:
        at = 0
        while at := key.find(".", at) + 1:
            votes[key[:at]] += key[at:] in own
    voted = [prefix for prefix, count in votes.most_common(_TRIED) if 2 * count >= len(own)]
    return list(dict.fromkeys(["", *voted, *_shared(state_dict)]))


def _shared(state_dict: dict[str, Tensor]) -> list[str]:
    """The dotted beginnings of nearly all names: ``["module.", "module.net."]``."""
    found: list[str] = []
    while len(found) < _TRIED:
        begin = found[-1] if found else ""
        heads = collections.Counter(
            name[: end + 1] for name in state_dict if name.startswith(begin) and (end := name.find(".", len(begin))) > 0
        )
        if not heads or 10 * heads.most_common(1)[0][1] < 9 * len(state_dict):
            break
        found.append(heads.most_common(1)[0][0])
    return found


def _best(counts: dict[str, Fitted], state_dict: dict[str, Tensor], own: Shapes, weights: str | None) -> list[str]:
    """The prefixes of the networks that fit, the fuller ones first: those asked for, else averaged ones."""
    averaged = [prefix for prefix in counts if is_averaged(prefix)]
    named = [prefix for prefix in counts if weights and prefix.startswith(f"{weights}.")]
    asked = averaged if weights == "ema" else named
    if weights == "live":
        asked = [prefix for prefix in counts if prefix not in averaged]
    counts = {prefix: counts[prefix] for prefix in asked or counts}
    most = max(counts, key=lambda prefix: counts[prefix].found)  # the first of several
    equal = [prefix for prefix in counts if counts[prefix].found == counts[most].found]
    if "" in equal:
        return [""]
    first = next((prefix for prefix in equal if prefix in averaged), most)
    rivals = _rivals(first, counts, state_dict, own)
    return [first, *(prefix for prefix in rivals if (prefix in averaged) == (first in averaged))]


def _rivals(prefix: str, counts: dict[str, Fitted], state_dict: dict[str, Tensor], own: Shapes) -> list[str]:
    """The prefixes of other networks that fit about as well."""

    def held(prefix: str) -> bool:
        return 2 * sum(prefix + name in state_dict for name in own) >= len(own)

    def is_another(other: str) -> bool:  # not the same one, with more or less of its prefix
        return not (prefix.startswith(other) or other.startswith(prefix)) or (held(prefix) and held(other))

    most = counts[prefix].found
    return [other for other in counts if other != prefix and counts[other].found >= _NEAR * most and is_another(other)]


def _choose(best: list[str], counts: dict[str, Fitted], state_dict: dict[str, Tensor], source: str) -> str:
    """Among networks that fit, the one behind a wrapper's name, unless another fits the model's shapes better."""
    exact = max(counts[prefix].exact for prefix in best)
    wrappers = [prefix for prefix in best if prefix and set(prefix[:-1].split(".")) <= _WRAPPERS]
    best = [prefix for prefix in wrappers if counts[prefix].exact == exact] or best
    first = without(state_dict, best[0])
    for other in best[1:]:
        if not _same(first, without(state_dict, other)):
            names = ", ".join(printable(prefix) or "no prefix" for prefix in best)
            raise CheckpointError(
                f"{source} holds several networks that fit, under {names}; say which with --weights "
                f"{printable(next(filter(None, best)).partition('.')[0])}"
            )
    return best[0]


def _same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    shared = first.keys() & second.keys()
    return all(first[name].shape == second[name].shape and torch.equal(first[name], second[name]) for name in shared)
