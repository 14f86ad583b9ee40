"""Captures keep what a layer returned, and leave nothing behind."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from camkit import CAM
from camkit.engine.hooks import Capture, watching
from tests.helpers.forwards import count_hooks, feature_maps
from tests.helpers.networks import PlainCNN, Returns, SmallCNN, seeded

# Six channels on 7 x 7 places: the shape tells, nothing has to be tried.
IMAGES = torch.randn(2, 3, 14, 14, generator=torch.Generator().manual_seed(0))


def test_keeps_the_output_as_it_was_when_the_layer_returned_it() -> None:
    model = seeded(SmallCNN(inplace=True))
    expected = model.norm2(model.conv2(model.relu(model.norm1(model.conv1(IMAGES)))))
    with feature_maps(model, "norm2", IMAGES, 0) as found:
        assert_close(found.activations["norm2"], expected.detach())


@pytest.mark.parametrize(
    "make", [lambda t: t, lambda t: t.view_as(t), lambda t: t.relu_()], ids=["same", "view", "in place"]
)
def test_an_output_that_shares_memory_with_its_input_is_kept_too(make: Callable[[Tensor], Tensor]) -> None:
    class Overwrites(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Returns(make)

        def forward(self, images: Tensor) -> Tensor:
            features = self.net.conv(images)
            made = self.net.layer(features)
            if not features.requires_grad:
                features.zero_()
            return made.flatten(2).mean(2)

    model = seeded(Overwrites())
    before = make(model.net.conv(IMAGES).detach().clone())
    with feature_maps(model, "net.layer", IMAGES, 0) as found:
        assert_close(found.activations["net.layer"], before)


def test_a_layer_that_runs_several_times_counts_with_its_last_call() -> None:
    model = seeded(SmallCNN())
    with feature_maps(model, "relu", IMAGES, 0) as found:
        features = found.activations["relu"]
        assert_close(model.head(features.flatten(2).mean(2)), found.forward.logits)
        assert_close(
            next(found.gradients())["relu"][0],
            (model.head.weight[0] / features[0, 0].numel())[None, :, None, None].expand_as(features),
        )


def test_hooks_come_out_again_also_when_the_model_raises() -> None:
    model = seeded(SmallCNN())
    model.conv2.register_forward_hook(lambda *_: None)
    before = count_hooks(model)
    CAM(model, target_layers=["norm1", "norm2"])(IMAGES)
    assert count_hooks(model) == before
    with pytest.raises(RuntimeError), feature_maps(model, "norm1", IMAGES[:, :2], 0):
        pass
    assert count_hooks(model) == before


def test_hooks_come_out_when_putting_them_in_fails() -> None:
    class Refuses(nn.ReLU):
        def register_forward_hook(self, *args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("no hooks here")

    model = nn.Sequential(nn.Conv2d(3, 4, 1), Refuses())
    with pytest.raises(RuntimeError, match="no hooks here"), Capture(dict(model.named_children()), roots=False):
        pass
    assert count_hooks(model) == 0


def test_no_tensor_survives_a_call() -> None:
    model = seeded(SmallCNN())
    alive: list[weakref.ref[Tensor]] = []
    cam = CAM(model, "LayerCAM", ["norm1", "norm2"])
    cam(IMAGES, [[0, 1], [2, 3]])
    handle = model.conv2.register_forward_hook(lambda m, a, out: alive.append(weakref.ref(out)))
    cam(IMAGES, [[0, 1], [2, 3]])
    handle.remove()
    gc.collect()
    assert [ref() for ref in alive] == [None]


class TestWatching:
    def test_sees_modules_come_and_go(self) -> None:
        model = seeded(PlainCNN())
        names = {module: name or "model" for name, module in model.named_modules()}
        seen: list[str] = []
        with watching(
            model,
            lambda module, args, output: seen.append(f"left {names[module]}"),
            lambda module: seen.append(f"entered {names[module]}"),
        ):
            model(IMAGES)
        inside = [f"{what} {name}" for name in names.values() if name != "model" for what in ("entered", "left")]
        assert seen == ["entered model", *inside, "left model"]
        assert count_hooks(model) == 0

    def test_sees_arguments_by_keyword_too(self) -> None:
        class Takes(nn.Module):
            def forward(self, images: Tensor, size: tuple[int, int], *, by: Tensor) -> Tensor:
                return images * by

        model, given = Takes(), torch.ones(1)
        seen: list[tuple[Any, ...]] = []
        with watching(model, lambda module, args, output: seen.append(args)):
            made = model(IMAGES, (3, 4), by=given)
        ((images, size, by),) = seen
        assert (images is IMAGES, size, by is given) == (True, (3, 4), True)
        assert_close(made, IMAGES)

    def test_ends_with_an_error(self) -> None:
        model = seeded(SmallCNN())
        with pytest.raises(RuntimeError), watching(model, lambda *_: None, lambda _: None):
            model(IMAGES[:, :2])
        assert count_hooks(model) == 0

    def test_leaves_script_modules_alone(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 4, 1), torch.jit.script(nn.ReLU()))
        seen: list[nn.Module] = []
        with watching(model, lambda module, args, output: seen.append(module), lambda _: None):
            model(IMAGES)
        assert seen == [model[0], model]
