"""The composition: whole maps against the slow oracle, results, warnings and refusals."""

from __future__ import annotations

import dataclasses
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
from camkit.layers import resolve
from camkit.run import run
from camkit.smoothing import VIEWS
from tests import oracles
from tests.kinds import SIX as METHODS
from tests.networks import SmallCNN, SmallViT, seeded

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
VOLUMES = torch.randn(2, 3, 8, 10, 12, generator=torch.Generator().manual_seed(0))


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


NETWORKS: dict[str, tuple[Any, list[str], Tensor]] = {
    "cnn": (SmallCNN, ["conv2"], IMAGES),
    "two layers": (SmallCNN, ["conv1", "norm2"], IMAGES),
    "tokens": (SmallViT, ["layers.1.ln1"], IMAGES),
    "volumes": (lambda: SmallCNN(dimensions=3), ["conv1", "conv2"], VOLUMES),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("network", NETWORKS)
class TestWholeMaps:
    def test_plain(self, method: str, network: str) -> None:
        make, layers, images = NETWORKS[network]
        model, images = seeded(make()).double(), images.double()
        made = CAM(model, method, layers)(images, 2)
        assert made.shape == (2, *images.shape[2:])
        assert_close(made.double(), slow_maps(model, layers, images, 2, method), rtol=0, atol=1e-6)

    def test_eigen_smooth(self, method: str, network: str) -> None:
        make, layers, images = NETWORKS[network]
        model, images = seeded(make()).double(), images.double()
        made = EigenSmooth(CAM(model, method, layers))(images, 2)
        assert_close(made.double(), slow_maps(model, layers, images, 2, method, eigen=True), rtol=0, atol=1e-6)

    def test_aug_smooth(self, method: str, network: str) -> None:
        make, layers, images = NETWORKS[network]
        model, images = seeded(make()).double(), images.double()
        made = AugSmooth(CAM(model, method, layers))(images, 2)
        views = [
            slow_maps(model, layers, factor * (images.flip(-1) if flip else images), 2, method)
            for flip in (False, True)
            for factor in (0.9, 1.0, 1.1)
        ]
        expected = torch.stack([view.flip(-1) if i >= 3 else view for i, view in enumerate(views)]).mean(0)
        assert_close(made.double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
class TestWrappers:
    def cam(self, method: str) -> CAM:
        return CAM(seeded(SmallCNN()), method, ["norm1", "norm2"])

    def test_stack_in_either_order(self, method: str) -> None:
        one = AugSmooth(EigenSmooth(self.cam(method))).explain(IMAGES, [[0, 1], [2, 3]])
        other = EigenSmooth(AugSmooth(self.cam(method))).explain(IMAGES, [[0, 1], [2, 3]])
        assert_close(one.maps, other.maps, rtol=0, atol=0)
        assert_close(one.raw, other.raw, rtol=0, atol=0)
        assert set(one.smoothing) == set(other.smoothing) == {"EigenSmooth", "AugSmooth"}

    @pytest.mark.parametrize("wrapper", [EigenSmooth, AugSmooth])
    def test_switched_off_they_equal_what_they_wrap(self, method: str, wrapper: Any) -> None:
        cam = self.cam(method)
        assert_close(wrapper(cam, enabled=False)(IMAGES), cam(IMAGES), rtol=0, atol=0)
        assert wrapper(cam, enabled=False).explain(IMAGES).smoothing == ()

    def test_twice_is_once(self, method: str) -> None:
        cam = self.cam(method)
        assert_close(EigenSmooth(EigenSmooth(cam))(IMAGES), EigenSmooth(cam)(IMAGES), rtol=0, atol=0)

    @pytest.mark.parametrize("wrapper", [EigenSmooth, AugSmooth])
    def test_are_a_cam(self, method: str, wrapper: Any) -> None:
        wrapped = wrapper(self.cam(method))
        assert isinstance(wrapped, CAM)
        assert wrapped.method is camkit.METHODS[method]
        assert wrapped(IMAGES).shape == (2, 16, 16)


def test_aug_smooth_decides_the_class_once_on_the_image_as_given() -> None:
    class Fickle(SmallCNN):
        """Its top class changes with the brightness of the input."""

        def forward(self, images: Tensor) -> Tensor:
            logits = super().forward(images)
            peaks = IMAGES.abs().amax((1, 2, 3)).repeat(len(images) // len(IMAGES))  # views come as one batch
            bright = images.abs().amax((1, 2, 3)) > peaks
            return logits + 100 * nn.functional.one_hot(bright.long(), 5)

    cam = AugSmooth(CAM(seeded(Fickle()), "GradCAM", "norm2"))
    result = cam.explain(IMAGES)
    assert result.targets.tolist() == [[0], [0]]
    assert_close(result.maps, cam.explain(IMAGES, 0).maps)


def test_views_are_the_six() -> None:
    assert {(view.flip, view.factor) for view in VIEWS} == {(f, s) for f in (False, True) for s in (0.9, 1.0, 1.1)}
    assert (VIEWS[0].flip, VIEWS[0].factor) == (False, 1.0)


@pytest.mark.parametrize("wrapper", [EigenSmooth, AugSmooth])
def test_a_wrapper_wraps_cams_only(wrapper: Any) -> None:
    with pytest.raises(UsageError, match=f"{wrapper.__name__} wraps a CAM, got SmallCNN"):
        wrapper(SmallCNN())


class TestExplanation:
    def test_holds_all_that_belongs_to_the_maps(self) -> None:
        model = seeded(SmallCNN())
        result = EigenSmooth(CAM(model, "layercam", ["norm2", "conv1"])).explain(IMAGES, [[0, 1, 4], [1, 2, 3]])
        assert result.maps.shape == (2, 3, 16, 16)
        assert {name: maps.shape for name, maps in result.raw.items()} == {"norm2": (2, 3, 8, 8), "conv1": (2, 3, 8, 8)}
        assert (result.method, result.layers, result.smoothing) == ("LayerCAM", ("norm2", "conv1"), ("EigenSmooth",))
        assert_close(result.logits, model(IMAGES).detach())
        assert_close(result.scores, result.logits.gather(1, result.targets))
        assert result.versions["torch"] == torch.__version__
        assert result.empty == {}

    def test_is_frozen(self) -> None:
        result = CAM(seeded(SmallCNN())).explain(IMAGES)
        with pytest.raises(dataclasses.FrozenInstanceError):
            result.method = "other"

    def test_raw_maps_are_signed_and_unnormalised(self) -> None:
        model = seeded(SmallCNN())
        raw = CAM(model, "GradCAM", "conv2").explain(IMAGES, 1).raw["conv2"][:, 0]
        with run(model, resolve(model, "conv2"), IMAGES, 1) as evidence:
            gradient = next(evidence.gradients())["conv2"][0]
            expected = (gradient.mean((2, 3), keepdim=True) * evidence.activations["conv2"]).sum(1)
        assert_close(raw, expected)
        assert raw.min() < 0 < raw.max()

    @pytest.mark.parametrize("tensor", ["maps", "logits", "scores"])
    def test_carries_no_graph(self, tensor: str) -> None:
        result = CAM(seeded(SmallCNN())).explain(IMAGES)
        assert not getattr(result, tensor).requires_grad


def test_an_image_ignores_its_batch_mates() -> None:
    cam = AugSmooth(EigenSmooth(CAM(seeded(SmallViT()))))
    together = cam(IMAGES, [1, 3])
    assert_close(together, torch.cat([cam(IMAGES[:1], 1), cam(IMAGES[1:], 3)]), rtol=0, atol=1e-5)


def test_a_method_without_gradients_runs_no_backward() -> None:
    model = seeded(SmallCNN())
    model.norm2.register_full_backward_hook(lambda *_: pytest.fail("a backward was run"))
    result = CAM(model, "EigenCAM", "norm1").explain(IMAGES, [[0, 1], [1, 2]])
    assert_close(result.maps[:, 0], result.maps[:, 1])


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
            (IMAGES[0], r"images must be .*got \(3, 16, 16\); add the batch dimension: images\[None\]"),
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


class TestConstructors:
    @pytest.mark.parametrize("method", [camkit.METHODS[name] for name in METHODS], ids=lambda method: method.name)
    def test_one_per_method(self, method: camkit.Method) -> None:
        model = seeded(SmallCNN())
        named = getattr(camkit, method.identifier)(model, target_layers=["norm1"])
        assert isinstance(named, CAM)
        assert_close(named(IMAGES, 1), CAM(model, method.name, ["norm1"])(IMAGES, 1), rtol=0, atol=0)
