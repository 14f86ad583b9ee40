"""Where in a file the network's tensors are, and which of several."""

from __future__ import annotations

import argparse
from typing import Any

import pytest
import torch
from torch import nn

from camkit.errors import CheckpointError, UsageError
from camkit.models.state_dicts import about_itself, find_state_dict
from tests.helpers.refusals import refusal


def state(value: float) -> dict[str, Any]:
    return {"fc.weight": torch.full((2, 3), value), "fc.bias": torch.full((2,), value)}


def value_of(content: object, **how: Any) -> float:
    return float(find_state_dict(content, "x.pth", **how).tensors["fc.bias"][0])


OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(3), "step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]}


@pytest.mark.parametrize(
    "name",
    [
        "state_dict",
        "model",
        "model_state_dict",
        "net",
        "weights",
        "module",
        "state_dict_ema",
        "model_ema",
        "my_network",
    ],
)
def test_entries(name: str) -> None:
    assert value_of({name: state(3), "optimizer": OPTIMIZER, "epoch": 3}) == 3
    assert value_of({"epoch": 3, "checkpoint": {name: state(3), "optimizer": OPTIMIZER}}) == 3  # nested


def test_modules_and_averaged_models() -> None:
    net = nn.Sequential()
    net.fc = nn.Linear(3, 2)  # type: ignore[assignment]
    averaged = torch.optim.swa_utils.AveragedModel(net)
    assert "n_averaged" in find_state_dict(averaged.state_dict(), "x.pth").tensors
    assert "module.fc.bias" in find_state_dict({"model": net, "model_ema": averaged}, "x.pth").tensors


@pytest.mark.parametrize(
    ("content", "taken", "note"),
    [
        ({"state_dict": 1, "state_dict_ema": 2}, 2, "EMA weights (state_dict_ema); --weights live takes the live ones"),
        ({"model": 1, "model_ema": 2}, 2, "EMA weights (model_ema); --weights live takes the live ones (model)"),
        ({"state_dict": 1, "ema": 2}, 1, "live weights (state_dict); --weights ema takes the EMA ones (ema)"),
        ({"model_ema": 2}, 2, "EMA weights (model_ema), the only ones in the file"),
        ({"state_dict": 1}, 1, None),
        ({"state_dict_ema": None, "state_dict": 1}, 1, None),
    ],
)
def test_averaged_weights_as_timm_takes_them(content: dict[str, Any], taken: int, note: str | None) -> None:
    whole = {key: value and state(value) for key, value in content.items()}
    found = find_state_dict(whole, "x.pth")
    assert found.tensors["fc.bias"][0] == taken
    assert (found.note or "").startswith(note or "")
    assert bool(found.note) == bool(note)


def test_live_or_averaged_as_asked() -> None:
    both = {"model": state(1), "model_ema": state(2)}
    assert value_of(both, weights="live") == 1
    assert value_of(both, weights="ema") == 2
    assert value_of(both, weights="model") == 1
    message = refusal(find_state_dict, UsageError, {"model": state(1)}, "x.pth", weights="ema")
    assert message == "x.pth holds no EMA weights for --weights ema; it has model (live)"
    message = refusal(find_state_dict, UsageError, {"model_ema": state(1)}, "x.pth", weights="live")
    assert message == "x.pth holds no live weights for --weights live; it has model_ema (EMA)"
    assert "holds no teacher weights" in refusal(find_state_dict, UsageError, both, "x.pth", weights="teacher")


@pytest.mark.parametrize(
    ("content", "taken"),
    [
        ({"model": state(1), "model_ema": {"module": state(2), "decay": 0.99}}, 2),
        ({"state_dict": state(1), "state_dict_ema": {"state_dict": state(2), "updates": 3}}, 2),
        ({"model": state(1), "model_ema": {"shadow": state(2)}}, 2),
        ({"run": {"model": state(1), "model_ema": {"module": state(2)}}}, 2),
        ({"model": {"module": state(1)}, "model_ema": {"module": state(2)}}, 2),
        ({"model": state(1), "ema": {"state_dict": state(2)}}, 1),  # as without the entry in it
        ({"model": state(1), "discriminator": {"state_dict": state(2)}}, 1),
    ],
)
def test_entries_in_entries_rank_as_the_outer_ones(content: dict[str, Any], taken: int) -> None:
    for ordered in (content, dict(reversed(content.items()))):
        assert value_of(ordered) == taken
    if "discriminator" not in content:
        assert value_of(content, weights="ema") == 2
        assert value_of(content, weights="live") == 1


def test_the_name_of_an_outer_entry() -> None:
    content = {"student": {"model": state(1)}, "teacher": {"model": state(2)}}
    message = refusal(find_state_dict, CheckpointError, content, "x.pth")
    assert "student.model (live), teacher.model (live); say which with --weights student.model" in message
    assert value_of(content, weights="teacher") == value_of(content, weights="teacher.model") == 2
    inside = {"model": {"student": state(1), "teacher": state(2)}}
    assert "several state dicts" in refusal(find_state_dict, CheckpointError, inside, "x.pth")


def test_the_entry_that_a_framework_takes_first() -> None:
    both = {"state_dict": state(1), "state_dict_ema": state(2)}
    assert value_of(both, first=("state_dict",)) == 1


def test_mmengine_saves_averaged_weights_as_the_state_dict() -> None:
    content = {"state_dict": state(2), "ema_state_dict": state(1), "message_hub": {}, "meta": {}}
    assert value_of(content) == 2
    assert value_of(content, weights="ema") == 2
    assert value_of(content, weights="live") == 1


def test_several_networks_are_not_guessed_among() -> None:
    dino = {"student": state(1), "teacher": state(2), "epoch": 3}
    message = refusal(find_state_dict, CheckpointError, dino, "x.pth")
    assert (
        message == "x.pth holds several state dicts: student (live), teacher (live); say which with --weights student"
    )
    assert value_of(dino, weights="teacher") == 2


@pytest.mark.parametrize("content", [[1], torch.ones(2), {"epoch": 3}, {"a": {"b": {"c": {"d": state(1)}}}}, {}, None])
def test_no_state_dict(content: object) -> None:
    assert "x.pth holds no state dict" in refusal(find_state_dict, CheckpointError, content, "x.pth")


def test_what_a_file_says_of_itself() -> None:
    assert about_itself({"args": argparse.Namespace(mean=[0.5])}, "args") == {"mean": [0.5]}
    assert about_itself({"args": {"mean": 1}}, "args") == {"mean": 1}
    assert about_itself({"args": "x"}, "args") == about_itself([1], "args") == {}
