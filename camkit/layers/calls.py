"""Layers that run several times in a forward: which of the calls a bare name means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from camkit.engine.forward import Forward
from camkit.engine.hooks import Capture, changing, parse_name
from camkit.engine.network import Calls
from camkit.engine.record import record
from camkit.engine.tensors import floats
from camkit.errors import ForwardError
from camkit.layers.layout_finder import LayoutFinder
from camkit.layers.survey import noise_like
from camkit.typing import Images


def settle_calls(forward: Forward, finder: LayoutFinder) -> bool:
    """Find out which call each layer's name means, and remember it for the model.

    Args:
        forward: its model is borrowed.
        finder: of the forward's layouts.

    Returns:
        Whether a name means another call than the one that the forward has, so that it must run again.
    """
    with forward.network.borrowed() as cache:
        unknown = []
        for name, count in forward.counts.items():
            known: Calls | None = cache.find(("calls", name, forward.network.arguments))
            if parse_name(name).call is None and count != (known.runs if known else 1):
                unknown.append(name)
        for name in unknown:
            cache.keep(("calls", name, forward.network.arguments), _find(forward, finder, name))
    return bool(unknown)


def other_calls(forward: Forward) -> dict[str, tuple[str, ...]]:
    """Layer to the names of the calls that could have been meant in place of the one shown."""
    found = {}
    with forward.network.borrowed() as cache:
        for name in forward.layers:
            calls: Calls | None = cache.find(("calls", name, forward.network.arguments))
            if calls and calls.others:
                found[name] = tuple(f"{name}@{number}" for number in calls.others)
    return found


def _find(forward: Forward, finder: LayoutFinder, name: str) -> Calls:
    """The last call that depends on the images and keeps their places.

    Calls that make a chain, each seeing what the one before it returned, are steps of one computation: the last one
    counts. Otherwise they look at different things (another image, a mirrored one, another resolution).
    """
    module, count = forward.layers[name], forward.counts[name]
    images = forward.images.detach()
    call = forward.call
    seen = _outputs(module, count, images, call)
    try:
        depending = _different(seen, _outputs(module, count, noise_like(images), call))
    except ForwardError:  # the network takes no noise
        depending = list(range(count))
    if len(depending) < 2:
        return Calls(count, depending[0] if depending else count - 1)
    with changing(module, depending[0], lambda leaf: leaf + noise_like(leaf)):
        behind = _different(seen, _outputs(module, count, images, call))
    if set(depending) <= set(behind):
        return Calls(count, depending[-1])
    names = {f"{name}@{number}": number for number in depending}
    with (
        forward.autocast(),
        record(forward.network, images, dict.fromkeys(names, module), forward.wanted, copies=True) as each,
    ):
        beside = finder.of_forward(each)
        fitting = [one for one in names if beside.keeps_places(one) is not False]
        upright = [one for one in fitting if not any(layout.is_turned for layout in beside.of(one).values())]
        numbers = [names[one] for one in upright or fitting] or depending
    return Calls(count, numbers[-1], tuple(numbers[:-1]))


def _outputs(
    module: nn.Module, count: int, images: Images, call: Callable[[Images], Any]
) -> Mapping[int, list[Tensor]]:
    """Of every call of a module its floating-point tensors."""
    layers = {str(number): module for number in range(count)}
    with torch.no_grad(), Capture(layers, roots=False, calls={name: int(name) for name in layers}) as capture:
        call(images.clone())
    return {int(name): floats(output) for name, output in capture.outputs.items()}


def _different(first: Mapping[int, list[Tensor]], second: Mapping[int, list[Tensor]]) -> list[int]:
    """The calls whose outputs differ."""

    def differ(number: int) -> bool:
        pairs = first[number], second.get(number, [])
        return len(pairs[0]) != len(pairs[1]) or not all(map(torch.equal, *pairs))

    return sorted(filter(differ, first))
