"""Options of methods: which there are, and which values they take."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from camkit.errors import UsageError
from camkit.methods import METHODS, Method, configured
from tests.helpers.refusals import refusal

COUNT, NUMBER, SEED = "a whole number of at least 1", "a finite number", "a whole number from 0 to 2^63 - 1"
NOT_NEGATIVE = "a number from 0 on"
BAD_COUNTS = (0, -1, 2.0, True, "3", None, torch.nan, [1])
BAD_NUMBERS = (True, "1", None, torch.nan, torch.inf, 1j, [1.0])
WRONG = {
    ("SS-CAM", "num_samples"): (COUNT, BAD_COUNTS),
    ("IS-CAM", "num_samples"): (COUNT, BAD_COUNTS),
    ("SmoothGradCAM++", "num_samples"): (COUNT, BAD_COUNTS),
    ("DFF", "num_concepts"): (COUNT, BAD_COUNTS),
    ("ScoreCAM", "top_k"): (f"{COUNT}, or None for all", BAD_COUNTS[:5]),
    ("AblationCAM", "top_k"): (f"{COUNT}, or None for all", BAD_COUNTS[:5]),
    ("SS-CAM", "std"): (NOT_NEGATIVE, (*BAD_NUMBERS, -1)),
    ("SmoothGradCAM++", "std"): (NOT_NEGATIVE, (*BAD_NUMBERS, -0.1)),
    ("SS-CAM", "seed"): (SEED, (-1, 1.0, True, "0", None, 2**63)),
    ("RandomCAM", "seed"): (SEED, (-1, 1.0, True, "0", None, 2**64)),
    ("SmoothGradCAM++", "numerator"): ("1 or 2", (0, 3, True, 1.0, "2")),
    ("FEM", "k"): (NUMBER, BAD_NUMBERS),
    ("FinerCAM", "gamma"): (NUMBER, BAD_NUMBERS),
    ("FinerCAM", "comparison"): (
        "whole numbers of at least 1, such as (1, 2, 3)",
        (1, (), (0,), (1.0,), (True,), "12"),
    ),
    ("FinerCAM", "weights"): ("one of equal, probability", ("other", 1, None, True)),
    ("ShapleyCAM", "utility"): ("one of ReST, score", ("rest", 0, None)),
    ("KPCA-CAM", "kernel"): ("one of sigmoid, rbf, poly, linear, cosine", ("tanh", 1)),
    ("KPCA-CAM", "gamma"): ("a number above 0, or None", (0, -1, True, torch.nan, "1")),
    ("AttentionRollout", "head_fusion"): ("one of mean, max, min", ("sum", 0, None)),
}
VALUES = [pytest.param(*key, value, words, id=f"{key}-{value}") for key, (words, bad) in WRONG.items() for value in bad]


@pytest.mark.parametrize(("method", "option", "value", "words"), VALUES)
def test_wrong_values_are_refused(method: str, option: str, value: Any, words: str) -> None:
    message = refusal(METHODS[method].configured, UsageError, **{option: value})
    assert message == f"the option {option} of {method} takes {words}, got {value!r}"


def test_every_option_is_tried_here() -> None:
    there = {(method.name, option) for method in METHODS.values() for option in method.options}
    kinds = {option for _, option in WRONG}
    assert {option for _, option in there} <= kinds
    assert set(WRONG) <= there


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_defaults_are_values_that_it_takes(method: Method) -> None:
    again = method.configured(**method.options)
    assert again.options == method.options
    assert again.need == method.need


def test_unknown_ones_are_refused() -> None:
    message = refusal(METHODS["SS-CAM"].configured, UsageError, num_sample=3)
    assert message.startswith("SS-CAM has no option 'num_sample'; closest: num_samples; it has: num_samples=35, std")
    assert refusal(METHODS["GradCAM"].configured, UsageError, std=1).endswith("it has: none")


def test_ones_that_no_method_has_are_refused() -> None:
    methods = [METHODS[name] for name in ("FEM", "SS-CAM", "GradCAM")]
    message = refusal(configured, UsageError, methods, {"num": 1})
    assert message.startswith("no method has the option 'num'")
    assert "FEM: k=2.0; SS-CAM: num_samples=35, std=2.0, seed=0, top_k=None" in message


def test_several_methods_get_those_they_have() -> None:
    made = configured([METHODS["SS-CAM"], METHODS["GradCAM"]], {"num_samples": 3})
    assert [method.options.get("num_samples") for method in made] == [3, None]


def test_change_nothing_in_the_registry() -> None:
    before = {name: dict(method.options) for name, method in METHODS.items()}
    changed = METHODS["FEM"].configured(k=5)
    assert {name: dict(method.options) for name, method in METHODS.items()} == before
    assert changed.options["k"] == 5
    assert METHODS["FEM"].configured() is METHODS["FEM"]


def test_lists_are_taken_as_tuples() -> None:
    method = METHODS["FinerCAM"].configured(comparison=[1, 2])
    assert method.options["comparison"] == (1, 2)
    assert method.need == METHODS["FinerCAM"].configured(comparison=(1, 2)).need


def test_whole_numbers_are_numbers() -> None:
    method = METHODS["SmoothGradCAM++"]
    assert method.configured(std=1).need == method.configured(std=1.0).need
