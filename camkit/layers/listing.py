"""A network's layers as lists: what each returns, on which grid, and whether the score depends on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from camkit.layers.default_layers import Question
from camkit.layers.liveness import Candidate
from camkit.layers.names import is_norm


def candidates(question: Question, *, whole: bool = False) -> list[Candidate]:
    """Probe the backbone's norm layers; those with places are returned in the order of execution.

    With ``whole`` every layer of the model is, in the order of execution, then those that don't run.
    """
    if not whole:
        return [candidate for candidate in question.norms() if candidate.layout]
    modules = {name: module for name, module in question.network.model.named_modules() if name}
    found = question.probe(modules)
    ran = {candidate.module for candidate in found}
    return found + [Candidate(name, module) for name, module in modules.items() if module not in ran]


def as_json(found: Sequence[Candidate], default: str | None) -> list[dict[str, Any]]:
    """The list for programs; ``default`` is the layer that is taken where none is named."""
    return [
        {
            "name": each.name,
            "type": type(each.module).__name__,
            "norm": is_norm(each.module),
            "output": list(each.shape),
            "form": each.layout and each.layout.form,
            "grid": each.layout and list(each.layout.grid),
            "extra_tokens": each.layout and list(each.layout.extra_tokens),
            "live_places": each.live_places,
            "live": each.is_live,
            "default": each.name == default,
            "problem": problem_of(each) or None,
        }
        for each in found
    ]


def problem_of(each: Candidate) -> str:
    """Why no map can be made of a layer; empty where one can."""
    if each.problem:
        return str(each.problem).removeprefix(f"layer {each.name!r} ")
    return "" if each.layout else "doesn't run"
