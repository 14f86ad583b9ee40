"""The probing forward and backward: what it makes of every kind of layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camkit.engine.network import Network
from camkit.errors import LayerError, NonFiniteError
from camkit.layers import liveness
from camkit.layers.liveness import Candidate
from tests.helpers.forwards import count_forwards
from tests.helpers.networks import LayerNorm2d, Returns, SmallCNN, SmallViT, seeded

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def probe(
    model: nn.Module, layers: Mapping[str, nn.Module] | None = None, targets: Any = None, **how: Any
) -> dict[str, Candidate]:
    """Candidates by name; of all layers where none are given."""
    layers = {name: module for name, module in model.named_modules() if name} if layers is None else layers
    return {each.name: each for each in liveness.probe(Network(model, **how), layers, IMAGES, targets)}


def test_live_counts_places_not_tokens() -> None:
    model = seeded(SmallViT(extra=1))
    found = probe(model, {name: module for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)})
    assert [name for name, each in found.items() if each.is_live] == ["layers.0.ln1", "layers.0.ln2", "layers.1.ln1"]
    assert [each.live_places for each in found.values()] == [16, 16, 16, 0, 0]


def test_a_norm_over_channels_first_is_laid_out_so_even_where_the_sizes_are_equal() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 2, 2)
            self.norm = LayerNorm2d(8)

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.norm(self.stem(images)).square().mean((2, 3))
            return logits

    found = probe(seeded(Net()))["norm"]
    assert found.layout is not None
    assert found.layout.form == "channels first"


def test_every_kind_of_layer_has_its_answer() -> None:
    model = seeded(SmallViT(extra=1))
    model.idle = nn.Linear(3, 3)
    found = probe(model)
    assert "idle" not in found
    assert found["patch"].layout is not None
    assert (found["patch"].shape, found["patch"].layout.grid, found["patch"].live_places) == ((1, 8, 4, 4), (4, 4), 16)
    assert found["layers.0"].is_live
    assert found["layers.0.attention"].shape == (1, 17, 8)
    assert found["layers.1.attention"].live_places == 0
    assert isinstance(found["head"].problem, LayerError)
    assert not found["head"].is_live


def test_branches_are_candidates_of_their_own() -> None:
    found = probe(seeded(Returns(lambda t: (t * 1, nn.functional.avg_pool2d(t, 2)))))
    assert [name for name in found if name.startswith("layer[")] == ["layer[0]", "layer[1]"]
    assert [found[f"layer[{number}]"].live_places for number in (0, 1)] == [64, 0]


def test_layers_come_in_the_order_of_execution() -> None:
    model = seeded(SmallCNN())
    names = ["norm2", "conv2", "norm1", "conv1"]
    assert list(probe(model, {name: model.get_submodule(name) for name in names})) == names[::-1]


def test_the_first_image_counts_and_only_it_is_shown() -> None:
    model = seeded(SmallCNN())
    runs = count_forwards(model)
    probe(model, {"norm2": model.norm2}, [[1, 2], [3, 4]])
    assert runs == [1, 1]  # the image, and noise


def test_all_images_are_shown_where_arguments_belong_to_them() -> None:
    class Weighted(SmallCNN):
        def forward(self, images: Tensor, weights: Any = ()) -> Tensor:
            assert len(weights) == len(images)
            return super().forward(images)

    model = seeded(Weighted())
    found = probe(model, {"norm2": model.norm2}, forward_kwargs={"weights": [1, 2]})
    assert (found["norm2"].shape, found["norm2"].is_live) == ((2, 6, 8, 8), True)


def test_a_score_without_a_graph_makes_nothing_live() -> None:
    class Detaches(SmallCNN):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).detach()

    found = probe(seeded(Detaches()))
    assert found["conv2"].layout is not None
    assert not any(each.is_live for each in found.values())


def test_a_score_that_is_no_number_is_refused() -> None:
    model = seeded(SmallCNN())
    model.head.bias.data.fill_(torch.nan)
    with pytest.raises(NonFiniteError, match="the score of image 0 is NaN or infinite"):
        probe(model)
