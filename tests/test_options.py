"""Options of methods: where they may be given, which there are, and which values they take."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.testing import assert_close

import camkit
from camkit import CAM
from camkit.errors import UsageError
from camkit.methods import METHODS
from tests.networks import SmallCNN, seeded
from tests.refusals import refusal

IMAGES = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
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
def test_defaults_are_values_that_it_takes(method: camkit.Method) -> None:
    again = method.configured(**method.options)
    assert again.options == method.options
    assert again.request == method.request


class TestUnknownOnes:
    def test_of_a_method(self) -> None:
        message = refusal(METHODS["SS-CAM"].configured, UsageError, num_sample=3)
        assert message.startswith(
            "SS-CAM has no option 'num_sample'; closest: num_samples; it has: num_samples=35, std"
        )
        assert refusal(METHODS["GradCAM"].configured, UsageError, std=1).endswith("it has: none")

    def test_of_a_cam(self) -> None:
        message = refusal(CAM, UsageError, seeded(SmallCNN()), "FEM", sigma=1)
        assert message == "FEM has no option 'sigma'; it has: k=2.0"

    def test_of_a_constructor(self) -> None:
        message = refusal(camkit.FEM, UsageError, seeded(SmallCNN()), batchsize=1)
        assert message.startswith("CAM has no argument, and FEM no option, 'batchsize'; closest: batch_size")

    def test_of_all_methods(self) -> None:
        message = refusal(camkit.explain, UsageError, seeded(SmallCNN()), IMAGES, ["FEM", "SS-CAM", "GradCAM"], num=1)
        assert message.startswith("no method has the option 'num'")
        assert "FEM: k=2.0; SS-CAM: num_samples=35, std=2.0, seed=0, top_k=None" in message


class TestGivenOptions:
    def test_a_cam_takes_them(self) -> None:
        model = seeded(SmallCNN())
        cam = CAM(model, "SS-CAM", "conv2", std=1.0, num_samples=2)
        assert dict(cam.method.options) == {"num_samples": 2, "std": 1.0, "seed": 0, "top_k": None}
        same = CAM(model, METHODS["SS-CAM"].configured(std=1.0).configured(num_samples=2), "conv2")
        assert_close(cam(IMAGES), same(IMAGES), rtol=0, atol=0)
        named = camkit.SSCAM(model, target_layers="conv2", std=1, num_samples=2)
        assert_close(cam(IMAGES), named(IMAGES), rtol=0, atol=0)

    def test_explain_hands_them_to_those_that_have_them(self) -> None:
        model = seeded(SmallCNN())
        wanted = ["SS-CAM", "GradCAM", "IS-CAM", METHODS["FEM"].configured(k=1)]
        found = camkit.explain(model, IMAGES, wanted, 1, "conv2", num_samples=3, std=0.5)
        assert_close(found["SS-CAM"].maps[:, 0], CAM(model, "SS-CAM", "conv2", num_samples=3, std=0.5)(IMAGES, 1))
        assert_close(found["IS-CAM"].maps[:, 0], CAM(model, "IS-CAM", "conv2", num_samples=3)(IMAGES, 1))
        assert_close(found["FEM"].maps[:, 0], CAM(model, "FEM", "conv2", k=1)(IMAGES, 1))

    def test_change_nothing_in_the_registry(self) -> None:
        before = {name: dict(method.options) for name, method in METHODS.items()}
        changed = METHODS["FEM"].configured(k=5)
        CAM(seeded(SmallCNN()), "SS-CAM", std=5)
        assert {name: dict(method.options) for name, method in METHODS.items()} == before
        assert changed.options["k"] == 5
        assert METHODS["FEM"].configured() is METHODS["FEM"]

    def test_lists_are_taken_as_tuples(self) -> None:
        method = METHODS["FinerCAM"].configured(comparison=[1, 2])
        assert method.options["comparison"] == (1, 2)
        assert method.request == METHODS["FinerCAM"].configured(comparison=(1, 2)).request
        model = seeded(SmallCNN())
        assert_close(
            CAM(model, "FinerCAM", "conv2", comparison=[1, 2])(IMAGES),
            CAM(model, "FinerCAM", "conv2", comparison=(1, 2))(IMAGES),
        )

    def test_whole_numbers_are_numbers(self) -> None:
        assert (
            METHODS["SmoothGradCAM++"].configured(std=1).request
            == METHODS["SmoothGradCAM++"].configured(std=1.0).request
        )

    @pytest.mark.parametrize(
        ("method", "given"),
        [
            ("SS-CAM", {"std": 0.1, "num_samples": 4}),
            ("SS-CAM", {"seed": 7, "num_samples": 4}),
            ("IS-CAM", {"num_samples": 3}),
            ("ScoreCAM", {"top_k": 2}),
            ("AblationCAM", {"top_k": 2}),
            ("SmoothGradCAM++", {"std": 2.0}),
            ("SmoothGradCAM++", {"numerator": 1}),
            ("FEM", {"k": 0}),
            ("RandomCAM", {"seed": 2**63 - 1}),
            ("FinerCAM", {"gamma": 2.0}),
            ("FinerCAM", {"comparison": (4,)}),
            ("FinerCAM", {"weights": "probability"}),
            ("ShapleyCAM", {"utility": "score"}),
            ("KPCA-CAM", {"kernel": "poly"}),
            ("KPCA-CAM", {"gamma": 2.0}),
            ("DFF", {"num_concepts": 2}),
            ("DFF", {"seed": 3, "num_concepts": 3}),
        ],
        ids=str,
    )
    def test_each_changes_the_map(self, method: str, given: dict[str, Any]) -> None:
        model = seeded(SmallCNN())
        base = {
            name: value for name, value in given.items() if name in ("num_samples", "num_concepts") and len(given) > 1
        }
        plain = CAM(model, method, "conv2", **base)(IMAGES, 1)
        made = CAM(model, method, "conv2", **given)(IMAGES, 1)
        assert made.shape != plain.shape or not torch.allclose(made, plain, atol=1e-4)
