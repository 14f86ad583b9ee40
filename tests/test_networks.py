"""Networks as people build and call them: side inputs, checkpointing, compiled parts, wrappers, whole batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from threading import Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.testing import assert_close
from torch.utils import checkpoint
from torch.utils.checkpoint import checkpoint as imported

import camkit
from camkit import CAM, METHODS, AugSmooth
from camkit.compat import torch_version
from camkit.errors import ForwardError, LayerError, UsageError
from camkit.layers.target_layers import kind_of
from tests.engine.test_model_state import assert_unchanged, state
from tests.helpers.by_hand import gradcam, of_class
from tests.helpers.networks import SmallCNN, seeded
from tests.helpers.refusals import refusal

pytestmark = pytest.mark.filterwarnings("ignore::camkit.errors.EmptyMapWarning")

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
GAINS = torch.tensor([[0.2] * 6, [1.0] * 6, [3.0] * 6])


@dataclass
class Side:
    gain: Tensor


class Gained(SmallCNN):
    """Each image has a gain of its own, wherever it is kept."""

    def forward(self, images: Tensor, side: Any = None) -> Tensor:  # type: ignore[override]
        while not isinstance(side, Tensor):
            if isinstance(side, dict):
                side = next(iter(side.values()))
            else:
                side = side[0] if isinstance(side, list) else side.gain
        features = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(images)))))
        logits: Tensor = self.head(features.relu().mean((2, 3)) * side)
        return logits


HOLDERS: dict[str, Callable[[Tensor], Any]] = {
    "tensor": lambda gain: gain,
    "dict": lambda gain: {"gain": gain},
    "dict in a dict": lambda gain: {"meta": {"gain": gain}},
    "list in a dict": lambda gain: {"meta": [gain]},
    "dataclass": Side,
    "object": lambda gain: SimpleNamespace(gain=gain),
}


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("method", ["ScoreCAM", "AblationCAM", "SmoothGradCAM++", "IS-CAM", "GradCAM"])
def test_side_inputs_go_with_their_image(method: str, holder: str) -> None:
    model, wrap = seeded(Gained()), HOLDERS[holder]
    options = {name: value for name, value in {"top_k": 3, "num_samples": 2}.items() if name in METHODS[method].options}

    def maps(part: slice) -> Tensor:
        given = {"side": wrap(GAINS[part])}
        return CAM(model, method, "norm2", forward_kwargs=given, **options).explain(IMAGES[part], 1).maps

    alone = torch.cat([maps(slice(number, number + 1)) for number in range(3)])
    assert_close(maps(slice(None)), alone, rtol=0, atol=1e-5)


def test_side_inputs_that_can_be_read_once() -> None:
    def rows() -> Iterator[Tensor]:
        yield GAINS

    message = refusal(partial(CAM, forward_kwargs={"side": rows()}), UsageError, seeded(Gained()))
    assert message.startswith("forward_kwargs['side'] is a generator, which can be read only once")


class Checkpointed(SmallCNN):
    """Parts of it are checkpointed; ``run`` calls what is checkpointed."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.run = run

    def forward(self, images: Tensor) -> Tensor:
        features = self.run(self.norm1, self.conv1(images))
        features = self.run(lambda x: self.norm2(self.conv2(self.relu(x))), features)
        logits: Tensor = self.head(features.flatten(2).mean(2))
        return logits


WAYS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "imported": lambda part, x: imported(part, x, use_reentrant=False),
    "reentrant": lambda part, x: imported(part, x, use_reentrant=True),
    "by module": lambda part, x: checkpoint.checkpoint(part, x, use_reentrant=False, preserve_rng_state=False),
    "sequential": lambda part, x: checkpoint.checkpoint_sequential([part], 1, x, use_reentrant=False),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("layer", ["conv1", "norm1", "conv2", "norm2"])
def test_checkpointed_parts(way: str, layer: str) -> None:
    model, plain = seeded(Checkpointed(WAYS[way])), seeded(Checkpointed(lambda part, x: part(x)))
    before = state(model)
    found = CAM(model, "GradCAM", layer).explain(IMAGES, 1)
    assert_close(found.raw[layer][:, 0], gradcam(plain, plain.get_submodule(layer), IMAGES, of_class(1)))
    assert CAM(model).explain(IMAGES, 1).layers == ("norm2",)
    assert_unchanged(state(model), before)
    # Outside it is checkpointed as before.
    model.run = WAYS["imported"]
    runs: list[int] = []
    model.conv2.register_forward_hook(lambda module, args, output: runs.append(1))
    model.train()(IMAGES.clone().requires_grad_()).sum().backward()
    assert len(runs) == 2


def test_torchs_wrapper_of_checkpointed_modules() -> None:
    wrapper = pytest.importorskip("torch.distributed.algorithms._checkpoint.checkpoint_wrapper")
    plain, model = seeded(SmallCNN()), seeded(SmallCNN())
    model.conv2 = wrapper.checkpoint_wrapper(model.conv2)  # type: ignore[assignment]
    for layer, own in (("norm2", "norm2"), ("conv2._checkpoint_wrapped_module", "conv2")):
        found = CAM(model, "GradCAM", layer).explain(IMAGES, 1)
        assert_close(found.raw[layer][:, 0], gradcam(plain, plain.get_submodule(own), IMAGES, of_class(1)))


def backend(graph: Any, inputs: Any) -> Any:
    """A compiler that hands back what it was given, which hooks put in later don't reach."""
    return graph.forward


class ByFunction(SmallCNN):
    """A compiled function does the work."""

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = torch.compile(self.features, backend=backend)(images)
        return logits

    def features(self, images: Tensor) -> Tensor:
        return super().forward(images)


def compiled_forward() -> Any:
    model = seeded(SmallCNN())
    model.forward = torch.compile(model.forward, backend=backend)
    return model


@pytest.mark.skipif(torch_version() < (2, 6), reason="torch before 2.6 can't run uncompiled what is compiled inside")
@pytest.mark.parametrize("make", [compiled_forward, lambda: seeded(ByFunction())], ids=["forward", "function"])
def test_compiled_code_inside(make: Callable[[], Any]) -> None:
    model, plain = make(), seeded(SmallCNN())
    with torch.no_grad():
        expected = model(IMAGES)  # warmed up
    before = counters["stats"]["unique_graphs"]
    found = CAM(model, "GradCAM", "norm2").explain(IMAGES, 1)
    assert_close(found.raw["norm2"][:, 0], gradcam(plain, plain.norm2, IMAGES, of_class(1)))
    with torch.no_grad():
        assert_close(model(IMAGES), expected)
    assert counters["stats"]["unique_graphs"] == before


class Passes(nn.Module):
    """Hands on the attributes of what it wraps, as PEFT does."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Any:
        return self.inner(images)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)


class Backboned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = SmallCNN()

    def forward(self, images: Tensor) -> Any:
        return self.backbone(images)


class ByProperty(Passes):
    @property
    def backbone(self) -> nn.Module:
        inner: nn.Module = self.inner.get_submodule("backbone")
        return inner


@pytest.mark.parametrize("wrap", [Passes, ByProperty])
def test_a_backbone_that_is_no_path(wrap: type[Passes]) -> None:
    model = seeded(wrap(Backboned()))
    found = CAM(model).explain(IMAGES, 1)
    assert found.layers == ("inner.backbone.norm2",)
    message = refusal(CAM, UsageError, model, "GradCAM", ["backbone.norm2"])
    named = message.partition("closest: ")[2].partition(",")[0].partition(";")[0]
    assert CAM(model, "GradCAM", named).explain(IMAGES, 1).layers == (named,)


@dataclass
class Wanted:
    """Compares by value, as dataclasses do."""

    mask: Any

    def __call__(self, row: Tensor) -> Tensor:
        return (row * torch.as_tensor(self.mask)).sum()


@pytest.mark.parametrize("mask", [torch.ones(5), np.ones(5, dtype=np.float32)], ids=["tensor", "array"])
def test_targets_that_compare_by_value(mask: Any) -> None:
    model = seeded(SmallCNN())
    cam = CAM(model)
    runs: list[int] = []
    maps = [cam(IMAGES, Wanted(mask)) for _ in range(2)]
    handle = model.head.register_forward_hook(lambda module, args, output: runs.append(1))
    for scale in range(3):  # a new one for every image
        cam(IMAGES, [Wanted(scale * mask), Wanted(mask), Wanted(mask)])
    handle.remove()
    assert_close(*maps)
    assert len(runs) == 3


class Heads(SmallCNN):
    """Boxes and scores per image, a map, an embedding or a dict: anything but (batch, classes)."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, images: Tensor) -> Any:
        features = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(images)))))
        pooled = features.mean((2, 3))
        if self.kind == "map":
            return features
        if self.kind == "dict":
            return {"pred_boxes": pooled[:, :4, None].expand(-1, 4, 7), "pred_logits": features.flatten(2)}
        if self.kind == "tuple":
            return features.flatten(2), [features, features[:, :, ::2]]
        return [{"boxes": row[None, :4], "labels": torch.tensor([1]), "scores": row[:1]} for row in pooled]


@pytest.mark.parametrize("kind", ["map", "dict", "tuple", "per image"])
@pytest.mark.parametrize("method", ["EigenCAM", "FEM", "KPCA-CAM", "RandomCAM", "DFF"])
def test_methods_that_ask_for_no_class(method: str, kind: str) -> None:
    model, classifier = seeded(Heads(kind)), seeded(SmallCNN())
    for layers in ("norm2", None):
        found = CAM(model, method, layers).explain(IMAGES)
        assert found.layers == ("norm2",)
        # The layer's values are those of the classifier with the same weights.
        if method != "DFF":
            assert_close(found.raw["norm2"], CAM(classifier, method, "norm2").explain(IMAGES).raw["norm2"])
        assert found.maps.shape[0] == len(IMAGES)
        assert len(found.targets) == len(IMAGES)
    if method in ("EigenCAM", "FEM"):
        assert AugSmooth(CAM(model, method, "norm2"))(IMAGES).shape == (3, 32, 32)
    assert "class" in refusal(CAM(model, "GradCAM", "norm2"), UsageError, IMAGES)


class Clips(SmallCNN):
    """Frames of clips in the batch: three together have one score each, by what they share."""

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        clips = logits.unflatten(0, (-1, 3))  # fails on a number of images that three doesn't divide
        return logits + clips.mean(1).repeat_interleave(3, 0)


class Squeezes(SmallCNN):
    """Loses the batch dimension of a single image."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).squeeze()


@pytest.mark.parametrize("make", [Clips, Squeezes])
@pytest.mark.parametrize("method", ["GradCAM", "ScoreCAM", "AblationCAM", "LayerCAM"])
def test_networks_that_want_their_whole_batch(make: type[SmallCNN], method: str) -> None:
    model = seeded(make())
    options = {"top_k": 2} if "top_k" in METHODS[method].options else {}
    found = CAM(model, method, **options).explain(IMAGES, 1)
    assert found.layers == ("norm2",)
    if method == "GradCAM":
        assert_close(found.raw["norm2"][:, 0], gradcam(model, model.norm2, IMAGES, of_class(1)))


class Slab(nn.Module):
    """Four modalities of a slab three voxels thick."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv3d(4, 6, 3, padding=1), nn.BatchNorm3d(6), nn.Linear(6, 5)

    def forward(self, volumes: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.conv(volumes)).relu().mean((2, 3, 4)))
        return logits


def test_thin_volumes() -> None:
    model, volumes = seeded(Slab()), torch.randn(2, 4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = CAM(model).explain(volumes, 1)
    assert found.maps.shape == (2, 1, 3, 16, 16)
    assert_close(found.raw["norm"][:, 0], gradcam(model, model.norm, volumes, of_class(1)))
    assert "frames in front of the colours" in refusal(CAM(seeded(SmallCNN())), UsageError, volumes)


class Detached(SmallCNN):
    """What is in front of the head runs as ``mode`` says."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode

    def forward(self, images: Tensor) -> Tensor:
        context = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}.get(self.mode, torch.enable_grad)
        with context():
            features = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(images)))))
        pooled = features.detach().clone().mean((2, 3))
        logits: Tensor = self.head(pooled)
        return logits


@pytest.mark.parametrize("mode", ["no_grad", "inference_mode", "detach"])
def test_backbones_without_gradients(mode: str) -> None:
    model = seeded(Detached(mode))
    message = refusal(CAM(model), LayerError, IMAGES)
    assert "under no_grad or inference_mode, or detaches" in message
    for method in ("EigenCAM", "FEM", "ScoreCAM"):
        options = {"top_k": 2} if "top_k" in METHODS[method].options else {}
        assert CAM(model, method, **options).explain(IMAGES, 1).layers == ("norm2",)


class Writes(SmallCNN):
    """Its head writes to what its own gradient needs."""

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images).sigmoid()
        logits[:, :2] = logits[:, :2] * 2
        return logits


def test_writes_in_place_are_named() -> None:
    model = seeded(Writes())
    message = refusal(CAM(model, "GradCAM", "norm2"), LayerError, IMAGES, 1)
    assert "writes in place to the output of Sigmoid, by an assignment in the forward of the model" in message
    assert CAM(model, "EigenCAM")(IMAGES).shape == (3, 32, 32)


class TextFirst(SmallCNN):
    """Takes words in front of the images, as CLIP does."""

    def forward(self, input_ids: Any = None, pixel_values: Any = None) -> Tensor:  # type: ignore[override]
        if pixel_values is None:
            raise ValueError("You have to specify pixel_values")
        return super().forward(pixel_values)


def test_images_that_are_not_the_first_argument() -> None:
    model, plain = seeded(TextFirst()), seeded(SmallCNN())
    message = refusal(CAM(model, "GradCAM", "norm2"), ForwardError, IMAGES)
    assert message.endswith("the first argument of its forward is 'input_ids': pass image_argument='pixel_values'")
    cam = camkit.GradCAM(model, ["norm2"], image_argument="pixel_values", forward_kwargs={"input_ids": [1]})
    expected = gradcam(plain, plain.norm2, IMAGES, of_class(1))
    assert_close(cam.explain(IMAGES, 1).raw["norm2"][:, 0], expected)


def test_a_part_that_is_torchscript() -> None:
    class Holds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
            self.head = nn.Linear(4, 5)

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.head(self.net(images).mean((2, 3)))
            return logits

    assert "'net' is TorchScript" in refusal(CAM(Holds().eval(), "LayerCAM"), LayerError, IMAGES)


@pytest.mark.skipif(torch_version() < (2, 6), reason="torch before 2.6 has no stance")
def test_threads_leave_torchs_stance_as_it_was() -> None:
    from torch._dynamo import eval_frame

    before = eval_frame._stance.stance
    models = [seeded(SmallCNN()) for _ in range(3)]

    def work(model: nn.Module) -> None:
        for _ in range(10):
            CAM(model, "LayerCAM", "norm2")(IMAGES, 1)

    threads = [Thread(target=work, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert eval_frame._stance.stance == before


def test_functions_that_call_themselves_or_hold_words() -> None:
    def walk(output: Any) -> Tensor:
        return output[1] if isinstance(output, Tensor) else walk(output[0])

    model = seeded(SmallCNN())
    assert CAM(model)(IMAGES, walk).shape == (3, 32, 32)
    first, second = (kind_of(lambda output, key=key: output[key]) for key in ("a", "b"))
    assert first != second


def test_segmentation_in_half_precision_asks_for_no_class() -> None:
    model = seeded(Heads("map")).to(torch.bfloat16)
    with torch.no_grad():
        model.norm2.weight.mul_(1e30)
    assert CAM(model, "EigenCAM", "conv1").explain(IMAGES.to(torch.bfloat16)).maps.isfinite().all()
