"""Terms of FullGrad: the input's and every bias's share of the score, which add up to it."""

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
from camkit.methods.needs import Recording
from camkit.signals.biases import bias_terms
from tests.helpers.forwards import feature_maps
from tests.helpers.networks import PlainCNN, SmallCNN, SmallViT, seeded
from tests.helpers.refusals import refusal
from tests.models.installed import installed

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
BIASES = Recording(inputs=True, biases=True)


def terms_of(model: nn.Module, images: Tensor, targets: Any, **how: Any) -> tuple[list[list[Tensor]], Tensor]:
    """For every target the input's and all biases' terms; and the scores (B, T)."""
    with feature_maps(model, [], images, targets, BIASES, **how) as found:
        return list(bias_terms(found)), found.forward.scores


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
    module = installed("torchvision").models.resnet
    model: nn.Module = module.ResNet(module.BasicBlock, [1, 1, 1, 1], num_classes=5)
    return model


def timm_regnet() -> nn.Module:
    """Its norms come with their activations."""
    model: nn.Module = installed("timm").create_model("regnetx_002", num_classes=5)
    return model


RELU = [
    pytest.param(PlainCNN, "head", 16, 2, id="plain"),
    pytest.param(SmallCNN, "head", 16, 4, id="norms, shared relu"),
    pytest.param(lambda: SmallCNN(inplace=True), "head", 16, 4, id="in place"),
    pytest.param(Functional, "head", 16, 2, id="functions"),
    pytest.param(resnet, "fc", 64, 12, id="resnet", marks=pytest.mark.frameworks),
    pytest.param(timm_regnet, "head.fc", 64, 44, id="norms with activations", marks=pytest.mark.frameworks),
]


@pytest.mark.parametrize(("make", "head", "size", "count"), RELU)
def test_terms_add_up_to_the_score(make: Callable[[], nn.Module], head: str, size: int, count: int) -> None:
    """Srinivas and Fleuret 2019, proposition 1: of a network of ReLUs, but for the bias behind the pooling."""
    model = seeded(make()).double()
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    categories = [[0, 2], [1, 1]]
    found, scores = terms_of(model, images, categories)
    bias = model.get_submodule(head).bias
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

        message = refusal(CAM(seeded(Detaches()), "FullGrad"), LayerError, IMAGES, 1)
        assert message.startswith("the score doesn't depend on the images: something on the way detaches them")

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision(self, dtype: torch.dtype) -> None:
        exact = CAM(seeded(SmallCNN()), "FullGrad")(IMAGES, 1)
        made = CAM(seeded(SmallCNN()).to(dtype), "FullGrad")(IMAGES, 1)
        assert (made - exact).abs().mean() < 0.03  # of maps in [0, 1]


def test_biases_of_instance_norms_are_taken_and_those_by_place_left() -> None:
    model = seeded(SmallCNN())
    model.norm1 = nn.InstanceNorm2d(6, affine=True)
    with_bias = CAM(model, "FullGrad")(IMAGES, 1)
    model.norm1.bias.data += 1
    assert not torch.equal(CAM(model, "FullGrad")(IMAGES, 1), with_bias)
    model.norm2 = nn.LayerNorm([6, 8, 8])
    assert CAM(model, "FullGrad")(IMAGES, 1).isfinite().all()
