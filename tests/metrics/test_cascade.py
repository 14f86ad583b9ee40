"""A network is randomised from the output on, all of it, and is afterwards bit for bit what it was."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from threading import Lock, Thread
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import camkit
from camkit.engine.cache import cache_of
from camkit.errors import CamkitError, UsageError
from camkit.metrics.cascade import Group, layer_groups, randomising
from tests.helpers.cases import Swapped
from tests.helpers.networks import SmallCNN, SmallViT, seeded
from tests.metrics.trials import pictures

IMAGES = pictures(16, 16).float()
OLD_WEIGHT_NORM: Any = getattr(nn.utils, "weight_norm", lambda layer: layer)


class Scale(nn.Module):
    """A bare parameter of one value, as a transformer's LayerScale has."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((8,), 1e-5))

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens * self.gamma


class Partly(nn.Linear):
    """Resets a part of itself."""

    def __init__(self) -> None:
        super().__init__(8, 8)
        self.shift = nn.Parameter(torch.arange(8.0))

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens) + self.shift


class Container(nn.Module):
    """Has parameters, children that it resets too, notes that it takes, and something that can't be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)
        self.shift = nn.Parameter(torch.ones(8))
        self.lock, self.notes = Lock(), ["made"]
        self.mean = torch.ones(3)

    def reset_parameters(self) -> None:
        self.inner.reset_parameters()
        nn.init.uniform_(self.shift)
        self.mean.zero_()
        self.notes.append("reset")

    def forward(self, tokens: Tensor) -> Tensor:
        return self.inner(tokens) + self.shift


class Odd(SmallViT):
    """What networks have besides layers with ``reset_parameters``: tied, scalar, complex, old and new weight norm."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.partly = Scale(), Partly()
        self.temperature = nn.Parameter(torch.tensor(2.5))
        self.tied = nn.Linear(8, 8)
        self.tied.weight = self.partly.weight
        self.phase = nn.Parameter(torch.randn(8, dtype=torch.complex64))
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
        self.old = OLD_WEIGHT_NORM(nn.Linear(8, 8))
        self.container = Container()
        self.register_buffer("table", torch.arange(5))

    def forward(self, images: Tensor) -> Tensor:
        extra = (
            self.container(self.old(self.normed(self.tied(self.partly(self.scale(torch.ones(8))))))).sum()
            + self.phase.abs().sum()
        )
        return super().forward(images) * self.temperature + extra


MODELS: dict[str, Callable[[], nn.Module]] = {
    "cnn": lambda: seeded(SmallCNN()),
    "untrained cnn": SmallCNN,
    "vit": lambda: seeded(SmallViT()),
    "odd": Odd,
    "swapped": Swapped,
}
each_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def bits(model: nn.Module) -> dict[str, Any]:
    """All that must be as it was."""
    everything = [*model.named_parameters(), *model.named_buffers()]
    return {
        "identity": [(name, id(tensor), tensor.data_ptr()) for name, tensor in everything],
        "bytes": [tensor.detach().numpy().tobytes() for _, tensor in everything],
        "requires_grad": [tensor.requires_grad for _, tensor in everything],
        "grad": [None if tensor.grad is None else tensor.grad.numpy().tobytes() for _, tensor in everything],
        "training": [module.training for module in model.modules()],
        "random": torch.get_rng_state().tolist(),
        "facts": dict(cache_of(model)._facts),
    }


def trained(make: Callable[[], nn.Module]) -> nn.Module:
    """In the middle of training, with NaN in a buffer that nobody reads."""
    model = make().train()
    for index, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(index % 3 != 0)
        parameter.grad = torch.full_like(parameter, 0.5) if index % 2 else None
    model.register_buffer("unread", torch.tensor([torch.nan, -0.0]))
    return model


def cascaded(
    model: nn.Module, seed: int = 0, most: int = 16, images: Tensor = IMAGES
) -> list[tuple[str, dict[str, Tensor]]]:
    """All parameters after each step."""
    found = []
    with randomising(model, seed) as randomised:
        for group in layer_groups(model, images, most):
            randomised.randomise(group)
            found.append((group.name, {name: each.detach().clone() for name, each in model.named_parameters()}))
    return found


@each_model
def test_every_parameter_changes_once_by_the_last_step(make: Callable[[], nn.Module]) -> None:
    model = make()
    before = {name: each.detach().clone() for name, each in model.named_parameters() if each.numel()}
    changes = dict.fromkeys(before, 0)
    last = before
    for _, now in cascaded(model):
        for name in before:
            changes[name] += not torch.equal(now[name], last[name])
        last = now
    assert changes == dict.fromkeys(before, 1)
    assert all(each.isfinite().all() for each in last.values())


def explain_all_the_way(model: nn.Module, end: type[BaseException] | None) -> None:
    with randomising(model) as randomised:
        for number, group in enumerate(layer_groups(model, IMAGES)):
            randomised.randomise(group)
            camkit.CAM(model, "EigenCAM").compute(IMAGES)
            if end and number == 1:
                raise end


@each_model
@pytest.mark.parametrize("end", [None, ValueError, KeyboardInterrupt])
def test_the_network_is_left_bit_for_bit_as_it_was(make: Callable[[], nn.Module], end: Any) -> None:
    model = trained(make)
    before = bits(model)
    with pytest.raises(end) if end else nullcontext():
        explain_all_the_way(model, end)
    assert bits(model) == before


def test_an_interrupt_while_it_is_put_back_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    model = seeded(SmallCNN())
    before = bits(model)
    from camkit.metrics import cascade

    class Interrupting(list[Any]):
        """Its second last entry is interrupted, once."""

        interrupted = False

        def pop(self, *_: Any) -> Any:
            if len(self) == 3 and not self.interrupted:
                self.interrupted = True
                raise KeyboardInterrupt
            return super().pop()

    put_back = cascade._put_back
    monkeypatch.setattr(cascade, "_put_back", lambda kept: put_back(Interrupting(kept)))
    with pytest.raises(KeyboardInterrupt):
        cascaded(model)
    after = bits(model)
    assert after == before


def test_layers_with_a_reset_get_what_it_makes_each_from_its_own_seed() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(400, 5))
    (*_, (_, last)) = cascaded(model)
    assert not torch.equal(last["1.weight"], last["2.weight"]), "same shape, other numbers"
    bound = 1 / 36**0.5  # of the uniform distribution that nn.Conv2d draws from
    assert 0.8 * bound < float(last["1.weight"].abs().max()) <= bound
    assert float(last["4.weight"].abs().max()) <= 1 / 400**0.5
    # Neither the grouping nor what was drawn before changes what is drawn; the seed does.
    torch.rand(7)
    (*_, (_, grouped)) = cascaded(model, most=2)
    (*_, (_, other)) = cascaded(model, seed=1)
    for name in last:
        assert torch.equal(last[name], grouped[name])
        assert not torch.equal(last[name], other[name])


def test_running_statistics_are_reset_with_their_layer() -> None:
    model = seeded(SmallCNN())
    seen = []
    with randomising(model) as randomised:
        for group in layer_groups(model, IMAGES):
            randomised.randomise(group)
            seen.append((group.name, model.norm2.running_var.clone(), model.norm1.running_var.clone()))
    assert [name for name, *_ in seen] == ["head", "norm2", "conv2", "norm1", "conv1"]
    assert torch.equal(seen[1][1], torch.ones(6))
    assert not torch.equal(seen[1][2], torch.ones(6))
    assert torch.equal(seen[3][2], torch.ones(6))


def test_bare_parameters_keep_mean_and_deviation() -> None:
    model = seeded(SmallViT(size=(64, 64)))
    model.position.data.mul_(3).add_(2)
    (*_, (_, last)) = cascaded(model, images=pictures(64, 64).float())
    before, after = model.position.detach(), last["position"]
    assert float(after.mean()) == pytest.approx(float(before.mean()), rel=0.1)
    assert float(after.std()) == pytest.approx(float(before.std()), rel=0.1)


def test_constant_parameters_are_drawn_near_their_value() -> None:
    model = Odd()
    (*_, (_, last)) = cascaded(model)
    gamma = last["scale.gamma"]
    assert len(set(gamma.tolist())) == 8
    assert float((gamma - 1e-5).abs().max()) < 1e-5
    assert last["temperature"] != 2.5
    assert not torch.equal(last["phase"], model.phase)
    assert not torch.equal(last["partly.shift"], torch.arange(8.0)), "which its own reset leaves as it was"
    assert not torch.equal(last["tokens"], torch.zeros(1, 1, 8))


def test_a_reset_touches_nothing_but_parameters_and_buffers() -> None:
    model = Odd()
    inner = model.container.inner.weight.detach().clone()
    with randomising(model) as randomised:
        (group,) = (each for each in layer_groups(model, IMAGES) if each.name == "container")
        randomised.randomise(Group("container", {"container": group.layers["container"]}))
        assert not torch.equal(model.container.shift, torch.ones(8))
        assert torch.equal(model.container.inner.weight, inner), "which has its own turn, and seed"
    assert model.container.notes == ["made"]
    assert torch.equal(model.container.mean, torch.ones(3))


def test_groups_come_from_the_output_in_the_order_of_execution() -> None:
    assert [group.name for group in layer_groups(Swapped(), IMAGES)] == ["head", "last", "first"]
    names = [group.name for group in layer_groups(seeded(SmallViT()), IMAGES, 5)]
    assert names == ["head", "norm", "layers", "patch", "(model)"]
    assert names[-1] == "(model)", "position embeddings and class tokens"
    deeper = [group.name for group in layer_groups(seeded(SmallViT()), IMAGES, 6)]
    assert deeper == ["head", "norm", "layers.1", "layers.0", "patch", "(model)"]


def test_a_flat_network_is_put_into_as_many_groups_as_asked_for() -> None:
    model = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(30)), nn.Flatten(), nn.Linear(3 * 16 * 16, 5))
    groups = layer_groups(model, IMAGES, 4)
    assert [len(group.layers) for group in groups] == [8, 8, 7, 8]
    assert groups[0].name == "31, 29, 28, 27, 26, 25, 24, 23"
    assert [name for group in groups for name in group.layers] == ["31", *map(str, range(29, -1, -1))]
    assert len(layer_groups(model, IMAGES, 1)) == 1
    assert len(layer_groups(model, IMAGES, 31)) == 31


def test_other_threads_wait() -> None:
    model = seeded(SmallCNN(), 11)
    cam = camkit.GradCAM(model, ["norm2"])
    expected, found = cam(IMAGES, 3), []
    thread = Thread(target=lambda: found.append(cam(IMAGES, 3)))
    with randomising(model) as randomised:
        for group in layer_groups(model, IMAGES):
            randomised.randomise(group)
        thread.start()
        thread.join(0.2)
        assert found == []
        assert not torch.equal(cam(IMAGES, 3), expected)
    thread.join()
    assert torch.equal(found[0], expected)


def test_default_layers_stay_those_of_the_trained_network() -> None:
    model = seeded(SmallCNN(), 11)
    cam = camkit.GradCAM(model)
    layers = cam.explain(IMAGES, 3).layers
    facts = copy.copy(cache_of(model)._facts)
    with randomising(model):
        model.conv2.weight.data.zero_()
        model.norm2.weight.data.zero_()
        model.head.weight.data.zero_()
        with pytest.warns(camkit.EmptyMapWarning):
            assert cam.explain(IMAGES, 3).layers == layers
    assert cache_of(model)._facts == facts
    assert not cache_of(model).is_altered


class Failing(nn.Linear):
    """Can be reset once."""

    def reset_parameters(self) -> None:
        if hasattr(self, "ready"):
            raise ValueError("no such initialisation. See the manual")
        self.ready = True


class Packed(nn.Module):
    """What torch's quantised layers look like: no parameters."""

    _packed_params = object()

    def forward(self, images: Tensor) -> Tensor:
        return images


@pytest.mark.parametrize("bad", ["none", "int8", "packed", "reset", "script"])
def test_networks_that_cannot_be_randomised_take_one_line(bad: str) -> None:
    model: nn.Module = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))
    messages = {
        "none": "the network has no parameters: there is nothing to randomise",
        "int8": r"extra holds torch.int8: quantised weights can't be randomised; load them in floating point",
        "packed": "0._packed_params holds packed integers: quantised weights can't be randomised",
        "reset": "Failing.reset_parameters of layer '2' fails: no such initialisation",
        "script": "a TorchScript module takes no hooks",
    }
    if bad == "none":
        model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    if bad == "int8":
        model.register_parameter("extra", nn.Parameter(torch.zeros(3, dtype=torch.int8), requires_grad=False))
    if bad == "packed":
        model = nn.Sequential(Packed(), model)
    if bad == "reset":
        model[2] = Failing(3, 5)
    if bad == "script":
        model = torch.jit.trace(model, IMAGES)
    before = [each.detach().clone() for each in model.parameters()]
    with pytest.raises(CamkitError, match=messages[bad]) as error:
        cascaded(model)
    assert "\n" not in str(error.value)
    assert all(map(torch.equal, before, model.parameters()))


def test_frozen_half_precision_and_inference_mode() -> None:
    model = seeded(SmallCNN()).requires_grad_(False).bfloat16()
    before = bits_of(model)
    with torch.inference_mode():
        steps = layer_groups(model, IMAGES)
        with randomising(model) as randomised:
            for group in steps:
                randomised.randomise(group)
            assert bits_of(model) != before
    assert len(steps) == 5
    assert bits_of(model) == before


def bits_of(model: nn.Module) -> list[list[float]]:
    return [each.detach().float().flatten().tolist() for each in model.state_dict().values()]


def test_wrapped_models_are_unwrapped() -> None:
    inner = seeded(SmallCNN())
    assert layer_groups(nn.DataParallel(inner), IMAGES)[0].name == "head"
    with randomising(nn.DataParallel(inner)) as randomised:
        before = inner.head.weight.detach().clone()
        randomised.randomise(layer_groups(inner, IMAGES)[0])
        assert not torch.equal(inner.head.weight, before)
    assert torch.equal(inner.head.weight, before)
    with pytest.raises(UsageError, match="the model must be a torch.nn.Module, got NoneType"):
        layer_groups(None, IMAGES)
