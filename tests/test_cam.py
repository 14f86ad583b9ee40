"""CAM: whole maps against the slow oracle, ways to call it, empty maps, and what it refuses."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import camkit
from camkit import CAM, AugSmooth, EigenSmooth
from camkit.errors import EmptyMapWarning, NonFiniteError, UsageError
from tests import oracles
from tests.helpers.cases import NETWORKS, images_of
from tests.helpers.kinds import SIX as METHODS
from tests.helpers.networks import SmallCNN, SmallViT, seeded

IMAGES = images_of((16, 16))


def slow_maps(
    model: nn.Module, layers: list[str], images: Tensor, category: int, method: str, eigen: bool = False
) -> Tensor:
    """Finished maps made by the oracle from activations and gradients of plain autograd, (B, *size)."""
    outputs: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(layer).register_forward_hook(lambda m, a, out, layer=layer: outputs.__setitem__(layer, out))
        for layer in layers
    ]
    total = model(images)[:, category].sum()
    gradients = torch.autograd.grad(total, [outputs[layer] for layer in layers])
    for handle in handles:
        handle.remove()
    made = []
    for image in range(len(images)):
        raw = []
        for layer, gradient in zip(layers, gradients, strict=True):
            a, g = outputs[layer][image].detach(), gradient[image]
            if a.ndim == 2:  # tokens behind one class token, on 4 x 4 places
                a, g = a[1:].T.reshape(-1, 4, 4), g[1:].T.reshape(-1, 4, 4)
            raw.append(oracles.raw(method, a.numpy(), g.numpy(), eigen))
        made.append(oracles.finish(raw, tuple(images.shape[2:])))
    return torch.from_numpy(np.stack(made))


def subject(network: str) -> tuple[nn.Module, list[str], Tensor]:
    """A network in float64, its target layers, and images."""
    make, layers, size = NETWORKS[network]
    return seeded(make()).double(), layers, images_of(size).double()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("network", NETWORKS)
class TestWholeMaps:
    def test_plain(self, method: str, network: str) -> None:
        model, layers, images = subject(network)
        made = CAM(model, method, layers)(images, 2)
        assert made.shape == (2, *images.shape[2:])
        assert_close(made.double(), slow_maps(model, layers, images, 2, method), rtol=0, atol=1e-6)

    def test_eigen_smooth(self, method: str, network: str) -> None:
        model, layers, images = subject(network)
        made = EigenSmooth(CAM(model, method, layers))(images, 2)
        assert_close(made.double(), slow_maps(model, layers, images, 2, method, eigen=True), rtol=0, atol=1e-6)

    def test_aug_smooth(self, method: str, network: str) -> None:
        model, layers, images = subject(network)
        made = AugSmooth(CAM(model, method, layers))(images, 2)
        views = [
            slow_maps(model, layers, factor * (images.flip(-1) if flip else images), 2, method)
            for flip in (False, True)
            for factor in (0.9, 1.0, 1.1)
        ]
        expected = torch.stack([view.flip(-1) if i >= 3 else view for i, view in enumerate(views)]).mean(0)
        assert_close(made.double(), expected, rtol=0, atol=1e-6)


class TestCalls:
    """What people bring, from wherever they come."""

    @pytest.mark.parametrize(
        ("given", "one_by_one"),
        [((2,), [2, 2]), (([1, 3],), [1, 3]), ((torch.tensor([1, 3]),), [1, 3]), ((lambda row: row[2],), [2, 2])],
        ids=["one for all", "one per image", "tensor", "function"],
    )
    def test_targets_come_second(self, given: Any, one_by_one: list[int]) -> None:
        cam = CAM(seeded(SmallCNN()), "GradCAM", "conv2")
        made = cam(IMAGES, *given)
        assert_close(made, cam(IMAGES, targets=given[0]))
        alone = [cam(IMAGES[i : i + 1], target) for i, target in enumerate(one_by_one)]
        assert_close(made, torch.cat(alone))

    def test_without_targets_it_explains_the_top_class(self) -> None:
        model = seeded(SmallCNN())
        cam = CAM(model, "GradCAM", "conv2")
        assert_close(cam(IMAGES), cam(IMAGES, model(IMAGES).argmax(1)))

    def test_a_list_per_image_makes_a_map_of_each(self) -> None:
        cam = CAM(seeded(SmallCNN()), "GradCAM", "conv2")
        made = cam(IMAGES, [[0, 3], [2, 1]])
        assert made.shape == (2, 2, 16, 16)
        assert_close(made[:, 1], cam(IMAGES, [3, 1]))

    def test_in_a_with_statement(self) -> None:
        model = seeded(SmallCNN())
        with camkit.GradCAM(model, ["conv2"]) as cam:
            assert isinstance(cam, camkit.GradCAM)
            made = cam(IMAGES, 1)
        assert_close(cam(IMAGES, 1), made)
        with pytest.raises(ZeroDivisionError), AugSmooth(CAM(model)):
            raise ZeroDivisionError


class TestConstructors:
    @pytest.mark.parametrize("layers", [["conv2"], "conv2", ("conv1", "conv2")])
    def test_layers_come_second(self, layers: Any) -> None:
        model = seeded(SmallCNN())
        expected = CAM(model, "GradCAM", layers)(IMAGES, 1)
        assert_close(camkit.GradCAM(model, layers)(IMAGES, 1), expected)
        assert_close(camkit.GradCAM(model, target_layers=layers)(IMAGES, 1), expected)

    def test_modules_are_layers(self) -> None:
        model = seeded(SmallCNN())
        expected = camkit.GradCAM(model, ["conv2"])(IMAGES, 1)
        assert_close(camkit.GradCAM(model, [model.conv2])(IMAGES, 1), expected)
        assert_close(camkit.GradCAM(model, model.conv2)(IMAGES, 1), expected)

    @pytest.mark.parametrize("name", [name for name, method in camkit.METHODS.items() if method.takes_layers])
    def test_each_takes_them_and_settings(self, name: str) -> None:
        cam = getattr(camkit, camkit.METHODS[name].identifier)(seeded(SmallCNN()), ["conv2"], batch_size=3)
        assert isinstance(cam, CAM)
        assert (cam.method, cam.layers.names, cam.network.batch_size) == (camkit.METHODS[name], ["conv2"], 3)

    def test_options_are_the_methods(self) -> None:
        model = seeded(SmallCNN())
        assert_close(
            camkit.ScoreCAM(model, ["conv2"], top_k=2)(IMAGES, 1),
            CAM(model, camkit.METHODS["ScoreCAM"].configured(top_k=2), ["conv2"])(IMAGES, 1),
            rtol=0,
            atol=0,
        )

    def test_can_be_subclassed(self) -> None:
        class Doubled(camkit.GradCAM):
            def __call__(self, images: Any = None, targets: Any = None, **unknown: Any) -> Tensor:
                return 2 * super().__call__(images, targets, **unknown)

        model = seeded(SmallCNN())
        made = Doubled(model, ["conv2"])
        assert repr(made) == "GradCAM(SmallCNN, ['conv2'])"
        assert_close(made(IMAGES, 1), 2 * CAM(model, "GradCAM", "conv2")(IMAGES, 1))


@pytest.mark.parametrize(
    ("cam", "expected"),
    [
        (CAM(SmallCNN()), "GradCAM(SmallCNN, default layer)"),
        (CAM(SmallCNN(), "gradcam++", ["conv1", "conv2"]), "GradCAM++(SmallCNN, ['conv1', 'conv2'])"),
        (camkit.ScoreCAM(SmallCNN(), "conv2", top_k=3), "ScoreCAM(SmallCNN, ['conv2'], top_k=3)"),
        (AugSmooth(EigenSmooth(CAM(SmallCNN()))), "AugSmooth(EigenSmooth(GradCAM(SmallCNN, default layer)))"),
        (EigenSmooth(CAM(SmallCNN()), enabled=False), "GradCAM(SmallCNN, default layer)"),
    ],
)
def test_repr(cam: CAM, expected: str) -> None:
    assert repr(cam) == expected


def test_an_image_ignores_its_batch_mates() -> None:
    cam = AugSmooth(EigenSmooth(CAM(seeded(SmallViT()))))
    together = cam(IMAGES, [1, 3])
    assert_close(together, torch.cat([cam(IMAGES[:1], 1), cam(IMAGES[1:], 3)]), rtol=0, atol=1e-5)


class TestEmptyMaps:
    def cam(self, make: Any, method: str = "GradCAM") -> CAM:
        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv = nn.Conv2d(3, 4, 3, stride=2)

            def forward(self, images: Tensor) -> Tensor:
                logits: Tensor = make(self.conv(images))
                return logits

        return CAM(seeded(Net()), method, "conv")

    @pytest.mark.parametrize(
        ("make", "reason"),
        [
            (lambda t: 0 * t.mean((2, 3)), "the gradient in 'conv' is all zero"),
            (lambda t: -t.square().mean((2, 3)), "the evidence in 'conv' is negative everywhere"),
        ],
    )
    def test_are_warned_of_with_the_reason(self, make: Any, reason: str) -> None:
        cam = self.cam(make, "LayerCAM" if "gradient" in reason else "EigenGradCAM")
        if "negative" in reason:
            cam = CAM(cam.model, "GradCAM", "conv")
            images = IMAGES[:1].abs()
            cam.model.conv.weight.data.abs_()
            cam.model.conv.bias.data.abs_()
        else:
            images = IMAGES[:1]
        with pytest.warns(EmptyMapWarning, match=f"the map of image 0, target [01] is empty: {reason}"):
            result = cam.explain(images, [[0, 1]])
        assert_close(result.maps, torch.zeros_like(result.maps), rtol=0, atol=0)
        assert len(result.empty) == 2

    def test_constant_evidence(self) -> None:
        cam = self.cam(lambda t: t.mean((2, 3)))
        cam.model.conv.weight.data.zero_()
        cam.model.conv.bias.data.fill_(1.0)
        with pytest.warns(EmptyMapWarning, match="the evidence in 'conv' is the same everywhere"):
            cam(IMAGES[:1], 0)

    @pytest.mark.parametrize("method", ["GradCAM", "EigenCAM"])
    def test_dead_activations(self, method: str) -> None:
        cam = self.cam(lambda t: t.mean((2, 3)), method)
        cam.model.conv.weight.data.zero_()
        cam.model.conv.bias.data.zero_()
        with pytest.warns(EmptyMapWarning, match="the activations of 'conv' are all zero"):
            assert set(cam.explain(IMAGES[:1], [[0, 1]]).empty) == {(0, 0), (0, 1)}

    def test_of_which_one_view_shows_something_are_not_reported(self) -> None:
        class Bright(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv = nn.Conv2d(3, 4, 3)

            def forward(self, images: Tensor) -> Tensor:
                strong = (images.abs().amax((1, 2, 3), keepdim=True) > 3.5).float() * 2 - 1
                features = self.conv(images)
                return (strong * features.square()).mean((2, 3))

        images = 3.4 * IMAGES / IMAGES.abs().amax((1, 2, 3), keepdim=True)
        images[1] = 0
        model = seeded(Bright())
        model.conv.bias.data.zero_()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plain = CAM(model, "EigenGradCAM", "conv").explain(images, 1)
            smooth = AugSmooth(CAM(model, "EigenGradCAM", "conv")).explain(images, 1)
        assert set(plain.empty) >= {(1, 0)}
        assert set(smooth.empty) == {(1, 0)}
        assert smooth.maps[0].any()

    def test_evidence_too_small_to_show(self) -> None:
        cam = self.cam(lambda t: 1e-18 * t.square().mean((2, 3)))
        with pytest.warns(EmptyMapWarning, match="the evidence in 'conv' is too small to show"):
            assert cam(IMAGES[:1], 0).max() < 0.5

    def test_one_layer_of_two_is_no_matter(self) -> None:
        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv, self.dead = nn.Conv2d(3, 4, 3), nn.Identity()

            def forward(self, images: Tensor) -> Tensor:
                return (self.conv(images) + 0 * self.dead(images).mean()).mean((2, 3))

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            CAM(seeded(Net()), "GradCAM", ["conv", "dead"])(IMAGES, 0)

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("where", ["activations", "gradient"])
    def test_nan_is_refused(self, where: str, method: str) -> None:
        class Sabotage(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, tensor: Tensor) -> Tensor:
                return tensor.clone()

            @staticmethod
            def backward(ctx: Any, *gradients: Tensor) -> Tensor:
                return gradients[0] * torch.tensor([1.0, torch.nan])[:, None, None, None]

        cam = self.cam(lambda t: Sabotage.apply(t).nan_to_num().mean((2, 3)), method)
        images = IMAGES.clone()
        if where == "activations":
            images[1, 0, 3, 3] = torch.nan
        elif method == "EigenCAM":
            cam(images, 0)
            return
        with pytest.raises(NonFiniteError, match=f"NaN or infinity in the {where} of layer 'conv', image 1"):
            cam(images, 0)


class TestInputs:
    @pytest.mark.parametrize(
        ("images", "message"),
        [
            (IMAGES[0], r"images must be .*got \(3, 16, 16\); .* a Conv2d: add the batch dimension, images\[None\]"),
            (IMAGES[0, 0], r"images must be .*got \(16, 16\)"),
            (IMAGES[:0], r"images are empty: \(0, 3, 16, 16\)"),
            ((IMAGES * 50).byte(), "normalised floats as the model takes them, got torch.uint8"),
            (IMAGES.numpy(), "must be a torch.Tensor .*got ndarray"),
        ],
    )
    def test_of_another_kind_are_refused(self, images: Any, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            CAM(seeded(SmallCNN()))(images)

    @pytest.mark.parametrize("wrapper", [lambda cam: cam, AugSmooth])
    def test_come_out_unchanged_also_of_a_network_that_writes_to_them(self, wrapper: Any) -> None:
        class Normalises(SmallCNN):
            def forward(self, images: Tensor) -> Tensor:
                images -= 0.5
                images *= 2
                return super().forward(images)

        images = IMAGES.clone()
        made = wrapper(CAM(seeded(Normalises())))(images, 1)
        assert_close(images, IMAGES, rtol=0, atol=0)
        if wrapper is not AugSmooth:
            assert_close(made, CAM(seeded(SmallCNN()), target_layers="norm2")(2 * (IMAGES - 0.5), 1))
        else:
            assert_close(made, wrapper(CAM(seeded(Normalises()), target_layers="norm2"))(images, 1))

    @pytest.mark.parametrize("model", [torch.float32, torch.float64, torch.bfloat16])
    @pytest.mark.parametrize("given", [torch.float32, torch.float64, torch.float16])
    def test_take_the_models_dtype(self, model: torch.dtype, given: torch.dtype) -> None:
        assert CAM(seeded(SmallCNN()).to(model))(IMAGES.to(given)).dtype == torch.float32
