"""Methods at the resolution of the input: FullGrad's terms add up to the score, guided gradients are guided."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close

from camkit import CAM
from camkit.errors import LayerError
from camkit.layers import resolve
from camkit.pixels import bias_terms, guided_gradients
from camkit.recording import Recording
from camkit.run import run
from tests.networks import PlainCNN, SmallCNN, SmallViT, seeded
from tests.refusals import refusal

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
BIASES = Recording(inputs=True, biases=True)


def terms_of(model: nn.Module, images: Tensor, targets: Any, **how: Any) -> tuple[list[list[Tensor]], Tensor]:
    """For every target the input's and all biases' terms; and the scores (B, T)."""
    with run(model, {}, images, targets, recording=BIASES, **how) as evidence:
        return list(bias_terms(evidence)), evidence.scores


class Functional(nn.Module):
    """Convolves and normalises by functions, with loose parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, bias=False)
        self.norm, self.head = nn.BatchNorm2d(6), nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        features = functional.relu(functional.conv2d(images, self.stem.weight, bias=self.stem.bias, padding=1))
        features = torch.conv2d(features, self.deep.weight, None, 1, 1)
        norm = self.norm
        features = functional.batch_norm(features, norm.running_mean, norm.running_var, norm.weight, norm.bias)
        return self.head(functional.relu_(features).mean((2, 3)))


def resnet() -> nn.Module:
    from torchvision.models.resnet import BasicBlock, ResNet

    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5)


def timm_regnet() -> nn.Module:
    """Its norms come with their activations."""
    import timm

    model: nn.Module = timm.create_model("regnetx_002", num_classes=5)
    return model


RELU: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], nn.Linear], int, int]] = {
    "plain": (PlainCNN, lambda model: model.head, 16, 2),
    "norms, shared relu": (SmallCNN, lambda model: model.head, 16, 4),
    "in place": (lambda: SmallCNN(inplace=True), lambda model: model.head, 16, 4),
    "functions": (Functional, lambda model: model.head, 16, 2),
    "resnet": (resnet, lambda model: model.fc, 64, 12),
    "norms with activations": (timm_regnet, lambda model: model.head.fc, 64, 44),
}


@pytest.mark.parametrize("network", RELU)
def test_terms_add_up_to_the_score(network: str) -> None:
    """Srinivas and Fleuret 2019, proposition 1: of a network of ReLUs, but for the bias behind the pooling."""
    make, head, size, count = RELU[network]
    model = seeded(make()).double()
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    categories = [[0, 2], [1, 1]]
    found, scores = terms_of(model, images, categories)
    bias = head(model).bias
    for target, terms in enumerate(found):
        total = torch.stack([term[0].flatten(1).sum(1) for term in terms]).sum(0)
        chosen = torch.tensor([row[target] for row in categories])
        behind = torch.zeros(2, dtype=torch.float64) if bias is None else bias.detach()[chosen]
        assert_close(total + behind, scores[:, target], rtol=1e-8, atol=1e-8)
    assert {len(terms) for terms in found} == {1 + count}


def test_order_and_shapes_are_those_of_the_network() -> None:
    ((first, *others),), _ = terms_of(seeded(SmallCNN()), IMAGES, 2)
    assert first.shape == (1, 2, 3, 16, 16)
    assert [term.shape for term in others] == [(1, 2, 6, 8, 8)] * 4


def test_a_bias_times_its_gradient() -> None:
    model = seeded(SmallCNN()).double()
    images = IMAGES.double().requires_grad_()
    (terms,), _ = terms_of(model, images.detach(), 2)
    made = model.conv2(model.relu(model.norm1(model.conv1(images))))
    identity = model.relu(model.norm1(model.conv1(images)))
    score = model.head(model.relu(model.norm2(made) + identity).flatten(2).mean(2))[:, 2].sum()
    gradient, by_image = torch.autograd.grad(score, [made, images])
    assert_close(terms[3][0], model.conv2.bias.detach().view(-1, 1, 1) * gradient)
    assert_close(terms[0][0], (images * by_image).detach())


class TestTokens:
    def test_places_of_tokens_count(self) -> None:
        model = seeded(SmallViT())
        (terms,), _ = terms_of(model, IMAGES, 2)
        # Patches; of each block two norms, the projection in the attention is in another order, two linears; a norm.
        assert all(term.shape[3:] in ((16, 16), (4, 4)) for term in terms)
        assert len(terms) > 2 + 2 * 4

    def test_maps(self) -> None:
        assert CAM(seeded(SmallViT()), "FullGrad")(IMAGES, 2).std() > 0.02


class TestFullGrad:
    def test_volumes(self) -> None:
        volumes = torch.randn(2, 3, 8, 10, 12, generator=torch.Generator().manual_seed(0))
        assert CAM(seeded(SmallCNN(dimensions=3)), "FullGrad")(volumes, 1).shape == (2, 8, 10, 12)

    def test_biases_of_layers_without_places_are_left_out(self) -> None:
        class Gated(SmallCNN):
            def __init__(self) -> None:
                super().__init__()
                self.gate = nn.Conv2d(6, 6, 1)

            def forward(self, images: Tensor) -> Tensor:
                features = self.conv1(images)
                gate = self.gate(features.mean((2, 3), keepdim=True)).sigmoid()
                return self.head((gate * features).flatten(2).mean(2))

        (terms,), _ = terms_of(seeded(Gated()), IMAGES, 1)
        assert len(terms) == 2

    def test_an_input_that_is_written_to_has_its_own_gradient(self) -> None:
        class Normalises(SmallCNN):
            def forward(self, images: Tensor) -> Tensor:
                images *= 2
                return super().forward(images)

        (found,), _ = terms_of(seeded(Normalises()), IMAGES, 1)
        (expected,), _ = terms_of(seeded(SmallCNN()), 2 * IMAGES, 1)
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other)

    def test_a_network_that_detaches_the_images_is_refused(self) -> None:
        class Detaches(SmallCNN):
            def forward(self, images: Tensor) -> Tensor:
                return super().forward(images.detach())

        for method in ("FullGrad", "GuidedBackprop"):
            message = refusal(CAM(seeded(Detaches()), method), LayerError, IMAGES, 1)
            assert message.startswith("the score doesn't depend on the images: something on the way detaches them")

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision(self, dtype: torch.dtype) -> None:
        exact = CAM(seeded(SmallCNN()), "FullGrad")(IMAGES, 1)
        made = CAM(seeded(SmallCNN()).to(dtype), "FullGrad")(IMAGES, 1)
        assert (made - exact).abs().mean() < 0.03


class Guided(nn.Module):
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
                setattr(model, name, Guided())
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
        with run(model, resolve(model, "conv2"), IMAGES, [[0, 1], [2, 3]]) as evidence:
            together = guided_gradients(evidence)
        for image, row in enumerate([[0, 1], [2, 3]]):
            for target, category in enumerate(row):
                with run(model, resolve(model, "conv2"), IMAGES, category) as evidence:
                    assert_close(together[target, image], guided_gradients(evidence)[0, image])

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
