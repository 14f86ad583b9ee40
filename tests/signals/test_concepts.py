"""Concepts: where they are, what they are called, and what several images have in common."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from camkit import CAM
from camkit.errors import UsageError
from camkit.methods import METHODS
from camkit.signals.perturbed import name_concepts
from tests.helpers.forwards import feature_maps
from tests.helpers.networks import SmallCNN, SmallViT, seeded

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def found(make: Any = SmallCNN, layer: Any = "conv2", images: Tensor = IMAGES, **how: Any) -> Any:
    return CAM(seeded(make()).double(), "DFF", layer, **{"num_concepts": 3, **how}).explain(images)


@cache
def three() -> Any:
    """Three concepts of both images."""
    return found()


class TestNames:
    def test_are_what_the_network_sees_where_a_concept_is_everywhere(self) -> None:
        model = seeded(SmallCNN()).double()
        made = three()
        kept: list[Tensor] = []
        handle = model.conv2.register_forward_hook(lambda module, args, output: kept.append(output.detach()))
        model(IMAGES.double())
        handle.remove()
        concepts = METHODS["DFF"].configured(num_concepts=3).maps(kept[0]).concepts
        assert concepts is not None
        for number, concept in enumerate(concepts):
            handle = model.conv2.register_forward_hook(
                lambda module, args, output, concept=concept: concept.view(1, -1, 1, 1).expand_as(output)
            )
            scores, names = model(IMAGES.double()).detach().max(1)
            handle.remove()
            assert made.targets[:, number].tolist() == names.tolist()
            assert_close(made.scores[:, number], scores)

    def test_belong_to_concepts_not_to_the_targets_asked_for(self) -> None:
        model = seeded(SmallCNN()).double()
        cam = CAM(model, "DFF", "conv2", num_concepts=3)
        one, other = cam.explain(IMAGES, 1), cam.explain(IMAGES, [[2, 3], [4, 0]])
        assert_close((one.maps, one.targets, one.scores), (other.maps, other.targets, other.scores))
        assert one.targets.shape == one.scores.shape == (2, 3)
        assert_close(one.logits, model(IMAGES.double()).detach())

    def test_other_tokens_stay(self) -> None:
        model = seeded(SmallViT()).double()
        made = found(SmallViT, "layers.1.ln1")
        kept: list[Tensor] = []
        handle = model.layers[1].ln1.register_forward_hook(lambda module, args, output: kept.append(output.detach()))
        model(IMAGES.double())
        handle.remove()
        concepts = METHODS["DFF"].configured(num_concepts=3).maps(kept[0][:, 1:].mT.unflatten(2, (4, 4))).concepts
        assert concepts is not None

        def fill(module: Any, args: Any, output: Tensor) -> Tensor:
            return torch.cat([output[:, :1], concepts[0].expand(2, 16, -1)], 1)

        model.layers[1].ln1.register_forward_hook(fill)
        assert_close(made.scores[:, 0], model(IMAGES.double()).detach().gather(1, made.targets[:, :1])[:, 0])

    def test_of_images_that_belong_together(self) -> None:
        class Weighted(SmallCNN):
            def forward(self, images: Tensor, weights: Any = None) -> Tensor:
                assert weights is None or len(weights) == len(images)
                return super().forward(images)

        made = found(Weighted, forward_kwargs={"weights": [1, 2]})
        plain = three()
        assert_close((made.maps, made.targets, made.scores), (plain.maps, plain.targets, plain.scores))


class TestMaps:
    def test_are_of_all_images_together(self) -> None:
        twins = found(images=torch.cat([IMAGES[:1], IMAGES[:1]]))
        assert_close(twins.raw["conv2"][0], twins.raw["conv2"][1])
        assert not torch.allclose(three().maps[0], found(images=IMAGES[:1]).maps[0], atol=1e-2)

    def test_are_not_negative_and_not_alike(self) -> None:
        raw = three().raw["conv2"]
        assert raw.shape == (2, 3, 8, 8)
        assert raw.min() >= 0
        flat = torch.nn.functional.normalize(raw.transpose(0, 1).flatten(1), dim=1)
        assert (flat @ flat.T - torch.eye(3, dtype=torch.float64)).max() < 0.95

    def test_come_with_every_concept_from_a_call(self) -> None:
        cam = CAM(seeded(SmallCNN()), "DFF", "conv2", num_concepts=2)
        assert cam(IMAGES).shape == (2, 2, 16, 16)
        assert cam(IMAGES, 1).shape == (2, 2, 16, 16)

    def test_are_the_same_every_time(self) -> None:
        assert_close(found().maps, three().maps)
        assert not torch.allclose(three().maps, found(seed=5).maps, atol=1e-2)

    def test_planted_concepts_are_found(self) -> None:
        """Three patterns of channels, each in its own corner."""
        patterns = torch.eye(3, dtype=torch.float64).repeat_interleave(2, 1)
        features = torch.zeros(1, 6, 8, 8, dtype=torch.float64)
        corners = [(slice(0, 3), slice(0, 3)), (slice(0, 3), slice(5, 8)), (slice(5, 8), slice(0, 3))]
        for pattern, (rows, columns) in zip(patterns, corners, strict=True):
            features[0, :, rows, columns] = pattern.view(-1, 1, 1)
        maps, _, concepts = METHODS["DFF"].configured(num_concepts=3).maps(features)
        assert_close(torch.einsum("kbhw,kc->bchw", maps, concepts), features, rtol=0, atol=1e-3)
        owners = [maps[:, 0, rows, columns].mean((1, 2)).argmax().item() for rows, columns in corners]
        assert sorted(owners) == [0, 1, 2]

    def test_dead_layers_make_empty_maps(self) -> None:
        model = seeded(SmallCNN())
        model.conv2.weight.data.zero_()
        model.conv2.bias.data.zero_()
        with pytest.warns(UserWarning, match="the activations of 'conv2' are all zero"):
            made = CAM(model, "DFF", "conv2", num_concepts=2).explain(IMAGES)
        assert set(made.empty) == {(0, 0), (0, 1), (1, 0), (1, 1)}
        assert not made.maps.any()


def test_a_model_without_classes_is_refused() -> None:
    class Maps(SmallCNN):
        def forward(self, images: Tensor) -> Tensor:
            return self.conv2(self.conv1(images))

    with (
        feature_maps(seeded(Maps()), "conv1", IMAGES, lambda row: row.mean()) as features,
        pytest.raises(UsageError, match="concepts are named by class"),
    ):
        name_concepts(features, "conv1", torch.zeros(2, 6))
