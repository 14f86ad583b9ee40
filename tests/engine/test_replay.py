"""The part of a network behind a layer: what is in front runs once, and the output is the network's own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from threading import Thread
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close
from torch.utils import _pytree

from camkit import CAM
from camkit.compat import hooked_transformers, tree_leaves
from camkit.engine.network import Network
from camkit.engine.record import record
from camkit.engine.replay import Replay, Replays
from camkit.engine.tensors import is_float
from camkit.errors import ForwardError, LayerError, NonFiniteError
from camkit.methods.needs import Recording
from camkit.signals.perturbed import Ablated
from tests.helpers.forwards import fast_path, feature_maps
from tests.helpers.networks import SmallCNN, SmallViT, TorchEncoder, seeded, timm_swin

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def slow_scores(
    model: nn.Module, layer: str, images: Tensor, change: Callable[[Tensor], Tensor], **given: Any
) -> Tensor:
    """The network's output where the layer's first feature tensor is changed, by a hook on the last of its calls."""
    module, calls = model.get_submodule(layer), []
    handle = module.register_forward_hook(lambda *_: calls.append(0))
    with torch.no_grad():
        model(images.clone(), **given)
    handle.remove()
    left = iter(range(len(calls) - 1, -1, -1))

    def swap(module: nn.Module, args: Any, output: Any) -> Any:
        if next(left):
            return None
        leaves = [leaf for leaf in tree_leaves(output) if is_float(leaf)]
        changed = change(leaves[0].clone())
        leaves[0].data.copy_(changed)
        return output

    handle = module.register_forward_hook(swap)
    try:
        with torch.no_grad():
            return model(images.clone(), **given)
    finally:
        handle.remove()


def slow_ablation(
    model: nn.Module, layer: str, images: Tensor, read: Callable[[Any], Tensor], axis: int = 1, **given: Any
) -> Tensor:
    """Score losses (B, C, K) of every channel, the network run as a whole on the batch for each."""
    made: list[Tensor] = []
    with torch.no_grad(), hooked_transformers(model):
        handle = model.get_submodule(layer).register_forward_hook(
            lambda module, args, output: made.append(next(leaf for leaf in tree_leaves(output) if is_float(leaf)))
        )
        scores = read(model(images.clone(), **given))
        handle.remove()
    losses = []
    for channel in range(made[-1].shape[axis]):

        def change(features: Tensor, channel: int = channel) -> Tensor:
            features.select(axis, channel).zero_()
            return features

        with hooked_transformers(model):
            losses.append(scores - read(slow_scores(model, layer, images, change, **given)))
    return torch.stack(losses, 1)


def ablation(model: nn.Module, layer: str, images: Tensor = IMAGES, **how: Any) -> Tensor:
    """Score losses (B, C, K) by replays."""
    with feature_maps(model, layer, images, [list(range(5))] * len(images), Recording(), **how) as found:
        ((name, activations),) = found.activations.items()
        score = Ablated(found, name, check=True)
        channels = torch.arange(activations.shape[1]).expand(len(images), -1)
        return (score.scores[:, :, None] - score(channels)).permute(1, 2, 0)


def logits(output: Any) -> Tensor:
    """The first (B, 5) tensor of an output."""
    return next(leaf for leaf in tree_leaves(output) if is_float(leaf) and leaf.shape[-1] == 5)


class Branches(SmallCNN):
    """Its block hands on a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Pair()

    def forward(self, images: Tensor) -> Tensor:
        features, gate = self.block(self.relu(self.norm1(self.conv1(images))))
        return self.head((self.relu(features) * gate).flatten(2).mean(2))


class Pair(nn.Module):
    """Two branches."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.conv(features), self.gate(features).sigmoid()


class Nested(nn.Module):
    """Containers in containers, with a layer in the middle of a block."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(inplace=True)), Residual(6)])
        self.tail = nn.Sequential(Residual(6), nn.Sequential(Residual(6), nn.ReLU(inplace=True)))
        self.head = nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        for stage in self.stages:
            images = stage(images)
        return self.head(self.tail(images).flatten(2).mean(2))


class Residual(nn.Module):
    """A block that writes to what its last layer returned."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        made = self.conv2(self.relu(self.conv1(features)))
        made += features
        return self.relu(made)


class Functional(SmallCNN):
    """Keeps outputs and works on them with functions."""

    def forward(self, images: Tensor) -> Tensor:
        kept = {"stem": functional.relu(self.conv1(images))}
        kept["deep"] = functional.relu_(self.conv2(kept["stem"]))
        kept["deep"] += functional.avg_pool2d(kept["stem"], 3, 1, 1)
        return self.head(kept["deep"].mean((2, 3)) + kept["stem"].amax((2, 3)))


class Shares(SmallCNN):
    """One convolution three times."""

    def forward(self, images: Tensor) -> Tensor:
        features = self.relu(self.conv1(images))
        for _ in range(3):
            features = self.relu(self.norm2(self.conv2(features))) + features
        return self.head(features.flatten(2).mean(2))


class Windows(SmallCNN):
    """Works on windows, whose tensors have windows first."""

    def forward(self, images: Tensor) -> Tensor:
        features = self.norm1(self.conv1(images))
        batch = len(features)
        windows = features.unflatten(2, (2, 4)).unflatten(4, (2, 4)).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
        windows = self.relu(self.conv2(windows))
        whole = windows.unflatten(0, (batch, 2, 2)).permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
        return self.head(self.relu(self.norm2(whole) + features).flatten(2).mean(2))


class WritesLater(SmallCNN):
    """Writes to what ran in front of the layer: whole, by mask and by index."""

    def forward(self, images: Tensor) -> Tensor:
        first = self.norm1(self.conv1(images))
        deep = self.conv2(first)
        first[:, 0] = deep[:, 0]
        first.masked_fill_(deep < 0, 0)
        first.mul_(2)
        return self.head((first + deep.relu()).flatten(2).mean(2))


class OwnForward(SmallCNN):
    """Its stem has a forward of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1.forward = lambda images: 2 * nn.Conv2d.forward(self.conv1, images)


class Remembers(SmallCNN):
    """Reads what a module keeps from its last call."""

    def __init__(self) -> None:
        super().__init__()
        self.keeper = Keeper()

    def forward(self, images: Tensor) -> Tensor:
        features = self.conv2(self.keeper(self.conv1(images)))
        return self.head((features.relu() + self.keeper.kept).flatten(2).mean(2))


class Keeper(nn.Module):
    """Keeps its input."""

    kept: Tensor

    def forward(self, features: Tensor) -> Tensor:
        self.kept = features
        return features.relu()


class Normalises(SmallCNN):
    """Writes to its input."""

    def forward(self, images: Tensor) -> Tensor:
        images -= 0.5
        images *= 2
        return super().forward(images)


class Dictionary(SmallCNN):
    """A dict out."""

    def forward(self, images: Tensor) -> Any:
        return {"logits": super().forward(images), "other": images.mean()}


@dataclass
class Answer:
    """What a framework may return."""

    logits: Tensor


class Dataclass(SmallCNN):
    """A dataclass out, which torch knows nothing of."""

    def forward(self, images: Tensor) -> Any:
        return Answer(super().forward(images))


class Sample:
    """One image's answer, as MMPretrain's data samples are."""

    def __init__(self, scores: Tensor) -> None:
        self.pred_score = scores


class Samples(SmallCNN):
    """A list of data samples."""

    def forward(self, images: Tensor) -> Any:
        return [Sample(row) for row in super().forward(images)]


NETWORKS: dict[str, tuple[Callable[[], nn.Module], list[str], Callable[[Any], Tensor]]] = {
    "plain": (SmallCNN, ["conv1", "norm1", "relu", "conv2", "norm2"], logits),
    "in place": (lambda: SmallCNN(inplace=True), ["conv1", "norm1", "relu", "conv2", "norm2"], logits),
    "tuple": (Branches, ["block.conv", "conv1"], logits),
    "nested": (
        Nested,
        ["stages.0", "stages.0.0", "stages.1.conv1", "stages.1.relu", "tail.0.conv2", "tail.1.0", "tail.1.0.conv1"],
        logits,
    ),
    "functions": (Functional, ["conv1", "conv2"], logits),
    "shared": (Shares, ["conv1", "conv2", "norm2", "relu"], logits),
    "windows": (Windows, ["norm1", "conv1", "norm2"], logits),
    "written to later": (WritesLater, ["conv1", "norm1", "conv2"], logits),
    "own forward": (OwnForward, ["conv1", "norm2"], logits),
    "remembers": (Remembers, ["conv1", "conv2", "keeper"], logits),
    "normalises": (Normalises, ["conv1", "conv2"], logits),
    "dictionary": (Dictionary, ["conv2"], lambda output: output["logits"]),
    "dataclass": (Dataclass, ["conv2"], lambda output: output.logits),
    "samples": (Samples, ["conv2"], lambda output: torch.stack([each.pred_score for each in output])),
}
CASES = [
    pytest.param(make, layer, read, id=f"{name} {layer}")
    for name, (make, layers, read) in NETWORKS.items()
    for layer in layers
]


@pytest.mark.parametrize(("make", "layer", "read"), CASES)
class TestScoresWithoutAChannel:
    @pytest.mark.parametrize("batch_size", [1, 4])
    def test_are_those_of_the_whole_network(
        self, make: Callable[[], nn.Module], layer: str, read: Callable[[Any], Tensor], batch_size: int
    ) -> None:
        model = seeded(make()).double()
        expected = slow_ablation(model, layer, IMAGES.double(), read)
        made = ablation(model, layer, IMAGES.double(), batch_size=batch_size)
        assert expected.abs().amax() > 1e-3
        assert_close(made, expected, rtol=1e-7, atol=1e-9)

    def test_also_of_all_images_together(
        self, make: Callable[[], nn.Module], layer: str, read: Callable[[Any], Tensor]
    ) -> None:
        """Keyword arguments that belong to the images one by one keep these together."""
        model = seeded(make()).double()
        expected = slow_ablation(model, layer, IMAGES.double(), read)
        model.register_forward_pre_hook(_takes_weights, with_kwargs=True)
        made = ablation(model, layer, IMAGES.double(), forward_kwargs={"weights": [1, 2]})
        assert_close(made, expected, rtol=1e-7, atol=1e-9)


def _takes_weights(module: nn.Module, args: Any, kwargs: Any) -> Any:
    assert len(kwargs.pop("weights")) == len(args[0])
    return args, kwargs


def runs(model: nn.Module, names: list[str]) -> dict[str, int]:
    """A count per module, of how many images it saw from now on; kept up to date."""
    seen = dict.fromkeys(names, 0)

    def count(name: str) -> Callable[..., Any]:
        module = model.get_submodule(name)
        forward = type(module).forward

        class Counting(type(module)):  # type: ignore[misc]
            def forward(self, *args: Any, **kwargs: Any) -> Any:
                seen[name] += len(args[0])
                return forward(self, *args, **kwargs)

        return Counting

    for name in names:
        setattr(model.get_submodule(name), "__class__", count(name))  # noqa: B010 (mypy knows no other class)
    return seen


class TestPrefix:
    @pytest.mark.parametrize("make", [SmallCNN, lambda: SmallCNN(inplace=True)])
    def test_runs_once_for_an_image(self, make: Any) -> None:
        model = seeded(make())
        cam = CAM(model, "AblationCAM", "conv2")
        cam(IMAGES, 1)  # in which layouts are found
        seen = runs(model, ["conv1", "norm1", "conv2", "norm2", "head"])
        cam(IMAGES, 1)
        # The pass, and the recording of each image; what the layer returns is never computed again.
        assert {seen[name] for name in ("conv1", "norm1", "conv2")} == {2 * len(IMAGES)}
        # The same, two rows for each image that are looked at, and one per channel.
        assert {seen[name] for name in ("norm2", "head")} == {(2 + 2 + 6) * len(IMAGES)}

    def test_of_nested_networks(self) -> None:
        model = seeded(Nested())
        names = ["stages.0.0", "stages.1.conv1", "tail.0.conv1", "tail.1.0.conv1", "tail.1.0.conv2", "head"]
        cam = CAM(model, "AblationCAM", "tail.1.0.conv1")
        cam(IMAGES, 1)
        seen = runs(model, names)
        cam(IMAGES, 1)
        assert [seen[name] // len(IMAGES) for name in names] == [2, 2, 2, 2, 10, 10]

    def test_of_transformers(self) -> None:
        model = seeded(SmallViT())
        names = ["patch", "layers.0.ln1", "layers.0.mlp.0", "layers.1.ln1", "layers.1.mlp.0", "norm"]
        cam = CAM(model, "AblationCAM", "layers.1.ln1")
        cam(IMAGES, 1)
        seen = runs(model, names)
        cam(IMAGES, 1)
        assert [seen[name] // len(IMAGES) for name in names] == [2, 2, 2, 2, 12, 12]


class TestTransformerLayers:
    """torch runs these in one kernel, without their modules, where nobody looks."""

    @pytest.mark.parametrize("layer", ["encoder.layers.0.norm1", "encoder.layers.1.norm1", "encoder.layers.0"])
    def test_are_changed_inside(self, layer: str) -> None:
        model = seeded(TorchEncoder())
        expected = slow_ablation(model, layer, IMAGES, logits, axis=2)
        assert expected.abs().amax() > 1e-3
        assert_close(ablation(model, layer), expected, rtol=1e-4, atol=1e-5)

    def test_the_kernel_is_left_switched_on(self) -> None:
        CAM(seeded(TorchEncoder()), "AblationCAM", "encoder.layers.1.norm1")(IMAGES, 1)
        assert fast_path()


@pytest.mark.frameworks
@pytest.mark.parametrize("layer", ["layers.0.blocks.1.norm1", "layers.0.blocks.0", "layers.1.blocks.0.norm2"])
def test_a_swin(layer: str) -> None:
    model = seeded(timm_swin()).double()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = slow_ablation(model, layer, images, logits, axis=-1)
    assert_close(ablation(model, layer, images), expected, rtol=1e-6, atol=1e-8)
    early = "patch_embed.proj"
    seen = runs(model, [early])
    ablation(model, layer, images)
    assert seen[early] == 2 * len(images)


def test_a_dataclass_as_a_layers_output() -> None:
    class Out:
        def __init__(self, features: Tensor) -> None:
            self.features = features

    register = getattr(_pytree, "register_pytree_node", None) or _pytree._register_pytree_node  # before torch 2.2
    register(Out, lambda out: ([out.features], None), lambda leaves, _: Out(*leaves))

    class Layer(nn.Module):
        def forward(self, features: Tensor) -> Any:
            return Out(features.relu())

    class Net(SmallCNN):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Layer()

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.layer(self.conv1(images)).features.flatten(2).mean(2))

    model = seeded(Net())
    assert_close(ablation(model, "layer"), slow_ablation(model, "layer", IMAGES, logits))


class Only(SmallCNN):
    """Takes batches of one size."""

    size = 2

    def forward(self, images: Tensor) -> Tensor:
        assert len(images) == self.size
        return super().forward(images)


class TestBatchesOfOneSize:
    @pytest.mark.parametrize("size", [1, 2])
    @pytest.mark.parametrize("method", ["AblationCAM", "CAM", "DFF"])
    def test_are_all_that_is_shown(self, size: int, method: str) -> None:
        layer = "relu" if method == "CAM" else "conv2"
        model = seeded(Only()).double()
        model.size = size
        made = CAM(model, method, layer).explain(IMAGES[:size], 1)
        expected = CAM(seeded(SmallCNN()).double(), method, layer).explain(IMAGES[:size], 1)
        assert_close((made.maps, made.scores), (expected.maps, expected.scores), rtol=0, atol=1e-5)


class TestPrecision:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    @pytest.mark.parametrize(("make", "layer"), [(SmallCNN, "conv2"), (SmallViT, "layers.1.ln1")])
    def test_half(self, dtype: torch.dtype, make: Any, layer: str) -> None:
        model = seeded(make())
        exact = ablation(model, layer)
        made = ablation(copy.deepcopy(model).to(dtype), layer)
        assert made.dtype == torch.float32
        assert (made - exact).abs().mean() < 0.05 * exact.abs().mean() * (8 if dtype == torch.bfloat16 else 1)

    @pytest.mark.parametrize(("make", "layer"), [(SmallCNN, "conv2"), (SmallViT, "layers.1.ln1")])
    def test_autocast_is_followed(self, make: Any, layer: str) -> None:
        model = seeded(make())
        kinds: set[torch.dtype] = set()
        handle = model.head.register_forward_hook(lambda module, args, output: kinds.add(output.dtype))
        with torch.autocast("cpu", torch.bfloat16):
            made = ablation(model, layer)
            handle.remove()
            expected = slow_ablation(model, layer, IMAGES, logits, axis=1 if make is SmallCNN else 2)
            with hooked_transformers(model):
                largest = float(model(IMAGES).detach().abs().amax())
        assert kinds == {torch.bfloat16}
        # Batches of other sizes may be rounded to a neighbouring number, or a few further.
        assert_close(made, expected.float(), rtol=0, atol=4 * torch.finfo(torch.bfloat16).eps * largest)

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_modes_around_the_call(self, mode: Any) -> None:
        model = seeded(SmallCNN())
        expected = ablation(model, "conv2")
        with mode():
            assert_close(ablation(model, "conv2", IMAGES.clone()), expected)


class Rolls(SmallCNN):
    """Never gives the same answer."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + torch.rand(1)


def own_forwards(model: nn.Module) -> dict[str, Any]:
    """Which modules have a forward that isn't their class's."""
    return {name: module.__dict__["forward"] for name, module in model.named_modules() if "forward" in module.__dict__}


class TestRefusals:
    def test_a_network_that_doesnt_repeat_itself(self) -> None:
        with pytest.raises(LayerError, match="what runs behind 'conv2' doesn't give the same output twice"):
            CAM(seeded(Rolls()), "AblationCAM", "conv2")(IMAGES, 1)
        CAM(seeded(Rolls()), "LayerCAM", "conv2")(IMAGES, 1)  # as the message says

    def test_a_layer_that_is_passed_by(self) -> None:
        model = seeded(SmallCNN())
        with record(Network(model), IMAGES, {"conv2": model.conv2}) as forward:
            replay = Replay(forward, "conv2", 0, repeats=True)
            model.conv2.__class__ = type("Skips", (nn.Conv2d,), {"__call__": lambda self, features: features})
            with pytest.raises(LayerError, match="ran past the layer"):
                replay(replay.repeated(3), 3)
        assert own_forwards(model) == {}

    def test_a_network_that_fails_on_what_is_left(self) -> None:
        class Picky(SmallCNN):
            def forward(self, images: Tensor) -> Tensor:
                features = self.conv2(self.conv1(images))
                assert features.flatten(2).any(2).all()
                return self.head(features.flatten(2).mean(2))

        model = seeded(Picky())
        with pytest.raises(ForwardError, match="the model fails on images"):
            CAM(model, "AblationCAM", "conv2")(IMAGES, 1)
        assert own_forwards(model) == {}

    @pytest.mark.parametrize("broken", [torch.nan, torch.inf])
    def test_scores_that_arent_finite_are_named(self, broken: float) -> None:
        class Divides(SmallCNN):
            def forward(self, images: Tensor) -> Tensor:
                features = self.conv2(self.conv1(images))
                alive = features[:, 3].flatten(1).any(1)
                scores = self.head(features.flatten(2).mean(2))
                return torch.where(alive[:, None], scores, torch.tensor([0, 0, broken, 0, 0]))

        cam = CAM(seeded(Divides()), "AblationCAM", "conv2")
        with pytest.raises(NonFiniteError, match=f"image 0 scores {broken} for target 1 without channel 3"):
            cam(IMAGES, [[0, 2], [0, 2]])


def test_forwards_of_ones_own_stay() -> None:
    model = seeded(OwnForward())
    before = own_forwards(model)
    assert set(before) == {"conv1"}
    CAM(model, "AblationCAM", "conv2")(IMAGES, 1)
    assert own_forwards(model) == before


def test_what_a_network_remembers_can_be_trained_with() -> None:
    class Masks(SmallCNN):
        mask: Tensor | None = None

        def forward(self, images: Tensor) -> Tensor:
            if self.mask is None or len(self.mask) != len(images):
                self.mask = torch.full((len(images), 1, 1, 1), 2.0)
            return self.head((self.mask * self.conv2(self.conv1(images))).flatten(2).mean(2))

    for method in ("AblationCAM", "ScoreCAM"):
        model = seeded(Masks())
        CAM(model, method, "conv2", batch_size=3)(IMAGES, 1)
        model(torch.cat([IMAGES, IMAGES[:1]])).sum().backward()


def test_replays_of_images_take_turns() -> None:
    model = seeded(SmallCNN()).double()
    with record(Network(model), IMAGES.double(), {"conv2": model.conv2}) as forward, torch.no_grad():
        replays = Replays(forward, "conv2")
        assert replays.first is replays.of(0)
        for image in (0, 1, 0):
            replay = replays.of(image)
            assert_close(replay.output, model.conv2(model.relu(model.norm1(model.conv1(IMAGES[[image]].double())))))
            assert_close(replay(replay.repeated(3), 3), forward.logits[[image] * 3])


def test_replays_are_of_all_images_together_where_the_network_takes_no_others() -> None:
    model = seeded(Only())
    network = Network(model)
    with record(network, IMAGES, {"conv2": model.conv2}) as forward, torch.no_grad():
        replays = Replays(forward, "conv2")
        assert network.takes_whole_batches
        assert replays.first is replays.of(None)
        assert_close(replays.first(replays.first.output, 2), forward.logits)


def test_two_threads_leave_torchs_fast_path_as_it_was() -> None:
    assert fast_path()
    models = [seeded(SmallViT()) for _ in range(2)]

    def explain(model: nn.Module) -> None:
        for _ in range(3):
            CAM(model, "AblationCAM", "layers.0.ln2")(IMAGES, 1)

    threads = [Thread(target=explain, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fast_path()
