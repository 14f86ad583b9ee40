"""One recorded forward: where its graph starts, and what layers return is kept as it was, with copies or without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from camkit import CAM
from camkit.errors import ForwardError
from camkit.methods.needs import Recording
from tests.helpers.forwards import count_forwards, feature_maps
from tests.helpers.networks import SmallCNN, seeded

# Six channels on 7 x 7 places: the shape tells, nothing has to be tried.
IMAGES = torch.randn(2, 3, 14, 14, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("method", ["GradCAM", "EigenCAM"])
@pytest.mark.parametrize("layer", ["norm2", "conv2", "relu", "conv1"])
def test_an_in_place_twin_gives_the_same_map(method: str, layer: str) -> None:
    plain, inplace = seeded(SmallCNN()), seeded(SmallCNN(inplace=True))
    assert_close(plain(IMAGES), inplace(IMAGES))
    expected = CAM(plain, method, layer).explain(IMAGES, 2)
    made = CAM(inplace, method, layer).explain(IMAGES, 2)
    assert_close(made.raw, expected.raw)
    assert_close(made.maps, expected.maps)
    assert expected.maps.std() > 0.01


def test_the_graph_starts_at_the_earliest_target_layer() -> None:
    model = seeded(SmallCNN())
    kept: dict[str, Tensor] = {}
    for name in ("conv1", "conv2", "head"):
        model.get_submodule(name).register_forward_hook(lambda m, a, out, name=name: kept.__setitem__(name, out))
    for _ in range(2):  # the first time, it is tried out where the layers' places lie
        with feature_maps(model, ["relu", "norm2"], IMAGES, 0) as found:
            next(found.gradients())
    assert kept["conv1"].grad_fn is None
    assert not kept["conv1"].requires_grad
    assert kept["head"].requires_grad


def test_no_weight_gets_a_gradient_and_none_is_in_the_graph() -> None:
    model = seeded(SmallCNN())
    seen: list[str] = []

    def walk(node: Any) -> None:
        seen.append(type(node).__name__)
        for following, _ in node.next_functions:
            if following is not None:
                walk(following)

    logits: list[Tensor] = []
    handle = model.register_forward_hook(lambda m, a, out: logits.append(out))
    with feature_maps(model, "norm2", IMAGES, 0) as found:
        walk(logits[0].grad_fn)
        next(found.gradients())
    handle.remove()
    # The only leaf is the captured output.
    assert seen.count("AccumulateGrad") == 1
    assert all(parameter.grad is None for parameter in model.parameters())


class Writes(SmallCNN):
    """Something is written to what ``norm1`` returned."""

    def __init__(self, write: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.write = write

    def forward(self, images: Tensor) -> Tensor:
        features = self.norm1(self.conv1(images))
        self.write(features)
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits


def numpy_write(tensor: Tensor) -> None:
    tensor.detach().numpy()[...] *= 2


WRITES = {
    "in place": lambda t: t.mul_(2),
    "through a view": lambda t: t.view(-1).add_(1),
    "detached": lambda t: t.detach().zero_(),
    "data": lambda t: t.data.mul_(2),
    "numpy": numpy_write,
    "relu": lambda t: t.relu_(),
}


class TestCopies:
    """What layers return is kept as a copy in the first call, and later where something wrote to it."""

    @pytest.mark.parametrize("write", WRITES)
    @pytest.mark.parametrize("method", ["GradCAM", "EigenCAM"])
    def test_no_way_to_write_reaches_what_is_kept(self, write: str, method: str) -> None:
        model = seeded(Writes(WRITES[write]))
        expected = model.norm1(model.conv1(IMAGES)).detach()
        for _ in range(3):
            with feature_maps(model, "norm1", IMAGES, 0, Recording(gradients=method == "GradCAM")) as found:
                assert_close(found.activations["norm1"], expected)
                if method == "GradCAM":
                    next(found.gradients())

    def test_the_network_runs_once_in_every_call(self) -> None:
        for model in (seeded(SmallCNN()), seeded(SmallCNN(inplace=True))):
            runs = count_forwards(model)
            for _ in range(3):
                CAM(model, "GradCAM", "norm2")(IMAGES, 1)
            assert runs == [2, 1, 2, 2]  # the first time, it is tried out where the layer's places lie

    @pytest.mark.parametrize("inplace", [False, True])
    def test_what_is_not_written_to_is_not_copied_again(self, inplace: bool) -> None:
        model = seeded(SmallCNN(inplace=inplace))
        given: list[int] = []
        model.norm2.register_forward_pre_hook(lambda module, args: given.append(args[0].data_ptr()))
        for call in range(3):
            with feature_maps(model, "conv2", IMAGES, 0) as found:
                assert (given[-1] == found.activations["conv2"].data_ptr()) == (call > 0)

    def test_a_network_that_begins_to_write_is_noticed(self) -> None:
        model = seeded(SmallCNN())
        cam = CAM(model, "GradCAM", "norm2")
        expected = [cam(IMAGES, 1) for _ in range(2)][1]
        model.inplace = True
        for _ in range(3):
            assert_close(cam(IMAGES, 1), expected)

    def test_the_second_of_two_layers_is_looked_after_too(self) -> None:
        plain, inplace = seeded(SmallCNN()), seeded(SmallCNN(inplace=True))
        expected = CAM(plain, "LayerCAM", ["conv1", "norm2"]).explain(IMAGES, 2)
        for _ in range(2):
            assert_close(CAM(inplace, "LayerCAM", ["conv1", "norm2"]).explain(IMAGES, 2).raw, expected.raw)

    def test_what_the_model_returns_is_not_the_score_functions_to_write_to(self) -> None:
        model = seeded(nn.Sequential(nn.Conv2d(3, 5, 3, 2, 1)))
        expected = model(IMAGES).detach()
        for gradients in (True, False):
            for _ in range(2):
                recording = Recording(gradients=gradients)
                with feature_maps(model, "0", IMAGES, lambda row: row.sigmoid_().sum(), recording) as found:
                    assert_close(found.activations["0"], expected)

    def test_layers_under_inference_mode(self) -> None:
        class Frozen(SmallCNN):
            def forward(self, images: Tensor) -> Tensor:
                features = self.norm1(self.conv1(images))
                with torch.inference_mode():
                    aside = self.conv2(features)
                    aside.mul_(3)
                logits: Tensor = self.head((features + aside.clone()).mean((2, 3)))
                return logits

        model = seeded(Frozen())
        expected = model.conv2(model.norm1(model.conv1(IMAGES))).detach()
        for _ in range(2):
            with feature_maps(model, "conv2", IMAGES, 0, Recording()) as found:
                assert_close(found.activations["conv2"], expected)

    @pytest.mark.parametrize("name", ["by keyword", "kept by the module"])
    def test_what_others_have_too(self, name: str) -> None:
        class Hands(nn.Module):
            def forward(self, given: Tensor) -> Tensor:
                self.out = given if name == "by keyword" else 2 * given
                return self.out

        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv, self.layer = nn.Conv2d(3, 5, 3, 2, 1), Hands()

            def forward(self, images: Tensor) -> Tensor:
                features = self.conv(images)
                made = self.layer(given=features)
                with torch.no_grad():
                    (features if name == "by keyword" else self.layer.out).data.add_(1)
                return made.mean((2, 3))

        model = seeded(Net())
        expected = model.conv(IMAGES).detach() * (1 if name == "by keyword" else 2)
        for _ in range(3):
            with feature_maps(model, "layer", IMAGES, 0) as found:
                assert_close(found.activations["layer"], expected)

    def test_a_forward_that_fails_says_so(self) -> None:
        model = seeded(SmallCNN())
        for _ in range(2):
            CAM(model, "GradCAM", "conv2")(IMAGES, 0)
            with pytest.raises(ForwardError, match="have 3 channels"):
                CAM(model, "GradCAM", "conv2")(IMAGES[:, :1], 0)

    def test_sparse_tensors_pass_through(self) -> None:
        class Sparse(nn.Module):
            def forward(self, features: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
                return 2 * features, other

        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv, self.layer = nn.Conv2d(3, 5, 3, 2, 1), Sparse()

            def forward(self, images: Tensor) -> Tensor:
                made: Tensor = self.layer(self.conv(images), torch.eye(3).to_sparse())[0]
                return made.mean((2, 3))

        assert CAM(seeded(Net()), "GradCAM", "layer")(IMAGES, 0).any()
