"""The oracles by hand, where no package has the same to compare with."""

from __future__ import annotations

import numpy as np
import pytest

from tests import oracles
from tests.helpers.cases import agree, collected, pictures, plain, rest_of, scorer
from tests.oracles import Array


def test_fem() -> None:
    """One channel of ten places with one peak, one without any."""
    a = np.zeros((2, 2, 5))
    a[0, 1, 2] = 10
    a[1] = [[1, 2, 1, 2, 1], [2, 1, 2, 1, 2]]
    expected = np.zeros((2, 5))
    expected[1, 2] = 1
    np.testing.assert_allclose(oracles.fem(a), expected)
    np.testing.assert_allclose(oracles.fem(a, 0.5), expected + 1.5 * (a[1] == 2))


def test_channels_left_out() -> None:
    """They weigh nothing, and the softmax is over the others alone."""
    model, image = plain(), pictures(8, 7)[0]
    a = collected(model, image[None], "conv2", [2])[0][0]
    score = scorer(model, 2)
    agree(oracles.scorecam(a, image.numpy(), score, [3, 1]), oracles.scorecam(a[[1, 3]], image.numpy(), score))
    agree(oracles.scorecam(a, image.numpy(), score, [3]), a[3])
    every = oracles.ablationcam(a, rest_of(model, "conv2", image, 2))
    some = [oracles.ablationcam(a, rest_of(model, "conv2", image, 2), chosen) for chosen in ([0, 2], [1, 3, 4])]
    agree(some[0] + some[1], every)


def random_attention(blocks: int = 3, heads: int = 2, n: int = 5) -> list[Array]:
    generator = np.random.default_rng(0)
    powers = [np.exp(2 * generator.standard_normal((heads, n, n))) for _ in range(blocks)]
    return [power / power.sum(2, keepdims=True) for power in powers]


@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
def test_rollout(fusion: str) -> None:
    """Against the matrix form."""
    attentions = random_attention()
    joint = np.eye(5)
    for a in attentions:
        step = getattr(a, fusion)(axis=0) / 2 + np.eye(5) / 2
        joint = step / step.sum(1, keepdims=True) @ joint
    agree(oracles.rollout(attentions, [0], fusion), joint[0])
    agree(oracles.rollout(attentions, [1, 4], fusion), (joint[1] + joint[4]) / 2)
    assert oracles.rollout(attentions, [2], fusion).sum() == pytest.approx(1)


def test_gradient_rollout() -> None:
    """Against the matrix form; gradients that are all negative leave the identity."""
    attentions = random_attention()
    gradients = [np.random.default_rng(i).standard_normal(a.shape) for i, a in enumerate(attentions)]
    joint = np.eye(5)
    for a, g in zip(attentions, gradients, strict=True):
        joint = (np.eye(5) + np.maximum(a * g, 0).mean(0)) @ joint
    agree(oracles.gradient_rollout(attentions, gradients, [0]), joint[0])
    agree(oracles.gradient_rollout(attentions, gradients, [1, 2]), (joint[1] + joint[2]) / 2)
    agree(oracles.gradient_rollout(attentions, [-np.ones_like(a) for a in attentions], [3]), np.eye(5)[3])


def test_fullgrad_does_not_see_how_large_a_bias_is() -> None:
    """Its rescaling per channel, which is the paper's, takes every factor out but 0."""
    generator = np.random.default_rng(0)
    product, gradient = generator.standard_normal((3, 8, 8)), generator.standard_normal((4, 4, 4))
    bias = np.array([0.1, -2.0, 3.0, 0.5])
    agree(oracles.fullgrad(product, [(bias, gradient)]), oracles.fullgrad(product, [(np.ones(4), gradient)]))
