"""Methods of attention, against their slow oracles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from camkit.methods.needs import Attended
from tests import oracles
from tests.methods.helpers import BATCH, TARGETS, by_target_and_image, close, random, signed
from tests.oracles import Array

GRID, FRONT, BACK = (2, 3), 2, 1
TOKENS = FRONT + 6 + BACK
ROWS = [[[0], [1, 4]], [[3], [0, 1, 2, 8]], [[8], [5]]]
"""By image and target: the tokens that the score reads."""


def lay_out(relevance: Tensor) -> Tensor:
    return relevance[:, :, FRONT : TOKENS - BACK].unflatten(2, GRID)


@dataclass
class Blocks:
    """Three blocks of two heads."""

    attended: Attended
    probabilities: list[Array]
    gradients: list[Array]


def blocks() -> Blocks:
    probabilities = [(2 * random(BATCH, 2, TOKENS, TOKENS, seed=seed)).softmax(3) for seed in range(3)]
    gradients = [random(TARGETS, BATCH, 2, TOKENS, TOKENS, seed=seed + 10) for seed in range(3)]
    readout = torch.zeros(TARGETS, BATCH, TOKENS, dtype=torch.float64)
    for image, targets in enumerate(ROWS):
        for target, rows in enumerate(targets):
            readout[target, image, rows] = 1 / len(rows)
    attended = Attended(probabilities, gradients, readout, lay_out)
    return Blocks(attended, [each.numpy() for each in probabilities], [each.numpy() for each in gradients])


def on_grid(relevance: Array) -> Array:
    return np.asarray(relevance[FRONT : TOKENS - BACK].reshape(GRID))


@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
def test_attention_rollout(fusion: str) -> None:
    given = blocks()
    made = signed("AttentionRollout", given.attended, head_fusion=fusion)

    def slow(target: int, image: int) -> Array:
        return on_grid(oracles.rollout([p[image] for p in given.probabilities], ROWS[image][target], fusion))

    close(made, by_target_and_image(slow))


def test_gradient_rollout() -> None:
    given = blocks()

    def slow(target: int, image: int) -> Array:
        attention, gradients = [p[image] for p in given.probabilities], [g[target, image] for g in given.gradients]
        return on_grid(oracles.gradient_rollout(attention, gradients, ROWS[image][target]))

    close(signed("GradientRollout", given.attended), by_target_and_image(slow))


@pytest.mark.parametrize("count", [1, 3])
def test_legrad(count: int) -> None:
    given = blocks()
    attended = Attended(given.attended.probabilities[:count], given.attended.gradients[:count], torch.ones(()), lay_out)

    def slow(target: int, image: int) -> Array:
        return oracles.legrad([g[target, image] for g in given.gradients[:count]], GRID, FRONT, BACK)

    close(signed("LeGrad", attended), by_target_and_image(slow))


def test_attention_by_images_and_targets_alone() -> None:
    """Neither the batch nor other targets enter an image's map."""
    given = blocks().attended
    alone = Attended(
        [p[1:2] for p in given.probabilities], [g[1:, 1:2] for g in given.gradients], given.readout[1:, 1:2], lay_out
    )
    for name in ("LeGrad", "AttentionRollout", "GradientRollout"):
        assert_close(signed(name, alone), signed(name, given)[1:, 1:2])
