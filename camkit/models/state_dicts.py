"""Find the state dict in what a checkpoint file holds: which entry it is, and whether live or averaged."""

from __future__ import annotations

import argparse
import collections
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from camkit import errors
from camkit.errors import CheckpointError, UsageError

_EMA = ("state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict", "ema_model", "ema")
_LIVE = ("state_dict", "model", "model_state_dict", "net", "weights", "module")
_BESIDES = ("optim", "lr_sched", "sched", "scaler", "amp_scaler", "criterion", "loss", "message_hub")  # begin so
_DEPTH = 3  # entries in entries


@dataclass(frozen=True)
class Found:
    """A file's state dict. ``note`` says which entry it is, where there was a choice."""

    tensors: dict[str, Tensor]
    note: str | None


def find_state_dict(content: object, called: str, *, weights: str | None = None, first: tuple[str, ...] = ()) -> Found:
    """Find the tensors by name in whatever was saved, with the versions that torch attaches.

    Averaged weights (EMA) come before live ones, as timm takes them. MMEngine saves its averaged weights as
    ``state_dict`` and the live ones as ``ema_state_dict``.

    Args:
        content: What the file holds.
        called: The file, for messages.
        weights: ``"live"``, ``"ema"`` or the name of an entry.
        first: Entries that the framework's own loader takes before any other.

    Raises:
        CheckpointError: No tensors by name, or several entries of which none is known to be the network.
        UsageError: The file holds no such ``weights``.
    """
    entries = _entries(content)
    if not entries:
        keys = f"a dict with {some(map(str, content))}" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise CheckpointError(f"{called} holds no state dict: no tensors by name in {keys}")
    averaged = {name for name in entries if _is_ema(name)}
    if isinstance(content, dict) and _is_mmengine(content) and {"state_dict", "ema_state_dict"} <= entries.keys():
        averaged = averaged - {"ema_state_dict"} | {"state_dict"}
    chosen = _choose(entries, averaged, called, weights, first)
    return Found(_tensors(entries[chosen]), _note(chosen, entries, averaged))


def about_itself(content: object, key: str) -> dict[str, Any]:
    """An entry of the file that is a dict or a namespace, such as ``meta`` or ``args``; else an empty dict."""
    value = content.get(key) if isinstance(content, dict) else None
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    return {str(name): each for name, each in value.items()} if isinstance(value, dict) else {}


def is_averaged(name: str) -> bool:
    """Whether a dotted or underscored name says EMA: ``ema_model``, ``state_dict_ema``."""
    return "ema" in name.lower().replace(".", "_").split("_")


def some(names: Iterable[str], limit: int = 3) -> str:
    """The first names for a message: ``a, b, c, ...``. Names come from files: what can't be printed is escaped."""
    names = list(names)
    return ", ".join(map(printable, names[:limit])) + (", ..." if len(names) > limit else "") if names else "nothing"


def printable(text: str) -> str:
    """The text in one line of printable characters, of which a file's names may have too many."""
    return errors.printable(text)[:200]


def _entries(content: object, depth: int = _DEPTH) -> dict[str, Any]:
    """What could be a network's state in a file: dicts with tensors by name, and modules, by their dotted place."""
    if isinstance(content, nn.Module):  # torch.save(model), read with trust
        return {"": content.state_dict()}
    if not isinstance(content, Mapping):
        return {}
    inner: dict[str, Any] = {}
    for key, value in content.items() if depth else ():
        if isinstance(key, str) and not key.lower().startswith(_BESIDES):
            found = _entries(value, depth - 1)
            inner |= {f"{key}.{name}".removesuffix("."): each for name, each in found.items()}
    known = any(name.rpartition(".")[2] in _EMA + _LIVE for name in inner)
    if not known and any(isinstance(key, str) and torch.is_tensor(value) for key, value in content.items()):
        return {"": content}
    return inner


def _is_ema(entry: str) -> bool:
    return any(is_averaged(part) for part in entry.split("."))


def _is_mmengine(content: dict[Any, Any]) -> bool:
    return "message_hub" in content or "mmengine_version" in about_itself(content, "meta")


def _choose(
    entries: dict[str, Any], averaged: set[str], called: str, weights: str | None, first: tuple[str, ...]
) -> str:
    """The entry that is the network."""
    live = [name for name in entries if name not in averaged]
    if weights in entries:
        return str(weights)
    inside = [name for name in entries if weights and name.startswith(f"{weights}.")]
    averages = [name for name in entries if name in averaged]
    wanted = inside or {"ema": averages, "live": live}.get(weights or "", list(entries))
    rank = functools.partial(_rank, known=(*first, *_EMA[:2], *_LIVE[:2], *_EMA[2:], *_LIVE[2:]))  # 2 each as timm's
    ranked = sorted(wanted, key=rank)
    if weights is not None and not inside and (not wanted or weights not in ("ema", "live")):
        default = _choose(entries, averaged, called, None, first)
        if _is_begun_by(entries[default], weights):
            return default  # the names in it tell them apart
        kind = weights.upper() if weights == "ema" else weights
        raise UsageError(
            f"{called} holds no {kind} weights for --weights {weights}; it has {_listed(entries, averaged)}"
        )
    if len(ranked) > 1 and rank(ranked[0]) == rank(ranked[1]):
        raise CheckpointError(
            f"{called} holds several state dicts: {_listed(entries, averaged)}; say which with --weights {ranked[0]}"
        )
    return ranked[0]


def _rank(entry: str, known: tuple[str, ...]) -> tuple[int, int, int]:
    """Where an entry comes: the least where a known name is outermost; then by that, averaged weights' if there is."""
    parts = entry.split(".")
    places = [place for place, part in enumerate(parts) if part in known]
    if not places:
        return len(known), 0, 0
    names = [parts[place] for place in places]
    names = [name for name in names if name in _EMA] or names
    return places[0], min(map(known.index, names)), len(parts)


def _is_begun_by(tensors: Mapping[Any, Any], weights: str) -> bool:
    """Whether names of tensors begin with a part for ``weights``: ``ema_model.`` for ema, itself for a name."""
    begins = {str(key).partition(".")[0] for key in tensors if "." in str(key)}
    if weights == "live":
        return any(is_averaged(part) for part in begins) and not all(is_averaged(part) for part in begins)
    return any(is_averaged(part) for part in begins) if weights == "ema" else weights in begins


def _listed(entries: dict[str, Any], averaged: set[str]) -> str:
    kinds = {name: "EMA" if name in averaged else "live" for name in entries}
    return ", ".join(f"{printable(name) or 'the tensors'} ({kinds[name]})" for name in entries)


def _note(chosen: str, entries: dict[str, Any], averaged: set[str]) -> str | None:
    others = [name for name in entries if (name in averaged) != (chosen in averaged)]
    if others:
        ours, theirs = ("EMA", "live") if chosen in averaged else ("live", "EMA")
        return (
            f"{ours} weights ({printable(chosen)}); --weights {theirs.lower()} takes the {theirs} ones ({some(others)})"
        )
    if chosen in averaged:
        return f"EMA weights ({printable(chosen)}), the only ones in the file"
    return f"weights of the entry {printable(chosen)}" if chosen.rpartition(".")[2] not in (*_LIVE, "") else None


def _tensors(entry: Mapping[Any, Any]) -> dict[str, Tensor]:
    tensors: collections.OrderedDict[str, Tensor] = collections.OrderedDict()
    tensors.update((key, value) for key, value in entry.items() if isinstance(key, str) and torch.is_tensor(value))
    versions: dict[str, Any] | None = getattr(entry, "_metadata", None)
    if isinstance(versions, dict):
        tensors._metadata = dict(versions)  # type: ignore[attr-defined]
    return tensors
