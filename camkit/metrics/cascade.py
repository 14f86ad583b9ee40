"""Randomise a network from the output on, group of layers by group of layers, and put it back bit by bit."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from camkit.engine.hooks import watching
from camkit.engine.network import Network
from camkit.errors import CamkitError, UsageError, reason
from camkit.metrics.perturbations import seed_of
from camkit.typing import Images

FEWEST = 3
"""A grouping is too coarse that has fewer than one in so many of the groups allowed."""
SPREAD, SMALLEST = 0.1, 0.02
"""Deviation of what is drawn for a tensor of one value: as a share of that, and where it is 0."""


class Group(NamedTuple):
    """Layers that are randomised together.

    Attributes:
        name: the module that holds them, ``"layer4"``; of several ``"fc, layer4.2"``.
        layers: module by name, those with parameters of their own.
    """

    name: str
    layers: Mapping[str, nn.Module]


class Randomised:
    """A network whose layers are being randomised; see :func:`randomising`."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._done: set[tuple[object, ...]] = set()

    def randomise(self, group: Group) -> None:
        """Give the layers of a group other parameters. Those shared with a group before stay as that left them.

        Raises:
            CamkitError: a layer's own ``reset_parameters`` fails.
        """
        for name, layer in group.layers.items():
            fresh = _reset(name, layer, seed_of(name.encode(), self._seed))
            for key, tensor in _own(layer):
                made = fresh.get(key)
                if isinstance(tensor, nn.Parameter):
                    place = _place(tensor)
                    if place in self._done:
                        continue
                    self._done.add(place)
                    if made is None or torch.equal(made, tensor.detach().cpu()):
                        made = _drawn(f"{name}.{key}" if name else key, tensor, self._seed)
                if made is not None:
                    tensor.data.copy_(made)


@contextmanager
def randomising(model: nn.Module, seed: int = 0) -> Iterator[Randomised]:
    """A context in which a network's layers can be randomised; afterwards it is bit for bit what it was.

    Also after an error, or an interrupt. Parameters keep their identity, flags and gradients, and random states their
    course. Other threads that explain the network wait. What is found out about it inside is forgotten, and default
    target layers stay those that were chosen before.

    A layer is given what its own ``reset_parameters`` (or ``_reset_parameters``) makes on the CPU, buffers such as
    running statistics included. Every parameter that this leaves as it was, and those of layers without it (position
    embeddings, class tokens, scales), are drawn from a normal distribution with their own mean and standard deviation;
    where all values are the same, with a tenth of that as deviation, or .02 where it is 0. Each layer is drawn from a
    seed of its own, made of ``seed`` and the layer's name, so that neither the grouping nor the device changes what is
    drawn.

    Args:
        model: the network.
        seed: from 0 on.

    Yields:
        What randomises groups of layers.

    Raises:
        UsageError: parameters made under inference mode.

    Example:
        >>> from camkit.metrics.cascade import layer_groups, randomising
        >>> cam = camkit.EigenCAM(model, ["features"])
        >>> with randomising(model, seed=1) as randomised:
        ...     for group in layer_groups(model, images):
        ...         randomised.randomise(group)
        ...         maps = cam.explain(images).maps
    """
    network = Network(model)
    with network.borrowed() as cache, cache.altered():
        kept = [(tensor, tensor.detach().clone()) for tensor in _tensors(network.model)]
        try:
            yield Randomised(seed)
        finally:
            _put_back(kept)


def layer_groups(model: nn.Module | Network, images: Images, most: int = 16) -> list[Group]:
    """A network's layers with parameters in groups, from the output to the input.

    A group is what a module at one depth of the module tree holds: the greatest depth that makes at most ``most``
    groups. Where that makes fewer than a third as many, neighbours of the next depth are put together. The order is
    that in which the network enters the modules, backwards; parameters outside layers come with the module that
    holds them, after all that it holds.

    Args:
        model: the network; a :class:`camkit.engine.network.Network` where its forward takes other arguments, too.
        images: (B, C, H, W), to see the order of layers; the first one alone is shown where the network allows that.
        most: how many groups there are at most.

    Raises:
        UsageError: there are no parameters, or some that are no floating-point numbers.
    """
    network = model if isinstance(model, Network) else Network(model)
    modules = network.model.named_modules()
    layers = {name: each for name, each in modules if any(True for _ in each.parameters(recurse=False))}
    _require_floats(network.model)
    when = _entered(network, images)
    depths = range(1, 1 + max(name.count(".") + 1 for name in layers))
    groupings = [_grouped(layers, when, depth) for depth in depths]
    fitting = [each for each in groupings if len(each) <= most]
    if fitting and (len(fitting[-1]) * FEWEST >= most or len(fitting) == len(groupings)):
        return fitting[-1]
    return _together(groupings[len(fitting)], most)


def _grouped(layers: Mapping[str, nn.Module], when: Mapping[str, int], depth: int) -> list[Group]:
    """Layers by the module that holds them at a depth, the last one to run first."""
    found: dict[str, dict[str, nn.Module]] = {}
    for name in sorted(layers, key=lambda name: when[name], reverse=True):
        found.setdefault(".".join(name.split(".")[:depth]), {})[name] = layers[name]
    return [Group(holder or "(model)", members) for holder, members in found.items()]


def _together(groups: Sequence[Group], most: int) -> list[Group]:
    """Neighbours together, so that there are ``most``, of as equal a number as can be."""
    edges = [round(number * len(groups) / most) for number in range(most + 1)]
    made = []
    for start, stop in pairwise(edges):
        part = groups[start:stop]
        layers = {name: layer for group in part for name, layer in group.layers.items()}
        made.append(Group(", ".join(group.name for group in part), layers))
    return made


def _entered(network: Network, images: Images) -> dict[str, int]:
    """When a network enters each module, by its name; one that doesn't run has the time of what holds it."""
    order: dict[int, int] = {}

    def enter(module: nn.Module) -> None:
        order.setdefault(id(module), len(order))

    with network.borrowed(), torch.no_grad(), watching(network.model, lambda *_: None, enter):
        shown = images if network.takes_whole_batches else images[:1]
        network.call(network.prepare(shown).clone())  # some networks write to their input
    found: dict[str, int] = {"": 0}
    for name, module in network.model.named_modules():
        if name:
            found[name] = order.get(id(module), found[name.rpartition(".")[0]])
    return found


def _reset(name: str, layer: nn.Module, seed: int) -> dict[str, Tensor]:
    """What a layer's own reset makes of a copy of it on the CPU, by the tensor's name; nothing where it has none."""
    key = next((each for each in _RESETS if _needs_nothing(getattr(layer, each, None))), None)
    if key is None:
        return {}
    try:
        twin = _twin(layer)
    except RuntimeError:  # parametrised layers can't be copied; theirs is a parameter of another module anyway
        return {}
    torch.default_generator.manual_seed(seed)
    try:
        with torch.no_grad():
            getattr(twin, key)()
    except Exception as error:
        raise CamkitError(f"{type(layer).__name__}.{key} of layer {name!r} fails: {reason(error)}") from error
    return {key: tensor.detach() for key, tensor in _own(twin)}


def _twin(layer: nn.Module) -> nn.Module:
    """A copy of a layer on the CPU that shares nothing with it that a reset writes to.

    Not all the way down: layers may hold what can't be copied, such as locks.
    """
    twin = copy.copy(layer)
    held = vars(twin)
    for key, value in held.items():
        if isinstance(value, Tensor):
            held[key] = value.detach().cpu().clone()
        elif isinstance(value, list | dict | set):
            held[key] = copy.copy(value)
    held["_modules"] = copy.deepcopy(layer._modules)
    for kind in ("_parameters", "_buffers"):
        for key, tensor in held[kind].items():
            if tensor is not None:
                made = tensor.detach().cpu().clone()
                is_parameter = isinstance(tensor, nn.Parameter)
                held[kind][key] = nn.Parameter(made, requires_grad=False) if is_parameter else made
    return twin


_RESETS = ("reset_parameters", "_reset_parameters")
"""What layers call it that draws their parameters anew; the second is torch's attention."""


def _needs_nothing(function: object) -> bool:
    """Whether something is a function that can be called without arguments."""
    if not callable(function):
        return False
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return all(each.default is not each.empty or each.kind in kinds for each in parameters)


def _drawn(name: str, tensor: Tensor, seed: int) -> Tensor:
    """Normal numbers with a tensor's own mean and standard deviation."""
    own = tensor.detach().cpu()
    own = torch.view_as_real(own) if own.is_complex() else own
    values = own.double()
    mean = float(values.mean())
    if bool((values == values.flatten()[0]).all()):
        std = SPREAD * abs(mean) or SMALLEST
    else:
        std = float(values.std(correction=0))
    generator = torch.Generator().manual_seed(seed_of(name.encode(), seed))
    made = mean + std * torch.randn(values.shape, generator=generator, dtype=torch.float64)
    return (torch.view_as_complex(made) if tensor.is_complex() else made).to(tensor.dtype)


def _own(layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """A layer's own parameters and buffers that hold something, by name."""
    for key, tensor in [*layer._parameters.items(), *layer._buffers.items()]:
        if tensor is not None and tensor.numel() and not tensor.is_inference():
            yield key, tensor


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    """All parameters and buffers of a network, each one once."""
    found = {id(tensor): tensor for module in model.modules() for _, tensor in _own(module)}
    yield from found.values()


def _require_floats(model: nn.Module) -> None:
    """Refuse a network with weights that are no floating-point numbers, or without any."""
    kinds = {f"{name}._packed_params": "packed integers" for name, each in model.named_modules() if _is_packed(each)}
    parameters = dict(model.named_parameters())
    for name, tensor in parameters.items():
        wrapper: Any = tensor
        if is_traceable_wrapper_subclass(wrapper):  # such as torchao's quantised weights
            kinds[name] = type(tensor).__name__
        elif not (tensor.is_floating_point() or tensor.is_complex()):
            kinds[name] = str(tensor.dtype)
    for name, kind in kinds.items():
        raise UsageError(f"{name} holds {kind}: quantised weights can't be randomised; load them in floating point")
    if not parameters:
        raise UsageError("the network has no parameters: there is nothing to randomise")


def _is_packed(module: nn.Module) -> bool:
    """Whether a layer is one of torch's quantised ones, which hold no parameters."""
    return hasattr(module, "_packed_params")


def _put_back(kept: list[tuple[Tensor, Tensor]]) -> None:
    """Put all tensors back; an interrupt waits until that is done."""
    interrupt = None
    while kept:
        try:
            tensor, value = kept[-1]
            tensor.data.copy_(value)
            kept.pop()
        except KeyboardInterrupt as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt


def _place(tensor: Tensor) -> tuple[object, ...]:
    """What tells a parameter's memory from others': tied ones share it."""
    return (tensor.device, tensor.untyped_storage().data_ptr(), tensor.storage_offset(), *tensor.shape)
