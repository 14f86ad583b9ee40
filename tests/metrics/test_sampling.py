"""Faithfulness of random changes: Infidelity, MuFidelity, Sensitivity-n."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from camkit.errors import UsageError
from camkit.metrics import METRICS, measure_methods
from camkit.metrics.perturbations import generator_of
from camkit.metrics.random_changes import Noise, RemovedCells, RemovedPixels
from tests.metrics.trials import TARGETS, network, pictures, score, values
from tests.oracles import trusted

SAMPLED = ("Infidelity", "Normalised infidelity", "MuFidelity", "Sensitivity-n")


class Linear(nn.Module):
    """The scores are sums of the first channel times known weights (K, H, W): the evidence is known."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, images: Tensor) -> Tensor:
        return (images[:, :1] * self.weights).sum((2, 3))


class OfAllChannels(Linear):
    """The same of the sum of all channels."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.sum(1, keepdim=True))


def maps_of(images: Tensor, seed: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(len(images), *images.shape[2:], generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("normalise", [False, True])
def test_infidelity_is_the_loops(normalise: bool) -> None:
    model, images = network(), pictures()
    maps = maps_of(images)
    found = values(SAMPLED[normalise], maps, images, model, num_samples=4, std=0.3, seed=9)
    for number, (image, target) in enumerate(zip(images, TARGETS.tolist(), strict=True)):
        changes = [each.numpy() for each in Noise(4, 0.3).changes(image, generator_of(image, 9))]
        expected = trusted.infidelity(
            maps[number].numpy(), image.numpy(), changes, score(model, target), normalise=normalise
        )
        assert float(found.values[number]) == pytest.approx(expected, rel=1e-9)


def test_mufidelity_is_the_loops() -> None:
    model, images = network(), pictures()
    maps = maps_of(images)
    maps[0, :, :7] = 0  # many subsets with equal sums
    found = values("MuFidelity", maps, images, model, num_subsets=25, grid=5, share=0.3)
    for number, (image, target) in enumerate(zip(images, TARGETS.tolist(), strict=True)):
        asked = RemovedCells(25, 5, 0.3)
        chosen = [set(each.tolist()) for each in asked.subsets(16, 12, generator_of(image, 0))]
        assert {len(each) for each in chosen} == {8}
        subsets = [
            [(i, j) for i in range(16) for j in range(12) if (i * 5 // 16) * 5 + j * 5 // 12 in cells]
            for cells in chosen
        ]
        heat = maps[number].numpy()
        sums, drops = trusted.subset_sums_and_drops(heat, image.numpy(), subsets, score(model, target))
        # Loops add in another order: sums of the same cells differ by rounding.
        sums = [round(each, 9) for each in sums]
        assert float(found.values[number]) == pytest.approx(trusted.spearman(sums, drops), abs=1e-9)


def test_sensitivity_n_is_the_loops() -> None:
    model, images = network(), pictures()
    maps = maps_of(images) - 0.3
    shares = (0.05, 0.5)
    found = values("Sensitivity-n", maps, images, model, num_subsets=15, shares=shares)
    assert found.steps is not None
    assert found.steps.tolist() == list(shares)
    for number, (image, target) in enumerate(zip(images, TARGETS.tolist(), strict=True)):
        drawn = list(RemovedPixels(15, shares).subsets(16 * 12, generator_of(image, 0)))
        rows = []
        for start, size in ((0, 10), (15, 96)):
            subsets = [[divmod(each, 12) for each in subset.tolist()] for subset in drawn[start : start + 15]]
            assert {len(set(each)) for each in subsets} == {size}
            sums, drops = trusted.subset_sums_and_drops(
                maps[number].numpy(), image.numpy(), subsets, score(model, target)
            )
            rows.append(trusted.pearson(sums, drops))
        np.testing.assert_allclose(found.curves["correlation"][number], rows, atol=1e-9)
        assert float(found.values[number]) == pytest.approx(sum(rows) / 2, abs=1e-9)


def linear(batch: int = 3) -> tuple[Linear, Tensor, Tensor]:
    """A network, images and the evidence: what each pixel adds to the class's score."""
    images = pictures(18, 18, batch)
    model = Linear(maps_of(images, 8) - 0.5)
    targets = torch.arange(batch)
    return model, images, (images[:, 0] * model.weights.detach()[targets])


def test_the_evidence_itself_is_perfect() -> None:
    model, images, evidence = linear()
    targets = torch.arange(3)
    for name in ("MuFidelity", "Sensitivity-n"):
        found = values(name, evidence, images, model, targets)
        assert_close(found.values, torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-9)
        assert found.notes == {}
    # Noise is answered by the weights, and not by what pixels times weights add.
    weights = model.weights.detach()[targets]
    for name in ("Infidelity", "Normalised infidelity"):
        found = values(name, weights, images, OfAllChannels(model.weights.detach()), targets)
        assert_close(found.values, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-18)


def test_random_maps_get_nothing() -> None:
    model, images, _ = linear()
    targets = torch.arange(3)
    for name in ("MuFidelity", "Sensitivity-n"):
        found = [values(name, maps_of(images, seed), images, model, targets).values for seed in range(10, 30)]
        assert abs(float(torch.stack(found).mean())) < 0.1


@pytest.mark.parametrize("name", SAMPLED[1:])
def test_the_scale_of_a_map_does_not_count(name: str) -> None:
    model, images = network(), pictures()
    maps = maps_of(images)
    once, scaled = (values(name, each, images, model) for each in (maps, 1e-12 * maps))
    assert_close(scaled.values, once.values, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", SAMPLED)
@pytest.mark.parametrize("value", [0.0, 0.7])
def test_a_map_that_is_the_same_everywhere(name: str, value: float) -> None:
    model, images = network(), pictures()
    found = values(name, torch.full((2, 16, 12), value, dtype=torch.float64), images, model)
    assert found.values.isfinite().all()
    if "infidelity" not in name.lower():
        assert found.values.tolist() == [0, 0]
    assert list(found.notes) == [0, 1]
    assert found.notes[0].startswith(f"the map is {value:g} everywhere")


@pytest.mark.parametrize("name", ["MuFidelity", "Sensitivity-n"])
def test_a_score_that_nothing_changes(name: str) -> None:
    images = pictures()
    dead = Linear(torch.zeros(5, 16, 12, dtype=torch.float64))
    found = values(name, maps_of(images), images, dead)
    assert found.values.tolist() == [0, 0]
    assert "none of the changes changes the score" in found.notes[0]


@pytest.mark.parametrize("name", SAMPLED)
def test_an_image_alone_gets_what_it_gets_in_a_batch(name: str) -> None:
    model, images = network(), pictures()
    maps = maps_of(images)
    together = values(name, maps, images, model).values
    alone = values(name, maps[1:], images[1:], model, TARGETS[1:]).values
    assert_close(alone, together[1:], rtol=1e-9, atol=0)
    other = values(name, maps, images, model, seed=1).values
    assert not torch.equal(other, together)


def test_images_smaller_than_the_grid() -> None:
    images = pictures(4, 5)
    assert RemovedCells(3, 9, 0.2).cells(4, 5).tolist() == torch.arange(20).reshape(4, 5).tolist()
    assert values("MuFidelity", maps_of(images), images, network(), grid=9).values.isfinite().all()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("MuFidelity", {"share": 1.0}, "the option share of MuFidelity takes a number above 0 and below 1, got 1.0"),
        ("MuFidelity", {"grid": 0}, "the option grid of MuFidelity takes a whole number of at least 1, got 0"),
        ("Sensitivity-n", {"shares": ()}, "takes numbers above 0 and below 1"),
        ("Sensitivity-n", {"shares": (0.1, True)}, "takes numbers above 0 and below 1"),
        ("Infidelity", {"std": -1}, "the option std of Infidelity takes a number from 0 on, got -1"),
        ("Infidelity", {"sigma": 1}, "Infidelity has no option 'sigma'"),
    ],
)
def test_wrong_options(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        METRICS[name].configured(**options)


def test_perturbations_are_shared_and_leave_the_image_alone() -> None:
    (image,) = pictures(batch=1)
    for asked in (Noise(3, 0.2), RemovedCells(3, 4, 0.3), RemovedPixels(2, (0.1, 0.6))):
        assert not asked.of_map
        assert hash(asked) == hash(type(asked)(**vars(asked)))
        before = image.clone()
        made = [each.clone() for each in asked.images(image, torch.empty(0), generator_of(image, 0))]
        assert len(made) == asked.count(image)
        assert torch.equal(image, before)
        again = [each.clone() for each in asked.images(image.float(), torch.empty(0), generator_of(image, 0))]
        for a, b in zip(made, again, strict=True):
            assert_close(b, a.float())


def test_changes_run_once_for_all_methods_and_metrics_that_ask_for_them() -> None:
    model, images = network(), pictures()
    maps = {"one": maps_of(images), "other": maps_of(images, 4)}
    seen: list[int] = []
    names = ["MuFidelity", "Infidelity", "Normalised infidelity"]
    with model.register_forward_hook(lambda module, args, output: seen.append(len(output))):
        found = measure_methods(names, maps, images, model, TARGETS.tolist(), num_subsets=20, batch_size=7)
    assert sum(seen) == 2 * (1 + 20 + 10)
    for name, heats in maps.items():
        for metric in names:
            options = {"num_subsets": 20} if metric == "MuFidelity" else {}
            assert_close(found[name][metric].values, values(metric, heats, images, model, **options).values)
