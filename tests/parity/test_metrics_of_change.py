"""Infidelity and Max-sensitivity beside Captum 0.9.0, MuFidelity beside Xplique's formulas, on the same changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from camkit.metrics.perturbations import generator_of
from camkit.metrics.random_changes import Noise, RemovedCells
from tests.metrics.trials import TARGETS, explainer, network, pictures, values

pytestmark = pytest.mark.peers


@pytest.mark.parametrize(("name", "normalise"), [("Infidelity", False), ("Normalised infidelity", True)])
def test_infidelity_is_captums(name: str, normalise: bool) -> None:
    from captum.metrics import infidelity

    model, images = network(), pictures()
    maps = explainer(model)(images, TARGETS).double()
    drawn = [list(Noise(6, 0.3).changes(image, generator_of(image, 2))) for image in images]
    changes = torch.stack([torch.stack(each) for each in drawn]).flatten(0, 1)
    theirs = infidelity(
        model,
        lambda repeated: (changes, repeated - changes),
        images,
        maps[:, None].expand_as(images),
        target=TARGETS,
        n_perturb_samples=6,
        normalize=normalise,
    )
    ours = values(name, maps, images, model, num_samples=6, std=0.3, seed=2)
    np.testing.assert_allclose(ours.values, theirs, rtol=1e-9)


def test_max_sensitivity_is_captums() -> None:
    from captum.metrics import sensitivity_max

    model, images = network(), pictures()
    explain = explainer(model)
    generators = [generator_of(image, 2) for image in images]
    drawn = [
        [torch.rand(image.shape, generator=each) for _ in range(5)]
        for image, each in zip(images, generators, strict=True)
    ]
    noise = torch.stack([0.1 * (2 * torch.stack(each) - 1) for each in drawn]).flatten(0, 1)

    def explained(images: Any, target: Tensor) -> Any:
        """Captum gives and takes tuples at first, then a tensor."""
        if isinstance(images, tuple):
            return (explained(images[0], target),)
        return explain(images, target).double()

    theirs = sensitivity_max(explained, images, lambda repeated: repeated + noise, n_perturb_samples=5, target=TARGETS)
    ours = values(
        "Max-sensitivity", explained(images, TARGETS), images, model, explain=explain, num_samples=5, radius=0.1, seed=2
    )
    np.testing.assert_allclose(ours.values, theirs, rtol=1e-9)


def test_mufidelity_is_xpliques_formula() -> None:
    """Spearman by SciPy of base - perturbed and the sum of the map where the mask is 0; NaN is 0."""
    stats: Any = pytest.importorskip("scipy.stats")
    model, images = network(), pictures(18, 18)
    maps = explainer(model)(images, TARGETS).double()
    ours = values("MuFidelity", maps, images, model, num_subsets=40)
    asked = RemovedCells(40, 9, 0.2)
    for number, (image, target) in enumerate(zip(images, TARGETS.tolist(), strict=True)):
        removed = [np.isin(np.arange(81), each) for each in asked.subsets(18, 18, generator_of(image, 0))]
        masks = torch.from_numpy(np.stack([~each for each in removed]).reshape(40, 1, 9, 9)).double()
        masks = torch.nn.functional.interpolate(masks, (18, 18), mode="nearest")
        with torch.no_grad():
            drops = model(image[None])[:, target] - model(image * masks)[:, target]
        # Rounded, since sums of the same cells in another order tie here.
        sums = (maps[number] * (1 - masks[:, 0])).sum((1, 2)).numpy().round(9)
        expected = stats.spearmanr(drops.numpy(), sums)[0]
        assert float(ours.values[number]) == pytest.approx(np.nan_to_num(expected), abs=1e-9)
