"""The registry of methods."""

from __future__ import annotations

import re

import pytest

from camkit.errors import UsageError
from camkit.methods import FAMILIES, METHODS, Method, find_method
from tests.helpers.kinds import DERIVED, PURE, SIX


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_says_where_it_comes_from(method: Method) -> None:
    assert re.search(r" 20\d\d, \S", method.paper) or method.family == "control"
    assert method.formula
    assert method.cost.startswith(("1", "2"))
    assert method.identifier.isidentifier()
    assert method.family in FAMILIES


@pytest.mark.parametrize(
    ("spelling", "name"), [("gradcam", "GradCAM"), ("GRADCAM++", "GradCAM++"), ("gradcamplusplus", "GradCAM++")]
)
def test_finds_any_case_and_both_spellings(spelling: str, name: str) -> None:
    assert find_method(spelling) is METHODS[name]


def test_offers_what_was_probably_meant() -> None:
    with pytest.raises(UsageError, match=r"no method 'GradCAN'; closest: GradCAM.*; there are: GradCAM, .*LayerCAM"):
        find_method("GradCAN")


def test_the_six_come_first_then_families_in_order() -> None:
    assert tuple(METHODS)[:6] == SIX
    families = [method.family for method in METHODS.values()][6:]
    assert families == sorted(families, key=FAMILIES.index)
    assert list(dict.fromkeys(families)) == list(FAMILIES)


def test_every_method_has_an_oracle() -> None:
    """Those that weight a layer's activations in test_weights; GuidedBackprop beside other packages."""
    others = {"ScoreCAM", "SS-CAM", "IS-CAM", "AblationCAM", "LeGrad", "AttentionRollout", "GradientRollout"}
    assert {*PURE, *DERIVED, *others, "FullGrad", "GuidedBackprop", "GuidedGradCAM", "DFF"} == set(METHODS)


def test_methods_can_be_hashed_with_any_options() -> None:
    assert len({METHODS["GradCAM"], METHODS["ScoreCAM"].configured(top_k=3), METHODS["FinerCAM"]}) == 3
