"""Methods that weight activations against their slow oracles, and the laws that all of them obey."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from camkit.methods import METHODS, Method, principal_component
from camkit.methods.control import randomcam
from camkit.methods.needs import ActivationsNeed, CurvatureNeed, GradientsNeed, LinearHeadNeed, NoisyGradientsNeed
from tests import oracles
from tests.helpers.kinds import DERIVED, PURE
from tests.methods.helpers import random_layer, signed, slow_batch
from tests.oracles import Array

LAYER_METHODS = [METHODS[name] for name in (*PURE, *DERIVED)]
each_method = pytest.mark.parametrize("method", LAYER_METHODS, ids=lambda method: method.name)
each_space = pytest.mark.parametrize("spatial", [(4, 5), (3, 2, 2), (7,)], ids=["2d", "3d", "1d"])
each_reduction = pytest.mark.parametrize("reduction", [None, principal_component], ids=["own", "eigen"])


def signed_map(method: Method, a: Tensor, g: Tensor, reduction: Any = None) -> Tensor:
    made: Tensor = maps(method, a, g[None], reduction)[0]
    return made


def maps(method: Method, a: Tensor, g: Tensor, reduction: Any = None) -> Tensor:
    return signed(method, a, *given(method, g), reduction=reduction)


def given(method: Method, g: Tensor) -> tuple[Tensor, ...]:
    """What the method gets beside activations; further tensors are made of ``g`` place by place."""
    kinds: dict[type, Callable[[], tuple[Tensor, ...]]] = {
        ActivationsNeed: tuple,
        GradientsNeed: lambda: (g,),
        LinearHeadNeed: lambda: (g,),
        CurvatureNeed: lambda: (g, curved(g)),
        NoisyGradientsNeed: lambda: moments(samples(g)),
    }
    return kinds[type(method.need)]()


def curved(g: Tensor) -> Tensor:
    """In place of the Hessian's product with the activations."""
    return (3 * g).sin()


def samples(g: Tensor) -> list[Tensor]:
    """In place of the gradients of noisy images."""
    return [g, g.sin() - g.square(), 2 * g.tanh()]


def moments(gradients: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    stacked = torch.stack(gradients)
    return stacked.mean(0), stacked.square().mean(0), (stacked**3).mean(0)


def drawn(channels: int, seed: int = 0) -> Array:
    """What RandomCAM weighs channels by."""
    uniform = torch.rand(channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (2 * uniform - 1).numpy()


def slow(method: str, a: Tensor, g: Tensor, *, eigen: bool = False) -> Array:
    """The oracle's map of one image."""
    array, gradient = a.numpy(), g.numpy()
    if method == "RandomCAM":
        weights = drawn(len(a))
    elif method == "ShapleyCAM":
        weights = oracles.shapley_weights(gradient, curved(g).numpy())
    elif method == "SmoothGradCAM++":
        weights = oracles.smooth_weights(array, [each.numpy() for each in samples(g)])
    else:
        return oracles.raw(method, array, gradient, eigen)
    reduce = oracles.principal_component if eigen else oracles.channel_sum
    return reduce(oracles.spread(array, weights))


def weights_of(method: str, a: Tensor, g: Tensor) -> Tensor:
    made: Tensor = METHODS[method].function(a, g[None])
    return made


@each_method
@each_reduction
@each_space
@pytest.mark.parametrize("relu", [False, True], ids=["signed", "relu"])
def test_agrees_with_the_slow_oracle(method: Method, reduction: Any, spatial: tuple[int, ...], relu: bool) -> None:
    a, g = random_layer(spatial=spatial)
    a = a.relu() if relu else a
    made = signed_map(method, a, g, reduction)
    expected = [slow(method.name, *pair, eigen=reduction is principal_component) for pair in zip(a, g, strict=True)]
    assert_close(made, torch.from_numpy(np.stack(expected)), rtol=1e-9, atol=1e-9)


@each_method
@each_reduction
@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0])
def test_float32_agrees_with_float64_at_every_scale_of_gradient(method: Method, reduction: Any, scale: float) -> None:
    a, g = random_layer(seed=1)
    exact = signed_map(method, a.relu(), scale * g, reduction)
    single = signed_map(method, a.relu().float(), (scale * g).float(), reduction).double()
    size = exact.flatten(1).abs().amax(1)
    assert size.min() > 0
    assert_close(single / size[:, None, None], exact / size[:, None, None], rtol=0, atol=2e-5)


@each_method
@each_reduction
class TestLaws:
    def test_an_image_ignores_its_batch_mates(self, method: Method, reduction: Any) -> None:
        a, g = random_layer()
        alone = torch.cat([signed_map(method, a[i : i + 1], g[i : i + 1], reduction) for i in range(len(a))])
        assert_close(signed_map(method, a, g, reduction), alone)

    def test_an_image_ignores_a_broken_batch_mate(self, method: Method, reduction: Any) -> None:
        a, g = random_layer()
        broken_a, broken_g = a.clone(), g.clone()
        broken_a[1, 2, 0], broken_g[1, 2, 0] = torch.nan, torch.inf
        made = signed_map(method, broken_a, broken_g, reduction)
        assert_close(made[[0, 2]], signed_map(method, a, g, reduction)[[0, 2]])
        assert made[1].isnan().any()

    def test_permuting_channels_changes_nothing(self, method: Method, reduction: Any) -> None:
        if method.name == "RandomCAM":
            pytest.skip("its weights belong to channels by number")
        a, g = random_layer()
        order = torch.tensor([3, 1, 5, 0, 2, 4])
        assert_close(signed_map(method, a[:, order], g[:, order], reduction), signed_map(method, a, g, reduction))

    @pytest.mark.parametrize("change", [lambda t: t.flip(-1), lambda t: t.flip(-2), lambda t: t.transpose(-1, -2)])
    def test_moving_the_places_moves_the_map(
        self, method: Method, reduction: Any, change: Callable[[Tensor], Tensor]
    ) -> None:
        a, g = random_layer()
        made = signed_map(method, change(a), change(g), reduction)
        assert_close(made, change(signed_map(method, a, g, reduction)))

    def test_targets_at_once_are_targets_one_by_one(self, method: Method, reduction: Any) -> None:
        a, g = random_layer()
        several = torch.stack([g, -2 * g, g.flip(-1), 0 * g])[: 4 if method.need.depends_on_targets else 1]
        made = maps(method, a, several, reduction)
        alone = [signed_map(method, a, each, reduction) for each in several]
        assert_close(made, torch.stack(alone))

    def test_leaves_its_arguments_alone(self, method: Method, reduction: Any) -> None:
        a, g = random_layer()
        kept = a.clone(), g.clone()
        signed_map(method, a, g, reduction)
        assert_close((a, g), kept, rtol=0, atol=0)

    def test_nothing_in_nothing_out(self, method: Method, reduction: Any) -> None:
        a, _ = random_layer()
        made = signed_map(method, torch.zeros_like(a), torch.zeros_like(a), reduction)
        assert_close(made, torch.zeros_like(made))


def test_gradcampp_takes_the_papers_alpha() -> None:
    """Without alpha the weights would be sum(G^2 relu(G)), or sum(relu(G)): both give another ranking of channels."""
    a, g = random_layer(batch=1)
    weights = weights_of("GradCAM++", a, g)[0, 0, :, 0, 0]
    without = (g.square() * g.relu()).sum((2, 3))[0]
    assert not torch.allclose(weights / weights.norm(), without / without.norm(), atol=0.05)


def test_gradcampp_survives_a_vanishing_denominator() -> None:
    """2 G^2 + sum(A) G^3 + eps is zero at a negative gradient here; such a position weighs nothing anyway."""
    g = torch.tensor([[[[-1.0, 0.5]]]], dtype=torch.float64)
    a = torch.tensor([[[[1.0, 1.0 + 1e-6]]]], dtype=torch.float64)
    assert weights_of("GradCAM++", a, g).isfinite().all()


@pytest.mark.parametrize("name", [method.name for method in LAYER_METHODS if method.need.depends_on_targets])
def test_several_targets_agree_with_the_slow_oracle(name: str) -> None:
    a, g = random_layer(batch=2)
    several = torch.stack([g, g.flip(-1).square() - 1])
    expected = torch.stack([slow_batch(lambda x, y: slow(name, *map(torch.from_numpy, (x, y))), a, t) for t in several])
    assert_close(maps(METHODS[name], a, several), expected, rtol=1e-9, atol=1e-9)


@each_space
@pytest.mark.parametrize("numerator", [1, 2])
def test_smooth_gradcampp_numerators(spatial: tuple[int, ...], numerator: int) -> None:
    a, g = random_layer(spatial=spatial)
    noisy = samples(g)
    made = signed("SmoothGradCAM++", a, *moments([s[None] for s in noisy]), numerator=numerator)
    expected = slow_batch(lambda a, *noisy: oracles.smooth_plus_plus(a, noisy, numerator), a, *noisy)
    assert_close(made[0], expected, rtol=1e-9, atol=1e-9)


def test_smooth_gradcampp_of_one_sample_is_gradcampp() -> None:
    a, g = random_layer()
    made = signed("SmoothGradCAM++", a, *moments([g[None]]))
    assert_close(made, signed("GradCAM++", a, g[None]), rtol=1e-9, atol=1e-9)


def test_shapleycam_without_curvature_is_gradcam() -> None:
    a, g = random_layer()
    made = signed("ShapleyCAM", a, g[None], torch.zeros_like(g)[None])
    assert_close(made, signed("GradCAM", a, g[None]))


def test_finercam_and_refinecam_weigh_as_their_base_does() -> None:
    a, g = random_layer()
    assert_close(weights_of("FinerCAM", a, g), weights_of("GradCAM", a, g), rtol=0, atol=0)
    assert_close(weights_of("RefineCAM", a, g), weights_of("GradCAM++", a, g), rtol=0, atol=0)


@each_space
@pytest.mark.parametrize("k", [-0.5, 0.0, 1.0, 2.0])
def test_fem_thresholds(spatial: tuple[int, ...], k: float) -> None:
    a, _ = random_layer(spatial=spatial)
    made = signed("FEM", a, k=k)[0]
    assert made.any()
    assert_close(made, slow_batch(lambda a: oracles.fem(a, k), a), rtol=1e-9, atol=1e-9)


def test_fem_marks_nothing_in_a_channel_that_is_the_same_everywhere() -> None:
    """No value is above the mean there; at least as large, as the paper may have it, all are."""
    assert not signed("FEM", torch.full((1, 1, 2, 2), 3.0)).any()


@pytest.mark.parametrize("seed", [0, 3])
def test_randomcam_draws_weights_by_its_seed(seed: int) -> None:
    a, _ = random_layer()
    weights = randomcam(a, seed=seed)
    assert isinstance(weights, Tensor)
    assert weights.shape == (1, 3, 6, 1, 1)
    assert_close(weights[0, 1].flatten(), torch.from_numpy(drawn(6, seed)), rtol=0, atol=0)
    assert_close(signed("RandomCAM", a, seed=seed)[0], slow_batch(lambda a: oracles.combined(a, drawn(6, seed)), a))
    assert METHODS["RandomCAM"].function(torch.zeros(1, 1000, 2, 2)).min() < -0.9
    assert abs(drawn(1000, seed).mean()) < 0.05
