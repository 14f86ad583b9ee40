"""--cfg-options as keyword arguments."""

from __future__ import annotations

import pytest

from camkit.errors import UsageError
from camkit.models.options import keyword_options, spelled
from tests.helpers.refusals import refusal


def test_values_are_pythons_or_text() -> None:
    given = ["num_classes=10", "act_layer=gelu", "a=True", "b=false", "c=[1, 2.5]", "d=none", "e=x=y", "f=", "g=1,2"]
    assert keyword_options(given) == {
        "num_classes": 10,
        "act_layer": "gelu",
        "a": True,
        "b": False,
        "c": [1, 2.5],
        "d": None,
        "e": "x=y",
        "f": "",
        "g": (1, 2),
    }


@pytest.mark.parametrize("wrong", ["x", "=3", "a-b=1", "a.b=1", ""])
def test_what_is_no_keyword_argument(wrong: str) -> None:
    assert refusal(keyword_options, UsageError, [wrong]).startswith(f"--cfg-options takes KEY=VALUE, got '{wrong}'")


def test_spelled_as_typed() -> None:
    assert spelled({"num_classes": 10, "act_layer": "gelu"}) == "--cfg-options num_classes=10 act_layer=gelu"
