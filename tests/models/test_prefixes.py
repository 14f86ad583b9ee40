"""Prefixes are stripped where the model's names are found behind them, in any nesting."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from camkit.errors import CheckpointError
from camkit.models.prefixes import Fitted, fitting, shapes_of, strip_prefix
from tests.helpers.refusals import refusal

NET = {"conv.weight": torch.ones(4, 3), "conv.bias": torch.ones(4), "fc.weight": torch.ones(2, 4)}
OWN = shapes_of(NET)


def behind(prefix: str, scale: float = 1) -> dict[str, Tensor]:
    return {prefix + name: tensor * scale for name, tensor in NET.items()}


@pytest.mark.parametrize(
    "prefix",
    ["model.", "net.", "backbone.", "module.", "_orig_mod.", "module.model.", "model._orig_mod.net.", "own_name.a.b."],
)
def test_any_nesting(prefix: str) -> None:
    others = {"criterion.weight": torch.ones(1), "n_averaged": torch.tensor(3)}
    stripped, note = strip_prefix(behind(prefix) | others, OWN, "x.pth")
    assert stripped.keys() == NET.keys() | {"criterion.weight"}
    assert note == f"names without their prefix '{prefix}'"


def test_nothing_to_strip() -> None:
    copy = {f"teacher.{name}": tensor * 2 for name, tensor in NET.items()}
    stripped, note = strip_prefix(NET | copy, OWN, "x.pth")
    assert note is None
    assert stripped["fc.weight"][0, 0] == 1


def test_a_head_of_another_size_leaves_the_prefix() -> None:
    state = behind("module.") | {"module.fc.weight": torch.ones(9, 4)}
    assert strip_prefix(state, OWN, "x.pth")[0].keys() == NET.keys()


def test_a_wrapper_before_another_network() -> None:
    stripped, _ = strip_prefix(behind("model.", 1) | behind("teacher.", 2), OWN, "x.pth")
    assert stripped["fc.weight"][0, 0] == 1


def test_averaged_copies_under_a_prefix_of_their_own() -> None:
    state = behind("model.", 1) | behind("ema_model.module.", 2)
    stripped, note = strip_prefix(state, OWN, "x.pth")
    assert stripped["fc.weight"][0, 0] == 2
    assert note is not None
    assert "beside model.; --weights chooses" in note
    assert strip_prefix(state, OWN, "x.pth", weights="live")[0]["fc.weight"][0, 0] == 1
    assert strip_prefix(state, OWN, "x.pth", weights="ema")[0]["fc.weight"][0, 0] == 2


def test_two_networks_that_fit_are_not_guessed_among() -> None:
    state = behind("student.", 1) | behind("teacher.", 2)
    message = refusal(strip_prefix, CheckpointError, state, OWN, "x.pth")
    assert "several networks that fit, under student., teacher.; say which with --weights student" in message
    assert strip_prefix(state, OWN, "x.pth", weights="teacher")[0]["fc.weight"][0, 0] == 2
    assert strip_prefix(behind("a.") | behind("b."), OWN, "x.pth")[1]  # the same twice: either will do


def test_one_name_behind_a_prefix_is_none() -> None:
    state = {f"x.{name}" if name == "fc.weight" else name: tensor for name, tensor in NET.items()}
    assert strip_prefix(state, OWN, "x.pth") == (state, None)


def test_a_trunk_behind_a_prefix_and_a_head_beside_it() -> None:
    state = {name if name == "fc.weight" else f"backbone.{name}": tensor for name, tensor in NET.items()}
    assert strip_prefix(state, OWN, "x.pth")[0].keys() == NET.keys()


def test_a_teacher_that_fits_nearly_as_well_is_no_better() -> None:
    """Of other classes, or without a classifier: which one it is doesn't follow from the count of tensors."""

    def fit(tensors: dict[str, Tensor]) -> Fitted:
        return fitting(tensors, OWN, 2)

    state = behind("model.", 1) | behind("teacher.", 2) | {"model.fc.weight": torch.ones(9, 4)}
    message = refusal(strip_prefix, CheckpointError, state, OWN, "x.pth", fit=fit)
    assert "under model., teacher.; say which with --weights model" in message
    for weights, value in (("model", 1), ("teacher", 2)):
        stripped, _ = strip_prefix(state, OWN, "x.pth", weights=weights, fit=fit)
        assert stripped["conv.weight"][0, 0] == value
    wide = {f"conv{number}.weight": torch.ones(4, 3) for number in range(12)} | NET
    names = shapes_of(wide)
    several = {f"{begin}.{name}": each * 2 for begin in ("one", "two") for name, each in wide.items()}
    several |= {f"one.{name}": each for name, each in wide.items()}
    del several["one.fc.weight"]
    assert "under two., one." in refusal(strip_prefix, CheckpointError, several, names, "x.pth")


def test_a_prefix_that_was_asked_for_is_taken_though_another_fits_better() -> None:
    state = behind("one.", 1) | behind("two.", 2)
    del state["one.fc.weight"]
    assert strip_prefix(state, OWN, "x.pth", weights="one")[0]["conv.weight"][0, 0] == 1


INNER = ["_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_forward_module", "module"]


@pytest.mark.parametrize("part", INNER)
@pytest.mark.parametrize("prefix", ["", "lit."])
def test_wrappers_of_a_network_s_own_modules(part: str, prefix: str) -> None:
    blocks = {f"layer1.{number}.conv.weight": torch.ones(4, 3) for number in range(4)} | {"fc.weight": torch.ones(2, 4)}
    for place in ("layer1.", "layer1.0."):
        state = {prefix + name.replace(place, f"{place}{part}."): tensor for name, tensor in blocks.items()}
        stripped, note = strip_prefix(state, shapes_of(blocks), "x.pth")
        assert stripped.keys() == blocks.keys()
        assert note is not None
        assert f"without the parts {part} in them" in note
        assert (f"prefix '{prefix}'" in note) == bool(prefix)


def test_wrappers_that_the_model_has_itself_stay() -> None:
    blocks = {"layer1.module.weight": torch.ones(4, 3), "layer2._orig_mod.weight": torch.ones(4, 3)}
    assert strip_prefix(blocks, shapes_of(blocks), "x.pth") == (blocks, None)
    mixed = {"a.module.weight": torch.ones(4), "a.module.bias": torch.ones(4), "b._orig_mod.weight": torch.ones(4)}
    own = {"a.module.weight": (4,), "a.module.bias": (4,), "b.weight": (4,)}
    assert strip_prefix(mixed, own, "x.pth")[0].keys() == own.keys()


def test_a_name_with_a_wrapper_gives_way_to_the_plain_one() -> None:
    state = {"conv._orig_mod.weight": torch.ones(4, 3), "fc._orig_mod.weight": torch.ones(2, 4) * 2} | NET
    del state["conv.weight"]
    stripped, _ = strip_prefix(state, OWN, "x.pth")
    assert stripped.keys() == NET.keys() | {"fc._orig_mod.weight"}
    assert stripped["fc.weight"][0, 0] == 1
