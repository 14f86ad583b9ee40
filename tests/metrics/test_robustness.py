"""Max-sensitivity."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from camkit.metrics.perturbations import generator_of
from tests.metrics.trials import TARGETS, explainer, network, pictures, values
from tests.oracles import trusted


def sensitivity(maps: Tensor, images: Tensor, explain: Any, targets: Tensor = TARGETS, **options: Any) -> Any:
    return values("Max-sensitivity", maps, images, network(), targets, explain=explain, **options)


def test_is_the_loops() -> None:
    images, explain = pictures(), explainer(network())
    maps = explain(images, TARGETS).double()
    found = sensitivity(maps, images, explain, num_samples=4, radius=0.3, seed=7)
    for number, (image, target) in enumerate(zip(images, TARGETS, strict=True)):
        generator = generator_of(image, 7)
        noise = [0.3 * (2 * torch.rand(image.shape, generator=generator) - 1).numpy() for _ in range(4)]

        def again(changed: Any, target: Tensor = target) -> Any:
            return explain(torch.as_tensor(changed)[None], target[None])[0].double().numpy()

        expected = trusted.max_sensitivity(maps[number].numpy(), image.numpy(), noise, again)
        assert float(found.values[number]) == pytest.approx(expected, rel=1e-6)  # finished maps are float32
        assert found.values[number] == found.curves["distance"][number].max()


def test_maps_that_depend_on_nothing_are_perfect() -> None:
    maps = torch.rand(2, 16, 12, dtype=torch.float64)
    found = sensitivity(maps, pictures(), lambda images, targets: maps)
    assert found.values.tolist() == [0, 0]
    assert found.notes == {}


def test_a_map_that_is_zero_is_not_divided_by() -> None:
    images = pictures()
    found = sensitivity(
        torch.zeros(2, 16, 12, dtype=torch.float64), images, lambda images, targets: images[:, 0] * 0 + 2
    )
    assert found.values.tolist() == pytest.approx(2 * [2 * (16 * 12) ** 0.5], rel=1e-12)
    assert found.notes[1] == "the map is 0 everywhere: distances are not divided by its norm"


def test_more_noise_moves_maps_farther() -> None:
    images, explain = pictures(), explainer(network())
    maps = explain(images, TARGETS).double()
    little, much = (sensitivity(maps, images, explain, num_samples=5, radius=radius).values for radius in (1e-3, 0.5))
    assert (little < much).all()


def test_an_image_alone_gets_what_it_gets_in_a_batch() -> None:
    images, targets = pictures(4, 4, 20), torch.arange(20) % 5

    def explain(images: Tensor, targets: Tensor) -> Tensor:
        return images[:, 0] * targets[:, None, None]

    maps = explain(images, targets)
    together = sensitivity(maps, images, explain, targets, num_samples=2)
    alone = sensitivity(maps[18:19], images[18:19], explain, targets[18:19], num_samples=2)
    assert_close(alone.values, together.values[18:19])
