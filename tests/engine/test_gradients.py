"""Gradients of several targets: batched backwards, looped ones, and no more at a time than memory holds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from camkit import CAM
from camkit.engine import gradients
from camkit.errors import LayerError
from tests.helpers.forwards import feature_maps
from tests.helpers.networks import Returns, SmallCNN, SmallViT, seeded
from tests.helpers.refusals import OutOfMemory

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
TARGETS = [[0, 3, 1, 4], [2, 2, 4, 0]]


def gradients_of(
    model: nn.Module, layers: str | list[str], targets: Any = TARGETS, **how: Any
) -> tuple[dict[str, Tensor], list[int]]:
    """All targets' gradients, and how many came at a time."""
    with feature_maps(model, layers, IMAGES, targets, **how) as found:
        parts = list(found.gradients())
    together = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return together, [len(next(iter(part.values()))) for part in parts]


def one_by_one(model: nn.Module, layer: str) -> dict[str, Tensor]:
    alone = [gradients_of(model, layer, [row[i] for row in TARGETS])[0] for i in range(4)]
    return {name: torch.cat([each[name] for each in alone]) for name in alone[0]}


def test_gradients_are_those_of_plain_autograd() -> None:
    model = seeded(SmallCNN()).double()
    images = IMAGES.double()
    outputs: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_hook(lambda m, a, out, name=name: outputs.__setitem__(name, out))
        for name in ("conv1", "norm2")
    ]
    total = model(images)[:, 3].sum()
    expected = torch.autograd.grad(total, [outputs["conv1"], outputs["norm2"]])
    for handle in handles:
        handle.remove()
    with feature_maps(model, ["norm2", "conv1"], images, 3) as found:
        gradients = next(found.gradients())
        assert_close((gradients["conv1"][0], gradients["norm2"][0]), expected)


def test_layers_on_branches_that_dont_meet_before_the_score() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left = nn.Conv2d(3, 4, 3)
            self.right = nn.Conv2d(3, 4, 3)

        def forward(self, images: Tensor) -> Tensor:
            product: Tensor = self.left(images).flatten(2).mean(2) * self.right(images).flatten(2).mean(2)
            return product

    model = seeded(Branches())
    result = CAM(model, "GradCAM", ["left", "right"]).explain(IMAGES, 1)
    for layer in ("left", "right"):
        alone = CAM(model, "GradCAM", layer).explain(IMAGES, 1)
        assert_close(result.raw[layer], alone.raw[layer])


@pytest.mark.parametrize(("make", "layer"), [(SmallCNN, "conv2"), (SmallViT, "layers.1.ln1")])
def test_targets_together_are_targets_one_by_one(make: Any, layer: str) -> None:
    model = seeded(make())
    found, sizes = gradients_of(model, layer)
    assert sizes == [4]
    assert_close(found, one_by_one(model, layer))


def test_what_no_batch_can_be_made_of_runs_one_after_the_other() -> None:
    class Own(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, tensor: Tensor) -> Tensor:
            return 2 * tensor

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            return 2 * gradients[0] * float(gradients[0].isfinite().all())  # data-dependent: vmap refuses

    model = seeded(Returns(lambda tensor: tensor))
    model.head = nn.Identity()
    expected, _ = gradients_of(model, "conv")
    own = seeded(Returns(Own.apply))
    found, sizes = gradients_of(own, "conv")
    assert sizes == [4]
    assert_close(found["conv"], 2 * expected["conv"])


def test_memory_bounds_how_many_targets_share_a_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    model = seeded(SmallCNN())
    expected, _ = gradients_of(model, "conv2")
    one = IMAGES.shape[0] * 6 * 8 * 8 * 4
    for bound, sizes in ((one, [1, 1, 1, 1]), (3 * one, [3, 1]), (1, [1, 1, 1, 1]), (4 * one, [4])):
        monkeypatch.setattr(gradients, "BACKWARD_BYTES", bound)
        found, made = gradients_of(model, "conv2")
        assert made == sizes
        assert_close(found, expected)


@pytest.mark.parametrize(("fitting", "sizes"), [(2, [2, 2]), (1, [1, 1, 1, 1]), (0, [])])
def test_where_memory_does_not_suffice_half_as_many_share_a_backward(
    monkeypatch: pytest.MonkeyPatch, fitting: int, sizes: list[int]
) -> None:
    model = seeded(SmallCNN())
    expected, _ = gradients_of(model, "conv2")
    original = torch.autograd.grad

    def grad(scores: Tensor, leaves: Any, wanted: Tensor, **options: Any) -> Any:
        if (len(wanted) if options["is_grads_batched"] else 1) > fitting:
            raise OutOfMemory("CUDA out of memory")
        return original(scores, leaves, wanted, **options)

    monkeypatch.setattr(torch.autograd, "grad", grad)
    if not fitting:
        with pytest.raises(OutOfMemory):
            CAM(model, "GradCAM", "conv2")(IMAGES)
        return
    found, made = gradients_of(model, "conv2")
    assert made == sizes
    assert_close(found, expected)


def test_a_single_target_that_does_not_fit_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def grad(*_: Any, **__: Any) -> Any:
        raise OutOfMemory("CUDA out of memory")

    monkeypatch.setattr(torch.autograd, "grad", grad)
    with pytest.raises(OutOfMemory):
        CAM(seeded(SmallCNN()), "GradCAM", "conv2")(IMAGES, 1)


def test_large_tensors_behind_a_small_layer_count(monkeypatch: pytest.MonkeyPatch) -> None:
    class Widens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.neck = nn.Conv2d(3, 2, 3, 4, 1)
            self.up = nn.ConvTranspose2d(2, 8, 4, 4)
            self.out = nn.Conv2d(8, 5, 1)

        def forward(self, images: Tensor) -> Tensor:
            return self.out(self.up(self.neck(images)).relu()).mean((2, 3))

    model = seeded(Widens())
    neck, up = 2 * 2 * 4 * 4 * 4, 2 * 8 * 16 * 16 * 4
    expected = one_by_one(model, "neck")
    monkeypatch.setattr(gradients, "BACKWARD_BYTES", 2 * up)
    found, made = gradients_of(model, "neck")
    assert 4 * neck < 2 * up
    assert made == [2, 2]
    assert_close(found, expected)


@pytest.mark.parametrize("targets", [1, TARGETS], ids=["one", "several"])
def test_a_layer_that_the_score_does_not_depend_on(targets: Any) -> None:
    class Aside(SmallCNN):
        def forward(self, images: Tensor) -> Tensor:
            self.norm2(self.norm1(self.conv1(images)))
            logits: Tensor = self.head(self.conv2(self.relu(self.conv1(images))).mean((2, 3)))
            return logits

    with pytest.raises(LayerError, match="the score doesn't depend on 'norm2'"):
        gradients_of(seeded(Aside()), ["norm2", "conv2"], targets)


def test_half_precision_gradients_of_several_targets() -> None:
    model = seeded(SmallCNN())
    exact, _ = gradients_of(model, "norm2")
    found, _ = gradients_of(model.half(), "norm2")
    assert found["norm2"].dtype == torch.float32
    assert_close(found, exact, rtol=2e-2, atol=1e-4)
