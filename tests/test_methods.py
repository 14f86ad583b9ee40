"""Every method against its slow oracle, and the laws that all of them obey."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from camkit.errors import UsageError
from camkit.methods import FAMILIES, METHODS, Method, find_method, principal_component
from camkit.methods.reductions import KERNELS, kernel_component, leading_by_squaring
from camkit.methods.requests import Curvature, NoisyGradients, OnlyActivations
from camkit.methods.requests import Gradients as OfScores
from tests import oracles
from tests.kinds import DERIVED, PURE, SIX
from tests.networks import evidence
from tests.oracles import Array

LAYER_METHODS = [METHODS[name] for name in (*PURE, *DERIVED)]
each_method = pytest.mark.parametrize("method", LAYER_METHODS, ids=lambda method: method.name)
each_space = pytest.mark.parametrize("spatial", [(4, 5), (3, 2, 2), (7,)], ids=["2d", "3d", "1d"])
each_reduction = pytest.mark.parametrize("reduction", [None, principal_component], ids=["own", "eigen"])


def signed_map(method: Method, a: Tensor, g: Tensor, reduction: Any = None) -> Tensor:
    made: Tensor = maps(method, a, g[None], reduction)[0]
    return made


def maps(method: Method, a: Tensor, g: Tensor, reduction: Any = None) -> Tensor:
    made: Tensor = method.signed_maps(a, *given(method, g), reduction=reduction)
    return made


def given(method: Method, g: Tensor) -> tuple[Tensor, ...]:
    """What the method gets beside activations; further tensors are made of ``g`` place by place."""
    kinds: dict[type, Callable[[], tuple[Tensor, ...]]] = {
        OnlyActivations: tuple,
        OfScores: lambda: (g,),
        Curvature: lambda: (g, curved(g)),
        NoisyGradients: lambda: moments(samples(g)),
    }
    return next(make() for kind, make in kinds.items() if isinstance(method.request, kind))


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


def slow_batch(function: Callable[..., Array], *batches: Tensor) -> Tensor:
    """``function`` of one image's arrays after the other's."""
    rows = zip(*(each.numpy() for each in batches), strict=True)
    return torch.from_numpy(np.stack([function(*row) for row in rows]))


def weights_of(method: str, a: Tensor, g: Tensor) -> Tensor:
    made = METHODS[method].weigh(a, g[None])
    assert made is not None
    return made


def principal(weighted: Tensor) -> Tensor:
    return principal_component(weighted, None)[0]


@each_method
@each_reduction
@each_space
@pytest.mark.parametrize("relu", [False, True], ids=["signed", "relu"])
def test_agrees_with_the_slow_oracle(method: Method, reduction: Any, spatial: tuple[int, ...], relu: bool) -> None:
    a, g = evidence(spatial=spatial)
    a = a.relu() if relu else a
    made = signed_map(method, a, g, reduction)
    expected = [slow(method.name, *pair, eigen=reduction is principal_component) for pair in zip(a, g, strict=True)]
    assert_close(made, torch.from_numpy(np.stack(expected)), rtol=1e-9, atol=1e-9)


@each_method
@each_reduction
@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0])
def test_float32_agrees_with_float64_at_every_scale_of_gradient(method: Method, reduction: Any, scale: float) -> None:
    a, g = evidence(seed=1)
    exact = signed_map(method, a.relu(), scale * g, reduction)
    single = signed_map(method, a.relu().float(), (scale * g).float(), reduction).double()
    size = exact.flatten(1).abs().amax(1)
    assert size.min() > 0
    assert_close(single / size[:, None, None], exact / size[:, None, None], rtol=0, atol=2e-5)


@each_method
@each_reduction
class TestLaws:
    def test_an_image_ignores_its_batch_mates(self, method: Method, reduction: Any) -> None:
        a, g = evidence()
        alone = torch.cat([signed_map(method, a[i : i + 1], g[i : i + 1], reduction) for i in range(len(a))])
        assert_close(signed_map(method, a, g, reduction), alone)

    def test_an_image_ignores_a_broken_batch_mate(self, method: Method, reduction: Any) -> None:
        a, g = evidence()
        broken_a, broken_g = a.clone(), g.clone()
        broken_a[1, 2, 0], broken_g[1, 2, 0] = torch.nan, torch.inf
        made = signed_map(method, broken_a, broken_g, reduction)
        assert_close(made[[0, 2]], signed_map(method, a, g, reduction)[[0, 2]])
        assert made[1].isnan().any()

    def test_permuting_channels_changes_nothing(self, method: Method, reduction: Any) -> None:
        if method.name == "RandomCAM":
            pytest.skip("its weights belong to channels by number")
        a, g = evidence()
        order = torch.tensor([3, 1, 5, 0, 2, 4])
        assert_close(signed_map(method, a[:, order], g[:, order], reduction), signed_map(method, a, g, reduction))

    @pytest.mark.parametrize("change", [lambda t: t.flip(-1), lambda t: t.flip(-2), lambda t: t.transpose(-1, -2)])
    def test_moving_the_places_moves_the_map(
        self, method: Method, reduction: Any, change: Callable[[Tensor], Tensor]
    ) -> None:
        a, g = evidence()
        made = signed_map(method, change(a), change(g), reduction)
        assert_close(made, change(signed_map(method, a, g, reduction)))

    def test_targets_at_once_are_targets_one_by_one(self, method: Method, reduction: Any) -> None:
        a, g = evidence()
        several = torch.stack([g, -2 * g, g.flip(-1), 0 * g])[: 4 if method.needs_gradients else 1]
        made = maps(method, a, several, reduction)
        alone = [signed_map(method, a, each, reduction) for each in several]
        assert_close(made, torch.stack(alone))

    def test_leaves_its_arguments_alone(self, method: Method, reduction: Any) -> None:
        a, g = evidence()
        kept = a.clone(), g.clone()
        signed_map(method, a, g, reduction)
        assert_close((a, g), kept, rtol=0, atol=0)

    def test_nothing_in_nothing_out(self, method: Method, reduction: Any) -> None:
        a, _ = evidence()
        made = signed_map(method, torch.zeros_like(a), torch.zeros_like(a), reduction)
        assert_close(made, torch.zeros_like(made))


def test_gradcampp_takes_the_papers_alpha() -> None:
    """Without alpha the weights would be sum(G^2 relu(G)), or sum(relu(G)): both give another ranking of channels."""
    a, g = evidence(batch=1)
    weights = weights_of("GradCAM++", a, g)[0, 0, :, 0, 0]
    without = (g.square() * g.relu()).sum((2, 3))[0]
    assert not torch.allclose(weights / weights.norm(), without / without.norm(), atol=0.05)


def test_gradcampp_survives_a_vanishing_denominator() -> None:
    """2 G^2 + sum(A) G^3 + eps is zero at a negative gradient here; such a position weighs nothing anyway."""
    g = torch.tensor([[[[-1.0, 0.5]]]], dtype=torch.float64)
    a = torch.tensor([[[[1.0, 1.0 + 1e-6]]]], dtype=torch.float64)
    assert weights_of("GradCAM++", a, g).isfinite().all()


@pytest.mark.parametrize("name", [method.name for method in LAYER_METHODS if method.needs_gradients])
def test_several_targets_agree_with_the_slow_oracle(name: str) -> None:
    a, g = evidence(batch=2)
    several = torch.stack([g, g.flip(-1).square() - 1])
    expected = torch.stack([slow_batch(lambda x, y: slow(name, *map(torch.from_numpy, (x, y))), a, t) for t in several])
    assert_close(maps(METHODS[name], a, several), expected, rtol=1e-9, atol=1e-9)


@each_space
@pytest.mark.parametrize("numerator", [1, 2])
def test_smooth_gradcampp_numerators(spatial: tuple[int, ...], numerator: int) -> None:
    a, g = evidence(spatial=spatial)
    noisy = samples(g)
    made = METHODS["SmoothGradCAM++"].configured(numerator=numerator).signed_maps(a, *moments([s[None] for s in noisy]))
    expected = slow_batch(lambda a, *noisy: oracles.smooth_plus_plus(a, noisy, numerator), a, *noisy)
    assert_close(made[0], expected, rtol=1e-9, atol=1e-9)


def test_smooth_gradcampp_of_one_sample_is_gradcampp() -> None:
    a, g = evidence()
    made = METHODS["SmoothGradCAM++"].signed_maps(a, *moments([g[None]]))
    assert_close(made, METHODS["GradCAM++"].signed_maps(a, g[None]), rtol=1e-9, atol=1e-9)


def test_shapleycam_without_curvature_is_gradcam() -> None:
    a, g = evidence()
    made = METHODS["ShapleyCAM"].signed_maps(a, g[None], torch.zeros_like(g)[None])
    assert_close(made, METHODS["GradCAM"].signed_maps(a, g[None]))


def test_finercam_and_refinecam_weigh_as_their_base_does() -> None:
    a, g = evidence()
    assert_close(weights_of("FinerCAM", a, g), weights_of("GradCAM", a, g), rtol=0, atol=0)
    assert_close(weights_of("RefineCAM", a, g), weights_of("GradCAM++", a, g), rtol=0, atol=0)


@each_space
@pytest.mark.parametrize("k", [-0.5, 0.0, 1.0, 2.0])
def test_fem_thresholds(spatial: tuple[int, ...], k: float) -> None:
    a, _ = evidence(spatial=spatial)
    made = METHODS["FEM"].configured(k=k).signed_maps(a)[0]
    assert made.any()
    assert_close(made, slow_batch(lambda a: oracles.fem(a, k), a), rtol=1e-9, atol=1e-9)


def test_fem_marks_nothing_in_a_channel_that_is_the_same_everywhere() -> None:
    """No value is above the mean there; at least as large, as the paper may have it, all are."""
    assert not METHODS["FEM"].signed_maps(torch.full((1, 1, 2, 2), 3.0)).any()


@pytest.mark.parametrize("seed", [0, 3])
def test_randomcam_draws_weights_by_its_seed(seed: int) -> None:
    a, _ = evidence()
    method = METHODS["RandomCAM"].configured(seed=seed)
    weights = method.weigh(a, seed=seed)
    assert weights.shape == (1, 3, 6, 1, 1)
    assert_close(weights[0, 1].flatten(), torch.from_numpy(drawn(6, seed)), rtol=0, atol=0)
    assert_close(method.signed_maps(a)[0], slow_batch(lambda a: oracles.combined(a, drawn(6, seed)), a))
    assert METHODS["RandomCAM"].weigh(torch.zeros(1, 1000, 2, 2)).aminmax().min < -0.9
    assert abs(drawn(1000, seed).mean()) < 0.05


class TestKernelComponent:
    @pytest.mark.parametrize("gamma", [None, 0.05, 0.7])
    @pytest.mark.parametrize("kernel", KERNELS)
    def test_agrees_with_the_slow_oracle(self, kernel: str, gamma: float | None) -> None:
        a, _ = evidence()
        made = METHODS["KPCA-CAM"].configured(kernel=kernel, gamma=gamma).signed_maps(a)[0]
        expected = slow_batch(lambda a: oracles.kernel_component(a, kernel, gamma), a)
        assert_close(made, expected, rtol=1e-9, atol=1e-9)

    @each_space
    def test_in_any_space(self, spatial: tuple[int, ...]) -> None:
        a, _ = evidence(spatial=spatial)
        made = METHODS["KPCA-CAM"].configured(kernel="rbf").signed_maps(a)[0]
        assert_close(made, slow_batch(lambda a: oracles.kernel_component(a, "rbf"), a), rtol=1e-9, atol=1e-9)

    def test_a_linear_kernel_makes_eigencam(self) -> None:
        a, _ = evidence()
        made = METHODS["KPCA-CAM"].configured(kernel="linear").signed_maps(a)
        assert_close(made, METHODS["EigenCAM"].signed_maps(a))

    def test_places_that_are_unlike_each_other(self) -> None:
        """Nearly all pairs are at -1 of the sigmoid: a kernel matrix that was centred badly has a constant vector."""
        a = torch.diag(torch.linspace(20.0, 40.0, 12, dtype=torch.float64)).view(1, 12, 3, 4)
        made = METHODS["KPCA-CAM"].signed_maps(a)[0]
        assert made.std() > 0.1
        assert_close(made, slow_batch(oracles.kernel_component, a), rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("kernel", KERNELS)
    def test_channels_that_are_the_same_everywhere_leave_nothing(self, kernel: str) -> None:
        a = torch.rand(2, 6, 1, 1, generator=torch.Generator().manual_seed(0)).expand(-1, -1, 7, 5)
        assert not kernel_component(a, None, kernel=kernel).any()


class TestPrincipalComponent:
    @pytest.mark.parametrize(("channels", "side"), [(64, 4), (8, 9), (16, 4)], ids=["wide", "tall", "square"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_gram_route_agrees_with_svd(self, channels: int, side: int, dtype: torch.dtype) -> None:
        weighted = torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        rows = weighted.flatten(2).mT
        centred = rows - rows.mean(1, keepdim=True)
        u, s, _ = torch.linalg.svd(centred, full_matrices=False)
        expected = (u[:, :, 0] * s[:, :1]).reshape(2, side, side)
        made = principal(weighted.to(dtype)).double()
        sign = (made * expected).sum((1, 2), keepdim=True).sign()
        assert_close(made, sign * expected, rtol=0, atol=1e-4 if dtype == torch.float32 else 1e-9)

    @pytest.mark.parametrize("gap", [0.5, 1e-2, 1e-4, 1e-6])
    @pytest.mark.parametrize("size", [4, 49])
    def test_squaring_finds_the_same_eigenvector(self, gap: float, size: int) -> None:
        """What runs in place of eigh on CUDA, where eigh makes the host wait."""
        generator = torch.Generator().manual_seed(5)
        basis, _ = torch.linalg.qr(torch.randn(3, size, size, generator=generator, dtype=torch.float64))
        values = torch.linspace(0, 1 - gap, size, dtype=torch.float64)
        values[-1] = 1
        gram = 1e-9 * (basis * values) @ basis.mT
        made = leading_by_squaring(gram)
        assert_close(made.norm(dim=1), torch.ones(3, dtype=torch.float64))
        overlap = (made * basis[:, :, -1]).sum(1).abs()
        assert_close(overlap, torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-8)

    @pytest.mark.parametrize("shape", [(64, 3, 3), (4, 6, 6)], ids=["wide", "tall"])
    def test_squaring_makes_the_same_map(self, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]) -> None:
        weighted = torch.randn(4, *shape, generator=torch.Generator().manual_seed(2))
        weighted[1] = 0
        weighted[2, 0, 0, 0] = torch.nan
        expected = principal(weighted)
        monkeypatch.setattr("camkit.methods.reductions.leading_eigenvector", leading_by_squaring)
        made = principal(weighted)
        assert_close(made, expected, rtol=0, atol=1e-4, equal_nan=True)
        assert made[2].isnan().all()
        assert not made[1].any()

    def test_squaring_survives_nothing(self) -> None:
        assert leading_by_squaring(torch.zeros(2, 5, 5)).isfinite().all()

    def test_hot_is_where_the_energy_is(self) -> None:
        weighted = 0.1 * torch.randn(1, 8, 6, 6, generator=torch.Generator().manual_seed(0))
        for sign in (1, -1):
            spot = weighted.clone()
            spot[:, :, 1:3, 1:3] += sign * torch.arange(1.0, 9.0)[None, :, None, None]
            made = principal(spot)[0]
            assert made[1:3, 1:3].min() > made[3:, 3:].max()

    def test_a_tie_makes_the_largest_entry_positive(self) -> None:
        # Positions +v, -v and 0, so that energy and projection are orthogonal; -3 v is the largest entry's mirror.
        weighted = torch.tensor([[[[1.0, -1.0, 0.0]]]], dtype=torch.float64)
        made = principal(weighted)[0, 0]
        assert_close(made[made.abs().argmax()], torch.tensor(1.0, dtype=torch.float64))
        assert_close(principal(weighted), principal(-weighted))

    def test_tiny_values_keep_their_map(self) -> None:
        weighted = torch.randn(1, 8, 3, 3, generator=torch.Generator().manual_seed(0))
        assert_close(principal(weighted * 1e-25) * 1e25, principal(weighted), rtol=1e-4, atol=1e-5)


class TestRegistry:
    @pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
    def test_says_where_it_comes_from(self, method: Method) -> None:
        assert re.search(r" 20\d\d, \S", method.paper) or method.family == "control"
        assert method.weigh.__doc__
        assert method.weighting
        assert method.cost.startswith(("1", "2"))
        assert method.identifier.isidentifier()
        assert method.family in FAMILIES

    @pytest.mark.parametrize(
        ("spelling", "name"), [("gradcam", "GradCAM"), ("GRADCAM++", "GradCAM++"), ("gradcamplusplus", "GradCAM++")]
    )
    def test_finds_any_case_and_both_spellings(self, spelling: str, name: str) -> None:
        assert find_method(spelling) is METHODS[name]

    def test_offers_what_was_probably_meant(self) -> None:
        with pytest.raises(
            UsageError, match=r"no method 'GradCAN'; closest: GradCAM.*; there are: GradCAM, .*LayerCAM"
        ):
            find_method("GradCAN")

    def test_the_six_are_there(self) -> None:
        assert tuple(METHODS)[:6] == SIX
