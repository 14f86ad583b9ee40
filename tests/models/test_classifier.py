"""Class names, labels, and categories by name."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from camkit.errors import UsageError
from camkit.models.classifier import Classifier
from tests.helpers.refusals import refusal

NAMES = (
    "tench, Tinca tinca",
    "tabby, tabby cat",
    "crane",
    "tiger cat",
    "crane",
    "maillot",
    "maillot, tank suit",
    "apple_pie",
    "Egyptian cat",
)


def classifier(classes: tuple[str, ...] | None = NAMES, activation: Any = "softmax") -> Classifier:
    def prepare(path: str) -> Any:
        raise NotImplementedError

    return Classifier(nn.Identity(), classes, activation, "timm:net", None, None, torch.device("cpu"), prepare)


def test_names() -> None:
    known, unknown = classifier(), classifier(None)
    assert (known.name(3), known.named(3)) == ("tiger cat", "3 tiger cat")
    assert (unknown.name(3), unknown.named(3)) == ("category 3", "category 3")
    assert (known.name(9), known.named(9)) == ("category 9", "category 9")
    assert known.name(-1) == "category -1"


def test_names_are_printed_in_one_line_each() -> None:
    """Nor does a terminal obey them."""
    named = classifier(("a\nb", "\x1b[31mred", "café"))
    assert [named.name(index) for index in range(3)] == ["a\\nb", "\\x1b[31mred", "café"]


def test_labels_say_the_probability() -> None:
    logits = torch.tensor([0.0, 2.0, 1.0])
    share = float(logits.double().softmax(0)[1])
    assert classifier().probability(logits, 1) == share
    assert classifier().label(logits, 1) == f"1 tabby, tabby cat ({share:.2f})"
    assert classifier(None).label(logits, 1) == f"category 1 ({share:.2f})"
    one_of_several = classifier(activation="sigmoid")
    assert one_of_several.probability(logits, 0) == 0.5
    assert one_of_several.label(logits, 0) == "0 tench, Tinca tinca (0.50)"


def test_probabilities_are_computed_in_float64() -> None:
    """Whatever the logits' precision; float32 would round the first to 1, bfloat16 the second to 0.73."""
    several = classifier(activation="sigmoid")
    assert several.probability(torch.tensor([20.0]), 0) == pytest.approx(1 / (1 + math.exp(-20)), abs=1e-15)
    assert several.probability(torch.tensor([1.0], dtype=torch.bfloat16), 0) == pytest.approx(1 / (1 + math.exp(-1)))


@pytest.mark.parametrize(
    ("text", "category"),
    [
        ("tiger cat", 3),
        ("Tiger  CAT ", 3),
        ("tabby", 1),
        ("tabby cat", 1),
        ("tabby, tabby cat", 1),
        ("TINCA TINCA", 0),
        ("maillot, tank suit", 6),
        ("tank suit", 6),
        ("apple pie", 7),
        ("apple_pie", 7),
        ("egyptian_cat", 8),
        ("4", 4),
        (" 4 ", 4),
    ],
)
def test_a_category_by_name_or_index(text: str, category: int) -> None:
    assert classifier().find_category(text) == category


@pytest.mark.parametrize("index", [-1, 9, 10**6])
def test_indices_are_not_judged_here(index: int) -> None:
    assert classifier().find_category(str(index)) == index
    assert classifier(None).find_category(str(index)) == index


def test_a_number_is_an_index_even_where_classes_have_numbers_for_names() -> None:
    assert classifier(("2", "1", "0")).find_category("0") == 0


@pytest.mark.parametrize(
    ("text", "several"), [("Crane", "2 crane, 4 crane"), ("maillot", "5 maillot, 6 maillot, tank suit")]
)
def test_a_name_of_several_classes(text: str, several: str) -> None:
    message = refusal(classifier().find_category, UsageError, text)
    assert message == f"'{text}' names 2 classes of timm:net ({several}); give the index"


def test_a_name_of_very_many_classes() -> None:
    message = refusal(classifier(("x",) * 1000).find_category, UsageError, "x")
    assert message.startswith("'x' names 1000 classes of timm:net (0 x, 1 x, ")
    assert "9 x, ...)" in message


def test_a_name_of_no_class() -> None:
    message = refusal(classifier().find_category, UsageError, "tabby kat")
    assert message.startswith("no class 'tabby kat' among the 9 of timm:net; closest: tabby cat")
    assert "closest" not in refusal(classifier().find_category, UsageError, "zzz")
    assert refusal(classifier().find_category, UsageError, "").startswith("no class ''")


def test_a_name_where_names_are_unknown() -> None:
    message = refusal(classifier(None).find_category, UsageError, "tabby cat")
    assert message == "the class names of timm:net are unknown, so 'tabby cat' can't be found; give an index"
