"""``camkit methods``: the registry as text and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Callable

from camkit.methods import METHODS
from tests.cli.running import Run


def test_lists_the_registry(camkit: Callable[..., Run]) -> None:
    lines = camkit("methods").out.splitlines()
    assert lines[0].split() == ["method", "family", "needs", "cost", "options", "paper"]
    assert [line.split()[0] for line in lines[2:-2]] == list(METHODS)
    (row,) = [line for line in lines if line.startswith("SS-CAM")]
    assert re.split(r"\s{2,}", row)[1:] == [
        "perturbation",
        "scores of masked images",
        "1 + num_samples C",
        "num_samples=35, std=2.0, seed=0, top_k=None",
        METHODS["SS-CAM"].paper,
    ]
    assert lines[-1].startswith("cost: ")


def test_as_markdown(camkit: Callable[..., Run]) -> None:
    table = camkit("methods", "--markdown").out.splitlines()
    assert len(table) == len(METHODS) + 2
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table]
    assert {len(row) for row in cells} == {7}, "a bar in a cell would end it"
    assert [row[0].strip() for row in cells[2:]] == list(METHODS)
    assert [row[2].strip().replace(r"\|", "|") for row in cells[2:]] == [each.formula for each in METHODS.values()]
    assert cells[1] == [" --- "] * 7
