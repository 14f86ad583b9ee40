"""Principal and kernel components against their slow oracles, and their sign."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from camkit.methods import principal_component
from camkit.methods.reductions import KERNELS, kernel_component, leading_by_squaring, leading_eigenpair
from tests import oracles
from tests.methods.helpers import random_layer, signed, slow_batch

each_space = pytest.mark.parametrize("spatial", [(4, 5), (3, 2, 2), (7,)], ids=["2d", "3d", "1d"])


def principal(weighted: Tensor) -> Tensor:
    return principal_component(weighted, None)[0]


class TestKernelComponent:
    @pytest.mark.parametrize("gamma", [None, 0.05, 0.7])
    @pytest.mark.parametrize("kernel", KERNELS)
    def test_agrees_with_the_slow_oracle(self, kernel: str, gamma: float | None) -> None:
        a, _ = random_layer()
        made = signed("KPCA-CAM", a, kernel=kernel, gamma=gamma)[0]
        expected = slow_batch(lambda a: oracles.kernel_component(a, kernel, gamma), a)
        assert_close(made, expected, rtol=1e-9, atol=1e-9)

    @each_space
    def test_in_any_space(self, spatial: tuple[int, ...]) -> None:
        a, _ = random_layer(spatial=spatial)
        made = signed("KPCA-CAM", a, kernel="rbf")[0]
        assert_close(made, slow_batch(lambda a: oracles.kernel_component(a, "rbf"), a), rtol=1e-9, atol=1e-9)

    def test_a_linear_kernel_makes_eigencam(self) -> None:
        a, _ = random_layer()
        made = signed("KPCA-CAM", a, kernel="linear")
        assert_close(made, signed("EigenCAM", a))

    def test_places_that_are_unlike_each_other(self) -> None:
        """Nearly all pairs are at -1 of the sigmoid: a kernel matrix that was centred badly has a constant vector."""
        a = torch.diag(torch.linspace(20.0, 40.0, 12, dtype=torch.float64)).view(1, 12, 3, 4)
        made = signed("KPCA-CAM", a)[0]
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


@pytest.mark.parametrize("negative", [False, True], ids=["semidefinite", "indefinite"])
def test_the_leading_eigenpair_where_lapack_does_not_converge(monkeypatch: pytest.MonkeyPatch, negative: bool) -> None:
    rows = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(0)).double()
    matrices = rows @ rows.mT
    if negative:  # the largest eigenvalue isn't the one of largest size
        matrices = matrices - 2 * matrices.diagonal(dim1=1, dim2=2).sum(1)[:, None, None] * torch.eye(7)
    value, vector = leading_eigenpair(matrices)

    def fail(matrices: Tensor) -> Any:
        raise RuntimeError("linalg.eigh: The algorithm failed to converge")

    monkeypatch.setattr(torch.linalg, "eigh", fail)
    other, found = leading_eigenpair(matrices)
    assert_close(other, value, rtol=1e-6, atol=0)
    # An eigenvector is unique up to its sign.
    assert_close((vector * found).sum(1).abs(), torch.ones(3).double(), rtol=1e-6, atol=0)
