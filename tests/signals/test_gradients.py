"""Gradients that take backwards of their own: of guided ReLUs, of noisy images, of a linear head."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close

from camkit import CAM
from camkit.errors import LayerError, UsageError
from camkit.methods.needs import NoisyGradientsNeed
from camkit.signals.gradients import draw_noise, guided_gradients, noisy_moments, require_linear_head
from tests.helpers.forwards import feature_maps
from tests.helpers.networks import PlainCNN, SmallCNN, SmallViT, seeded
from tests.helpers.refusals import refusal

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class GuidedReLU(nn.Module):
    """A rectifier by its own rule, to be put in place of others."""

    def forward(self, features: Tensor) -> Tensor:
        made = features.relu()
        if made.requires_grad:
            made.register_hook(lambda gradient: gradient.relu())
        return made


class TestGuidedBackprop:
    def slow(self, model: Any, category: int) -> Tensor:
        """By hooks on tensors, (B, 3, 16, 16)."""
        for name, module in model.named_children():
            if isinstance(module, nn.ReLU):
                setattr(model, name, GuidedReLU())
        images = IMAGES.double().requires_grad_()
        (gradient,) = torch.autograd.grad(model(images)[:, category].sum(), images)
        return gradient

    @pytest.mark.parametrize("make", [PlainCNN, SmallCNN])
    def test_is_guided_everywhere(self, make: Any) -> None:
        expected = self.slow(seeded(make()).double(), 2)
        found = CAM(seeded(make()).double(), "GuidedBackprop").explain(IMAGES, 2)
        assert found.pixels is not None
        assert_close(found.pixels[:, 0], expected)
        assert_close(found.raw["input"][:, 0], expected.abs().amax(1))

    def test_in_place(self) -> None:
        found = CAM(seeded(SmallCNN(inplace=True)).double(), "GuidedBackprop").explain(IMAGES, 2)
        assert_close(found.pixels[:, 0], self.slow(seeded(SmallCNN()).double(), 2))  # type: ignore[index]

    def test_several_targets(self) -> None:
        model = seeded(SmallCNN())
        with feature_maps(model, [], IMAGES, [[0, 1], [2, 3]]) as found:
            together = guided_gradients(found.forward)
        for image, row in enumerate([[0, 1], [2, 3]]):
            for target, category in enumerate(row):
                with feature_maps(model, [], IMAGES, category) as found:
                    assert_close(together[target, image], guided_gradients(found.forward)[0, image])

    def test_with_a_map_it_is_their_product(self) -> None:
        model = seeded(SmallCNN()).double()
        both = CAM(model, "GuidedGradCAM", "conv2").explain(IMAGES, 2)
        guided = CAM(model, "GuidedBackprop").explain(IMAGES, 2)
        plain = CAM(model, "GradCAM", "conv2").explain(IMAGES, 2).raw["conv2"].relu()
        large = functional.interpolate(plain, (16, 16), mode="bilinear")
        assert both.pixels is not None
        assert guided.pixels is not None
        assert_close(both.pixels, guided.pixels * large[:, :, None])

    def test_several_layers_give_the_mean(self) -> None:
        model = seeded(SmallCNN()).double()
        single = [CAM(model, "GuidedGradCAM", name).explain(IMAGES, 2).pixels for name in ("conv1", "conv2")]
        both = CAM(model, "GuidedGradCAM", ["conv1", "conv2"]).explain(IMAGES, 2).pixels
        assert_close(both, torch.stack([each for each in single if each is not None]).mean(0))

    def test_a_rectifier_in_place_whose_result_is_dropped_is_guided(self) -> None:
        class Kept(SmallCNN):
            def forward(self, images: Tensor) -> Tensor:
                features = self.norm1(self.conv1(images))
                rectified = functional.relu(features)
                return self.head(self.norm2(self.conv2(rectified)).relu().mean((2, 3)))

        class Dropped(SmallCNN):
            def forward(self, images: Tensor) -> Tensor:
                features = self.norm1(self.conv1(images))
                functional.relu(features, inplace=True)
                features = self.norm2(self.conv2(features))
                functional.relu_(features)
                return self.head(features.mean((2, 3)))

        kept, dropped = (CAM(seeded(make()), "GuidedBackprop").explain(IMAGES, 1).pixels for make in (Kept, Dropped))
        assert_close(dropped, kept)

    def test_a_network_without_relus_is_refused(self) -> None:
        with feature_maps(seeded(SmallViT()), [], IMAGES, 1) as found:
            message = refusal(guided_gradients, UsageError, found.forward)
        assert message.startswith("guided backpropagation needs ReLUs, and this network calls none")

    def test_a_network_that_detaches_the_images_is_refused(self) -> None:
        class Detaches(SmallCNN):
            def forward(self, images: Tensor) -> Tensor:
                return super().forward(images.detach())

        with feature_maps(seeded(Detaches()), [], IMAGES, [[1, 2], [3, 4]]) as found:
            message = refusal(guided_gradients, LayerError, found.forward)
        assert message.startswith("the score doesn't depend on the images: something on the way detaches them")


class TestNoisyGradients:
    NEED = NoisyGradientsNeed(num_samples=5, std=0.2, seed=3)

    def slow(self, model: nn.Module, targets: list[list[int]]) -> list[Tensor]:
        """Means of the gradient's first three powers at conv2, (T, B, C, h, w), image by image and noise by noise."""
        powers = [torch.zeros(2, 2, 6, 8, 8, dtype=torch.float64) for _ in range(3)]
        for noise in draw_noise(self.NEED, (3, 16, 16)):
            for target in range(2):
                with feature_maps(model, "conv2", IMAGES + noise, [row[target] for row in targets]) as found:
                    gradient = next(found.gradients())["conv2"][0]
                for number, power in enumerate(powers):
                    power[target] += gradient ** (number + 1) / self.NEED.num_samples
        return powers

    @pytest.mark.parametrize("batch_size", [None, 1, 4])
    @pytest.mark.parametrize("whole", [False, True])
    def test_moments_are_means_over_noisy_images(self, batch_size: int | None, whole: bool) -> None:
        class Weighted(SmallCNN):
            def forward(self, images: Tensor, weights: Any = None) -> Tensor:
                assert weights is None or len(weights) == len(images)
                return super().forward(images)

        model = seeded(Weighted()).double()
        targets = [[0, 1], [2, 3]]
        kwargs = {"weights": [1, 2]} if whole else {}
        with feature_maps(model, "conv2", IMAGES, targets, batch_size=batch_size, forward_kwargs=kwargs) as features:
            found = noisy_moments(features, self.NEED)
        assert_close(list(found["conv2"]), self.slow(model, targets))

    def test_functions_are_differentiated_too(self) -> None:
        model = seeded(SmallCNN()).double()
        moments = []
        for targets in ([[lambda row: row[0], 1], [2, lambda row: row[3]]], [[0, 1], [2, 3]]):
            with feature_maps(model, "conv2", IMAGES, targets) as features:
                moments.append(noisy_moments(features, self.NEED))
        assert_close(*moments)

    def test_noise_is_as_asked_for(self) -> None:
        noise = draw_noise(NoisyGradientsNeed(num_samples=1000, std=0.5, seed=0), (3, 4))
        assert noise.shape == (1000, 3, 4)
        assert float(noise.std()) == pytest.approx(0.5, rel=0.05)
        assert_close(noise, draw_noise(NoisyGradientsNeed(1000, 0.5, 0), (3, 4)), rtol=0, atol=0)
        assert not torch.equal(noise, draw_noise(NoisyGradientsNeed(1000, 0.5, 1), (3, 4)))

    def test_progress_counts_noisy_images(self) -> None:
        told: list[tuple[int, int]] = []
        model = seeded(SmallCNN())
        with feature_maps(model, "conv2", IMAGES, 1, batch_size=4, progress=lambda *how: told.append(how)) as features:
            noisy_moments(features, self.NEED)
        assert told == [(4, 10), (8, 10), (10, 10)]


class TestLinearHead:
    def require(self, model: nn.Module, layer: str, targets: Any = 1, **how: Any) -> None:
        with feature_maps(model, layer, IMAGES, targets, **how) as features:
            for gradients in features.gradients(keep=True):
                require_linear_head(features, gradients)

    def test_of_pooling_and_one_linear_layer_is_fine(self) -> None:
        self.require(seeded(SmallCNN()), "relu", [[0, 1], [2, 3]])
        self.require(seeded(PlainCNN()), "relu2")
        self.require(seeded(SmallViT(extra=0)), "norm")

    def test_behind_something_else_is_refused(self) -> None:
        with pytest.raises(LayerError, match="the score isn't linear in the mean of 'conv2'; take GradCAM or HiResCAM"):
            self.require(seeded(SmallCNN()), "conv2")

    def test_of_places_that_count_differently_is_refused(self) -> None:
        class Weighs(SmallCNN):
            def forward(self, images: Tensor) -> Tensor:
                features = self.conv1(images)
                return self.head((features * torch.linspace(1, 2, 8)).mean((2, 3)))

        with pytest.raises(LayerError, match="isn't linear in the mean of 'conv1'"):
            self.require(seeded(Weighs()), "conv1")

    def test_that_is_linear_only_where_it_was_looked_at_is_refused(self) -> None:
        """The gradient is the same at all places, but another one for other activations."""

        class Squares(SmallCNN):
            def forward(self, images: Tensor) -> Tensor:
                return self.head(self.conv1(images).mean((2, 3)).square())

        with pytest.raises(LayerError, match="isn't linear in the mean of 'conv1'"):
            self.require(seeded(Squares()), "conv1")

    def test_is_seen_where_batches_belong_together(self) -> None:
        class Pairs(SmallCNN):
            def forward(self, images: Tensor) -> Tensor:
                assert len(images) == 2
                return super().forward(images)

        self.require(seeded(Pairs()), "relu")
        with pytest.raises(LayerError):
            self.require(seeded(Pairs()), "conv2")
