"""ROAD and its imputation, against a dense solve."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from camkit.metrics import measure
from camkit.metrics.imputation import impute, linear_system
from tests.metrics.subjects import TARGETS, chance, heats, network, noise_of, pictures
from tests.oracles import removed

MODEL, IMAGES, MAPS = network(), pictures(), heats()


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.999])
@pytest.mark.parametrize("size", [(20, 17), (1, 30), (30, 1), (5, 5)])
def test_imputation(size: tuple[int, int], share: float) -> None:
    draw = np.random.default_rng(0)
    image = draw.standard_normal((3, *size))
    missing = np.zeros(size, dtype=bool)
    count = min(max(1, int(share * missing.size)), missing.size - 1)
    missing.flat[draw.permutation(missing.size)[:count]] = True
    np.testing.assert_allclose(impute(image, missing), removed.imputed(image, missing)[:, missing], atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_imputation_of_a_whole_picture_solves_scipy_s_system(share: float) -> None:
    """At 224 x 224, where everything far from the known pixels depends on the solver."""
    from scipy import sparse
    from scipy.sparse.linalg import spsolve

    heat = torch.nn.functional.interpolate(
        torch.rand(1, 1, 7, 7, generator=torch.Generator().manual_seed(0)), (224, 224), mode="bilinear"
    )[0, 0].numpy()
    image = np.random.default_rng(0).standard_normal((3, 224, 224)).cumsum(1)
    missing = heat > np.quantile(heat, 1 - share)
    system = linear_system(image, missing)
    lower = sparse.csc_matrix((-system.weights, (system.rows, system.columns)), shape=[len(system.diagonal)] * 2)
    theirs = spsolve((lower + lower.T + sparse.diags(system.diagonal)).tocsc(), system.right)
    np.testing.assert_allclose(impute(image, missing), theirs.T, atol=1e-9 * abs(image).max())


def test_probabilities_by_share() -> None:
    found = measure(["ROAD MoRF", "ROAD LeRF", "ROADCombined"], MAPS, IMAGES, MODEL, TARGETS)
    curves = {"MoRF": True, "LeRF": False}
    expected = {
        name: torch.tensor(
            [
                [
                    removed.road(
                        chance(MODEL, target),
                        image.numpy(),
                        heat.numpy(),
                        share,
                        0.01 * noise_of(image).numpy(),
                        highest_first=highest_first,
                    )
                    for share in range(10, 100, 10)
                ]
                for image, heat, target in zip(IMAGES, MAPS, TARGETS, strict=True)
            ],
            dtype=torch.float64,
        )
        for name, highest_first in curves.items()
    }
    for name, curve in expected.items():
        assert curve.std() > 0.01
        assert_close(found[f"ROAD {name}"].curves[name], curve, atol=1e-9, rtol=1e-9)
        assert_close(found[f"ROAD {name}"].values, curve.mean(1), atol=1e-9, rtol=1e-9)
        assert_close(found["ROADCombined"].curves[name], curve, atol=1e-9, rtol=1e-9)
    combined = ((expected["LeRF"] - expected["MoRF"]) / 2).mean(1)
    assert_close(found["ROADCombined"].values, combined, atol=1e-9, rtol=1e-9)


def test_the_noise_depends_on_the_seed_alone() -> None:

    def values(seed: int, *percentages: int) -> torch.Tensor:
        found = measure("ROAD MoRF", MAPS, IMAGES, MODEL, TARGETS, seed=seed, percentages=percentages, noise=0.5)
        return found["ROAD MoRF"].curves["MoRF"]

    assert_close(values(0, 50), values(0, 20, 50)[:, 1:], atol=1e-12, rtol=0)
    assert not torch.allclose(values(0, 50), values(1, 50))
    quiet = measure("ROAD MoRF", MAPS, IMAGES, MODEL, TARGETS, noise=0)["ROAD MoRF"].values
    assert_close(quiet, measure("ROAD MoRF", MAPS, IMAGES, MODEL, TARGETS, noise=0, seed=9)["ROAD MoRF"].values)


def test_a_map_of_zeros_but_for_a_few_pixels_loses_as_many_pixels_as_asked() -> None:
    """Ties are broken by place, so that every share removes its share."""
    sparse = torch.zeros_like(MAPS)
    sparse[:, 4, 4:8] = torch.rand(4, dtype=torch.float64)
    curve = measure("ROAD LeRF", sparse, IMAGES, MODEL, TARGETS, noise=0)["ROAD LeRF"].curves["LeRF"]
    assert all(len(set(row.tolist())) == 9 for row in curve)
