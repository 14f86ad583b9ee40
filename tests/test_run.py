"""One pass for several targets: batched backwards, looped ones, and what is laid out of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import camkit.run
from camkit import CAM
from camkit.errors import LayerError
from camkit.forward import Setup
from camkit.layers import resolve
from camkit.run import run
from tests.networks import Returns, SmallCNN, SmallViT, seeded

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
TARGETS = [[0, 3, 1, 4], [2, 2, 4, 0]]


def gradients_of(
    model: nn.Module, layer: str | list[str], targets: Any, setup: Setup | None = None
) -> tuple[dict[str, Tensor], list[int]]:
    """All targets' gradients, and how many came at a time."""
    with run(model, resolve(model, layer), IMAGES, targets, setup) as evidence:
        chunks = list(evidence.gradients())
    together = {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}
    return together, [len(next(iter(chunk.values()))) for chunk in chunks]


def one_by_one(model: nn.Module, layer: str, setup: Setup | None = None) -> dict[str, Tensor]:
    alone = [gradients_of(model, layer, [row[i] for row in TARGETS], setup)[0] for i in range(4)]
    return {name: torch.cat([each[name] for each in alone]) for name in alone[0]}


CASES = {
    "channels first": (SmallCNN, "conv2"),
    "tokens": (SmallViT, "layers.1.ln1"),
    "channels last": (lambda: Returns(Last()), "layer.make"),
    "two branches": (lambda: Returns(Both()), "layer.make"),
}


class Last(nn.Module):
    """Channels last and a norm that says so; only its output is a layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(5)

    def forward(self, features: Tensor) -> Tensor:
        return self.norm(features.movedim(1, -1)).movedim(-1, 1)


class Both(nn.Module):
    """A map and, of another size, a second one that nothing depends on."""

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return features * 1, nn.functional.avg_pool2d(features, 2)


@pytest.mark.parametrize("case", CASES)
def test_targets_together_are_targets_one_by_one(case: str) -> None:
    make, layer = CASES[case]
    model = seeded(make())
    found, sizes = gradients_of(model, layer, TARGETS)
    assert sizes == [4]
    assert_close(found, one_by_one(model, layer))
    assert len(found) == (2 if case == "two branches" else 1)


def test_the_norm_with_channels_last_is_laid_out_for_every_target() -> None:
    model = seeded(Returns(Last()))
    found, _ = gradients_of(model, "layer.make.norm", TARGETS)
    assert found["layer.make.norm"].shape == (4, 2, 5, 8, 8)
    assert_close(found, one_by_one(model, "layer.make.norm"))


def test_a_users_layout_is_asked_for_one_target_after_the_other() -> None:
    shapes = []

    def layout(output: Tensor) -> Tensor:
        shapes.append(tuple(output.shape))
        assert bool(output.isfinite().all())  # which a batched backward's tensors couldn't be asked
        return output

    model = seeded(SmallCNN())
    setup = Setup(reshape_transform=layout)
    found, _ = gradients_of(model, "conv2", TARGETS, setup)
    assert set(shapes) == {(2, 6, 8, 8)}
    assert_close(found, gradients_of(model, "conv2", TARGETS)[0])


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
    expected, _ = gradients_of(model, "conv", TARGETS)
    own = seeded(Returns(Own.apply))
    found, sizes = gradients_of(own, "conv", TARGETS)
    assert sizes == [4]
    assert_close(found["conv"], 2 * expected["conv"])


def test_memory_bounds_how_many_targets_share_a_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    model = seeded(SmallCNN())
    expected, _ = gradients_of(model, "conv2", TARGETS)
    one = IMAGES.shape[0] * 6 * 8 * 8 * 4
    for bound, sizes in ((one, [1, 1, 1, 1]), (3 * one, [3, 1]), (1, [1, 1, 1, 1]), (4 * one, [4])):
        monkeypatch.setattr(camkit.run, "BACKWARD_BYTES", bound)
        found, made = gradients_of(model, "conv2", TARGETS)
        assert made == sizes
        assert_close(found, expected)


@pytest.mark.parametrize(("fitting", "sizes"), [(2, [2, 2]), (1, [1, 1, 1, 1]), (0, [])])
def test_where_memory_does_not_suffice_half_as_many_share_a_backward(
    monkeypatch: pytest.MonkeyPatch, fitting: int, sizes: list[int]
) -> None:
    model = seeded(SmallCNN())
    expected, _ = gradients_of(model, "conv2", TARGETS)
    original = torch.autograd.grad

    def grad(scores: Tensor, leaves: Any, wanted: Tensor, **options: Any) -> Any:
        if (len(wanted) if options["is_grads_batched"] else 1) > fitting:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(scores, leaves, wanted, **options)

    monkeypatch.setattr(torch.autograd, "grad", grad)
    if not fitting:
        with pytest.raises(torch.OutOfMemoryError):
            CAM(model, "GradCAM", "conv2")(IMAGES, TARGETS)
        return
    found, made = gradients_of(model, "conv2", TARGETS)
    assert made == sizes
    assert_close(found, expected)


def test_a_single_target_that_does_not_fit_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def grad(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.autograd, "grad", grad)
    with pytest.raises(torch.OutOfMemoryError):
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
    monkeypatch.setattr(camkit.run, "BACKWARD_BYTES", 2 * up)
    found, made = gradients_of(model, "neck", TARGETS)
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
    exact, _ = gradients_of(model, "norm2", TARGETS)
    found, _ = gradients_of(model.half(), "norm2", TARGETS)
    assert found["norm2"].dtype == torch.float32
    assert_close(found, exact, rtol=2e-2, atol=1e-4)
