"""Strip the prefix that wrappers such as DataParallel, torch.compile and LightningModules put before names."""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from camkit.errors import CheckpointError
from camkit.models.state_dicts import is_averaged, printable

Shapes = Mapping[str, tuple[int, ...]]
Fit = Callable[[dict[str, Tensor]], int]

_WRAPPERS = {"module", "_orig_mod", "_forward_module", "model", "base_model", "net", "network", "backbone", "encoder"}
_COUNTERS = {"n_averaged", "steps"}  # of torch's AveragedModel and of MMEngine's
_TRIED = 6


def strip_prefix(
    state_dict: dict[str, Tensor], own: Shapes, source: str, *, weights: str | None = None, fit: Fit | None = None
) -> tuple[dict[str, Tensor], str | None]:
    """Strip what stands before the model's names, where more of the model's tensors are found then.

    Args:
        state_dict: Tensors by name.
        own: The shapes of the model's tensors.
        source: The file, for messages.
        weights: ``"live"``, ``"ema"`` or a prefix, where the file holds several networks that fit.
        fit: How many of the model's tensors a state dict fits; by name and shape where None.

    Returns:
        The tensors, those beside the prefix under their whole names; and a line that says what was stripped.

    Raises:
        CheckpointError: Several networks fit equally.
    """
    fit = fit or (lambda tensors: fitting(tensors, own))
    counts = {prefix: fit(without(state_dict, prefix)) for prefix in _candidates(state_dict, own)}
    most = max(counts.values())
    best = [prefix for prefix, count in counts.items() if count == most]
    prefix = _choose(best, counts, state_dict, source, weights)
    if not prefix:
        return state_dict, None
    stripped = without(state_dict, prefix)
    others = [other for other in best if other != prefix] if is_averaged(prefix) or weights else []
    also = f" (beside {', '.join(map(printable, others))}; --weights chooses)" if others else ""
    return stripped, f"names without their prefix '{printable(prefix)}'{also}"


def fitting(tensors: Mapping[str, Tensor], own: Shapes) -> int:
    """How many of the model's tensors are there, in their shape."""
    return sum(name in tensors and tuple(tensors[name].shape) == shape for name, shape in own.items())


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


def _choose(
    best: list[str], counts: dict[str, int], state_dict: dict[str, Tensor], source: str, weights: str | None
) -> str:
    """Among prefixes that fit equally, no prefix, then averaged weights, then a wrapper's name."""
    whole = {prefix: count for prefix, count in counts.items() if count >= max(counts.values()) * 0.9}
    if weights == "ema":
        best = [prefix for prefix in whole if is_averaged(prefix)] or best
    elif weights == "live":
        best = [prefix for prefix in best if not is_averaged(prefix)] or best
    elif weights is not None:
        best = [prefix for prefix in whole if prefix.startswith(f"{weights}.")] or best
    if "" in best:
        return ""
    best = [prefix for prefix in best if is_averaged(prefix)] or best
    best = [prefix for prefix in best if set(prefix[:-1].split(".")) <= _WRAPPERS] or best
    first = without(state_dict, best[0])
    for other in best[1:]:
        if not _same(first, without(state_dict, other)):
            names = ", ".join(printable(prefix) for prefix in best)
            raise CheckpointError(
                f"{source} holds several networks that fit, under {names}; say which with --weights "
                f"{printable(best[0].partition('.')[0])}"
            )
    return best[0]


def _same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    shared = first.keys() & second.keys()
    return all(first[name].shape == second[name].shape and torch.equal(first[name], second[name]) for name in shared)
