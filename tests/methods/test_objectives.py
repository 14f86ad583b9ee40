"""What FinerCAM and ShapleyCAM differentiate in place of the score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from camkit.errors import UsageError
from camkit.methods.gradient import Finer, ReST, finer
from tests.methods.helpers import close

LOGITS = torch.tensor(
    [[2.0, -1.0, 0.5, 2.5, 1.9, 7.0], [0.0, 0.3, -0.2, 5.0, 0.31, -4.0], [1.0, 1.0, 1.0, 3.0, 1.0, 1.0]],
    dtype=torch.float64,
)
CATEGORIES = torch.tensor([[0, 3, 5], [1, 1, 0], [2, 3, 5]])


def slow_finer(row: Sequence[float], own: int, ranks: Sequence[int], gamma: float, weights: str) -> float:
    """One class's objective, from numbers."""
    others = [each for each in range(len(row)) if each != own]
    others.sort(key=lambda each: abs(row[each] - row[own]))  # stable: of equals the first class comes first
    near = [others[rank - 1] for rank in ranks if rank <= len(others)]
    total = sum(np.exp(value) for value in row)
    shares = [np.exp(row[each]) / total if weights == "probability" else 1.0 for each in near]
    differences = [row[own] - gamma * row[each] for each in near]
    summed = sum(share * difference for share, difference in zip(shares, differences, strict=True))
    return float(summed / (sum(shares) + (1e-9 if weights == "probability" else 0)))


@pytest.mark.parametrize("weights", ["equal", "probability"])
@pytest.mark.parametrize("ranks", [(1, 2, 3), (1,), (2, 5), (3, 1), (4, 5, 6, 70)])
@pytest.mark.parametrize("gamma", [0.6, 1.0, 0.0])
def test_finer(gamma: float, ranks: tuple[int, ...], weights: str) -> None:
    need = finer(gamma=gamma, comparison=ranks, weights=weights)
    assert need.objective is not None
    expected = [
        [slow_finer(row, own, ranks, gamma, weights) for own in wanted]
        for row, wanted in zip(LOGITS.tolist(), CATEGORIES.tolist(), strict=True)
    ]
    close(need.objective(LOGITS, CATEGORIES), expected)


def test_finer_compares_with_the_three_closest_by_default() -> None:
    assert finer().objective == Finer(0.6, (1, 2, 3), "equal")


@pytest.mark.parametrize("weights", ["equal", "probability"])
def test_finer_of_fewer_classes_than_ranks(weights: str) -> None:
    logits = LOGITS[:, :2]
    made = Finer(0.6, (1, 2, 3), weights)(logits, torch.zeros(3, 1, dtype=torch.long))
    assert_close(made[:, 0], logits[:, 0] - 0.6 * logits[:, 1], rtol=1e-6, atol=0)


def test_finer_gradients_leave_the_choice_of_classes_out() -> None:
    """They are those of the scores, and by "probability" of the shares too."""
    for weights in ("equal", "probability"):
        objective = Finer(0.6, (1, 3), weights)
        assert torch.autograd.gradcheck(
            lambda logits, objective=objective: objective(logits, CATEGORIES[:2]), LOGITS[:2].clone().requires_grad_()
        )


@pytest.mark.parametrize(("ranks", "classes"), [((1, 2, 3), 1), ((3, 4), 3), ((6,), 6)])
def test_finer_needs_a_class_to_compare_with(ranks: tuple[int, ...], classes: int) -> None:
    number = ", ".join(map(str, ranks))
    with pytest.raises(UsageError, match=rf"number {number}; the model has {classes}: use GradCAM"):
        Finer(0.6, ranks, "equal")(LOGITS[:, :classes], torch.zeros(3, 1, dtype=torch.long))


def test_rest() -> None:
    expected = [
        [row[own] + np.log(np.exp(row[own]) / sum(np.exp(value) for value in row)) for own in wanted]
        for row, wanted in zip(LOGITS.tolist(), CATEGORIES.tolist(), strict=True)
    ]
    close(ReST()(LOGITS, CATEGORIES), expected)
