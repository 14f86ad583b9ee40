"""Ways to spoil a checkpoint or a config, each drawn with a generator."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.fuzz.networks import State

PREFIXES = ("module.", "model.", "net.", "backbone.", "_orig_mod.", "model.module.net.", "lit.student_net.", "a.b.c.")
ENTRIES = ("state_dict", "model", "model_state_dict", "net", "weights", "module", "state_dict_ema", "model_ema", "mine")
NAMES = ("", ".", "x\ny", "\x1b[31mred", "fc.1.weight", "ü.weight", "a" * 5000, "model", "..", "weight")
VALUES: tuple[Any, ...] = (None, True, -1, 0, 1, 2, 7, 3.5, "x", "", [], {}, [3, 4], {"a": 1})


class Canary:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def drop(state: State, draw: random.Random) -> Any:
    """Some names are missing, or a half."""
    gone = draw.sample(list(state), draw.choice((1, 1, 2, 3, len(state) // 2)))
    return {name: tensor for name, tensor in state.items() if name not in gone}


def rename(state: State, draw: random.Random) -> Any:
    """A name is another, or two are exchanged."""
    names = list(state)
    first, second = draw.sample(names, 2)
    if draw.random() < 0.4:
        state[first], state[second] = state[second], state[first]
        return state
    new = draw.choice((*NAMES, f"{first}.1", f"x.{first}", first.replace(".", "_"), second.upper()))
    return {new if name == first else name: tensor for name, tensor in state.items()}


def prefix(state: State, draw: random.Random) -> Any:
    """All names, or all but a few, stand behind a prefix."""
    begin = draw.choice(PREFIXES)
    left = draw.sample(list(state), draw.choice((0, 0, 0, 1, 3)))
    return {name if name in left else begin + name: tensor for name, tensor in state.items()}


def reshape(state: State, draw: random.Random) -> Any:
    """A tensor has another shape or type."""
    name = draw.choice(list(state))
    tensor = state[name]
    ways: list[Callable[[], Any]] = [
        lambda: tensor.transpose(0, -1).contiguous() if tensor.ndim else tensor[None],
        tensor.flatten,
        lambda: tensor[None],
        lambda: tensor[:-1] if tensor.ndim else tensor,
        lambda: tensor[:0] if tensor.ndim else tensor,
        lambda: torch.cat([tensor, tensor]) if tensor.ndim else tensor,
        tensor.half,
        tensor.double,
        tensor.bool,
        lambda: tensor.to(torch.int8),
        lambda: tensor.to(torch.complex64),
        lambda: tensor.to_sparse() if tensor.ndim else tensor,
        tensor.tolist,
        lambda: tensor * float("nan"),
        lambda: torch.zeros(1).expand(tensor.shape),
        lambda: torch.empty(tensor.shape, device="meta"),
    ]
    return state | {name: draw.choice(ways)()}


def nest(state: State, draw: random.Random) -> Any:
    """The tensors lie in an entry, beside others."""
    other = {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    content: dict[Any, Any] = {draw.choice(ENTRIES): state}
    if draw.random() < 0.5:
        content[draw.choice(ENTRIES)] = draw.choice((other, None, {}, 3, "x"))
    content |= draw.choice(
        ({}, {"epoch": 3}, {"args": argparse.Namespace(mean=[0.5] * 3)}, {"meta": {"CLASSES": "abc"}}, {7: 8})
    )
    return draw.choice((content, {"checkpoint": content}, [content], (state,), {0: state}, {"run": {"best": content}}))


def extras(state: State, draw: random.Random) -> Any:
    """There are more tensors: a copy, a head, further blocks."""
    begin = draw.choice(
        ("ema.", "teacher.", "aux.0.", "blocks.7.", "layer1.9.", "features.99.", "vit.layers.5.", "backbone.")
    )
    count = draw.choice((1, 3, len(state)))
    return state | {f"{begin}{name}": tensor for name, tensor in list(state.items())[:count]}


CONTENTS = (drop, rename, prefix, reshape, nest, extras)


def spoil_bytes(content: bytes, draw: random.Random) -> bytes:
    """Bytes are flipped, zeroed, cut off or put in; most often in front and at the end, where the structure is."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 5, 20))):
        reach = draw.choice((64, 600, 4000, len(data)))
        place = draw.randrange(min(reach, len(data)))
        place = draw.choice((place, len(data) - 1 - place))
        way = draw.random()
        if way < 0.7:
            data[place] ^= 1 << draw.randrange(8)
        elif way < 0.8:
            data[place : place + 32] = bytes(len(data[place : place + 32]))
        elif way < 0.9:
            data[place:place] = bytes(draw.randrange(256) for _ in range(3))
        elif place > 10:
            del data[place:]
    return bytes(data)


def spoil_settings(text: str, draw: random.Random) -> str:
    """A setting of a JSON config is dropped, renamed, nested or set to something else; or the text is cut."""
    if draw.random() < 0.15:
        return spoil_bytes(text.encode(), draw).decode(errors="replace")
    whole = json.loads(text)
    place: Any = whole
    while True:
        key = draw.choice(list(place)) if isinstance(place, dict) else draw.randrange(len(place))
        if not (isinstance(place[key], dict | list) and place[key] and draw.random() < 0.7):
            break
        place = place[key]
    way = draw.random()
    if way < 0.3:
        del place[key]
    elif way < 0.5 and isinstance(place, dict):
        place[f"{key}s"] = place.pop(key)
    elif way < 0.7:
        place[key] = {"a": place[key]}
    else:
        place[key] = draw.choice(VALUES)
    return json.dumps(whole)
