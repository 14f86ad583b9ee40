"""Checkpoints loaded into models: what fits, what doesn't, and with how many classes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camkit.errors import CheckpointError, UsageError
from camkit.models.checkpoint import Checkpoint
from camkit.models.completeness import Builder
from camkit.models.settings import Reading
from camkit.models.weights import LoadReport, build_for, load_into, other_class_count
from tests.helpers.refusals import refusal


class Net(nn.Module):
    def __init__(self, num_classes: int = 5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.head(self.norm(self.conv(images)).mean((2, 3)))
        return scores


public_hooks = pytest.mark.skipif(
    not hasattr(nn.Module, "register_load_state_dict_pre_hook"), reason="torch before 2.5 has no such hooks"
)


class Renamed(nn.Module):
    """Expects names without ``model.``, as MMPretrain's TimmClassifier does."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Net()
        self.register_load_state_dict_pre_hook(self._rename)  # type: ignore[no-untyped-call]

    @staticmethod
    def _rename(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: object) -> None:
        for key in list(state_dict):
            state_dict[f"{prefix}model.{key}"] = state_dict.pop(key)


def checkpoint(state_dict: dict[str, Tensor]) -> Checkpoint:
    return Checkpoint(state_dict, {}, "some.pth", "0" * 64)


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    torch.testing.assert_close(dict(first), dict(second), rtol=0, atol=0)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


def test_all_of_it(net: Net) -> None:
    other = Net()
    report = load_into(other, checkpoint(net.state_dict()))
    assert report == LoadReport(loaded=8)
    assert report.warning is None
    same(other.state_dict(), net.state_dict())
    assert not other._load_state_dict_post_hooks


def test_num_batches_tracked_counts_for_nothing(net: Net) -> None:
    state = net.state_dict()
    del state["norm.num_batches_tracked"]
    assert load_into(Net(), checkpoint(state)).warning is None


def test_part_of_it(net: Net) -> None:
    """One of each kind; what fits is loaded all the same."""
    state = dict(Net(7).state_dict())
    del state["norm.weight"]
    state["neck.weight"] = torch.ones(1)
    kept = net.head.weight.detach().clone()
    report = load_into(net, checkpoint(state), Reading(allow_partial=True, seed=3))
    assert report.missing == ("norm.weight",)
    assert report.unexpected == ("neck.weight",)
    assert report.mismatched == ("head.weight", "head.bias")
    assert report.loaded == 5
    torch.testing.assert_close(net.conv.weight.detach(), state["conv.weight"], rtol=0, atol=0)
    torch.testing.assert_close(net.head.weight.detach(), kept, rtol=0, atol=0)
    assert report.warning is not None
    assert "5 of the model's 8" in report.warning
    for name in ("1 missing", "norm.weight", "2 of another shape", "head.bias", "1 unknown", "neck.weight"):
        assert name in report.warning
    assert "\n" not in report.warning
    assert "random, drawn with --seed 3" in report.warning


@public_hooks
def test_hooks_that_rename(net: Net) -> None:
    model = Renamed()
    assert load_into(model, checkpoint(net.state_dict())).warning is None
    same(model.model.state_dict(), net.state_dict())
    message = refusal(load_into, CheckpointError, Renamed(), checkpoint(Net(7).state_dict()))
    assert "model.head.weight is (7, 4) in the file and (5, 4) in the model" in message


@public_hooks
def test_quantised_weights_under_names_that_hooks_change(net: Net) -> None:
    state = dict(net.state_dict()) | {"head.weight": torch.ones(5, 4, dtype=torch.int8)}
    message = refusal(load_into, CheckpointError, Renamed(), checkpoint(state))
    assert "holds head.weight as torch.int8: its weights are quantised" in message


def test_integers_that_the_model_does_not_take(net: Net) -> None:
    extras = {"table": torch.ones(3, 4, dtype=torch.int64), "norm.num_batches_tracked": torch.tensor(3)}
    assert load_into(Net(), checkpoint(dict(net.state_dict()) | extras)).unexpected == ("table",)


@pytest.mark.parametrize(
    "state", [{"backbone.stem.weight": torch.ones(4, 3, 3, 3)}, {"conv.weight": torch.ones(1)}], ids=["names", "shapes"]
)
def test_none_of_it(net: Net, state: dict[str, Tensor]) -> None:
    message = refusal(load_into, CheckpointError, net, checkpoint(state))
    assert "fits none of the model's 6 parameters" in message
    assert next(iter(state)) in message
    assert "norm.weight" in message


@public_hooks
def test_a_hook_that_gives_up_is_heard(net: Net) -> None:
    def hook(*_: object) -> None:
        raise AssertionError("pos_embed has\nthe wrong length")

    net.register_load_state_dict_pre_hook(hook)  # type: ignore[no-untyped-call]
    assert "pos_embed has" in refusal(load_into, CheckpointError, net, checkpoint(net.state_dict()))
    assert not net._load_state_dict_post_hooks


def build(options: dict[str, Any]) -> Net:
    return Net(**options)


def classes(model: nn.Module) -> int:
    return int(model.head.out_features)  # type: ignore[union-attr]


def as_it_is(model: nn.Module, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    return state_dict


def test_the_number_of_classes_is_the_checkpoints() -> None:
    trained = Net(7)
    model, report = build_for(checkpoint(trained.state_dict()), Builder(build, {}), classes, as_it_is)
    assert report == LoadReport(loaded=8)
    same(model.state_dict(), trained.state_dict())


@pytest.mark.parametrize("asked", [5, 7])
def test_a_number_of_classes_that_was_asked_for(asked: int) -> None:
    given = (checkpoint(Net(7).state_dict()), Builder(build, {"num_classes": asked}), classes, as_it_is)
    if asked == 7:
        assert build_for(*given)[1].warning is None
        return
    message = refusal(build_for, UsageError, *given)
    assert message.startswith("--cfg-options num_classes=5 doesn't fit the checkpoint some.pth, which has 7 classes")


def test_tensors_are_renamed_before_they_are_compared() -> None:
    def rename(model: nn.Module, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name.replace("fc.", "head."): tensor for name, tensor in state_dict.items()}

    old = {name.replace("head.", "fc."): tensor for name, tensor in Net(7).state_dict().items()}
    model, report = build_for(checkpoint(old), Builder(build, {}), classes, rename)
    assert report.warning is None
    assert classes(model) == 7


@pytest.mark.parametrize(
    ("shapes", "count"),
    [
        ([((7, 4), (5, 4)), ((7,), (5,))], 7),
        ([((5, 4), (5, 4))], None),  # the same
        ([((7, 3), (5, 4))], None),  # another input too
        ([((7, 4), (6, 4))], None),  # not as many as the model has classes: no classifier
        ([((7, 4), (5, 4)), ((8,), (5,))], None),  # contradictory
        ([((7, 4, 1), (5, 4))], None),
        ([((), ())], None),
    ],
)
def test_the_classifier_is_found_by_its_shapes(shapes: Any, count: int | None) -> None:
    assert other_class_count(Net(), {f"{number}.weight": pair for number, pair in enumerate(shapes)}, 5) == count


def test_auxiliary_classifiers_have_no_say() -> None:
    class WithAuxiliary(Net):
        def __init__(self, num_classes: int = 5) -> None:
            super().__init__(num_classes)
            self.auxiliary = nn.Linear(4, num_classes)

    for classes_of_head, classes_of_auxiliary in ((7, 5), (7, 9), (5, 9)):
        state = WithAuxiliary(classes_of_head).state_dict() | {"auxiliary.weight": torch.ones(classes_of_auxiliary, 4)}
        for options in ({}, {"num_classes": classes_of_head}):
            builder = Builder(lambda options: WithAuxiliary(**options), options)
            model, report = build_for(checkpoint(state), builder, classes, as_it_is)
            assert classes(model) == classes_of_head
            assert set(report.mismatched) <= {"auxiliary.weight"}
