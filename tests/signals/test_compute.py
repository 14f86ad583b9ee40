"""Signals of one forward: each need is computed once, in an order in which the graph lives no longer than needed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from camkit.errors import UsageError
from camkit.methods import METHODS
from camkit.methods import needs as every
from camkit.methods.needs import (
    AblatedScoresNeed,
    ActivationsNeed,
    AttentionNeed,
    BiasGradientsNeed,
    ConceptsNeed,
    CurvatureNeed,
    GradientsNeed,
    GuidedLayerNeed,
    LinearHeadNeed,
    MaskedScoresNeed,
    Need,
    Recording,
)
from camkit.signals.compute import Signals
from tests.helpers.forwards import feature_maps
from tests.helpers.networks import PlainCNN, SmallCNN, seeded
from tests.helpers.refusals import refusal

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
TARGETS = [[0, 1], [2, 0]]
BY_TYPE: dict[type[Need], Need] = {type(method.need): method.need for method in METHODS.values()}
"""One need of each kind that a method has."""
ON_PLAIN_CNN = [need for kind, need in BY_TYPE.items() if kind is not AttentionNeed]


def computed(needs: list[Need], layers: Any = "relu2", *, check: bool = True) -> list[tuple[Need, Any]]:
    """Needs in the order in which they are computed, each with its first signal."""
    recording = Recording()
    for need in needs:
        recording |= need.records
    found: dict[Need, Any] = {}
    with feature_maps(seeded(PlainCNN()).double(), layers, IMAGES, TARGETS, recording) as features:
        for need, signal in Signals(features, check=check).compute(needs):
            found.setdefault(need, signal)
    return list(found.items())


def test_every_kind_of_need_is_some_methods() -> None:
    kinds = {each for each in vars(every).values() if isinstance(each, type) and issubclass(each, Need)}
    assert set(BY_TYPE) == kinds - {Need}


@pytest.mark.parametrize("need", ON_PLAIN_CNN, ids=lambda need: type(need).__name__)
def test_a_need_is_met_alone_and_beside_all_others(need: Need) -> None:
    alone = computed([need])
    assert [each for each, _ in alone] == [need]
    together = dict(computed(ON_PLAIN_CNN))
    assert list(together[need]) == list(alone[0][1])
    for name, arguments in alone[0][1].items():
        tensors = [(one, other) for one, other in zip(together[need][name], arguments, strict=True)]
        for one, other in tensors:
            if isinstance(other, torch.Tensor | list):
                assert_close(one, other)


def test_equal_needs_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    backwards: list[int] = []
    original = torch.autograd.grad

    def grad(*args: Any, **how: Any) -> Any:
        backwards.append(1)
        return original(*args, **how)

    monkeypatch.setattr(torch.autograd, "grad", grad)
    assert len(computed([GradientsNeed(), GradientsNeed(), METHODS["GradCAM"].need])) == 1
    assert backwards == [1]


def test_needs_of_the_graph_come_first_and_of_these_plain_gradients_last() -> None:
    needs: list[Need] = [ActivationsNeed(), GradientsNeed(), AblatedScoresNeed(), LinearHeadNeed(), CurvatureNeed()]
    order = [need for need, _ in computed(needs)]
    assert order == [LinearHeadNeed(), CurvatureNeed(), GradientsNeed(), ActivationsNeed(), AblatedScoresNeed()]


def test_the_graph_is_free_after_the_last_backward() -> None:
    with feature_maps(seeded(SmallCNN()), "conv2", IMAGES, 1) as features:
        list(Signals(features, check=True).compute([GradientsNeed(), ActivationsNeed()]))
        with pytest.raises(RuntimeError, match="second time"):
            next(features.gradients())


def test_guided_gradients_are_shared_by_groups_of_targets() -> None:
    """Of each group of targets, those that belong to it."""
    with feature_maps(seeded(SmallCNN()), "conv2", IMAGES, [[0, 1, 2], [3, 4, 0]]) as features:
        runs: list[int] = []
        features.forward.network.model.register_forward_hook(lambda *_: runs.append(1))
        signals = [signal["conv2"] for _, signal in Signals(features, check=True).compute([GuidedLayerNeed()])]
    assert runs == [1]
    assert sum(len(gradients) for _, gradients, _, _ in signals) == 3
    assert all(len(gradients) == len(guided) for _, gradients, _, guided in signals)


def test_terms_of_biases_come_with_the_size_of_the_images() -> None:
    ((_, signal),) = computed([BiasGradientsNeed()], [])
    terms, size = signal["input"]
    assert size == (16, 16)
    assert terms[0].shape == (1, 2, 3, 16, 16)


def test_layers_have_scores_of_their_own() -> None:
    ((_, signal),) = computed([MaskedScoresNeed()], ["conv1", "relu2"])
    assert list(signal) == ["conv1", "relu2"]
    assert signal["conv1"][1] is signal["relu2"][1]  # images are masked alike, whichever layer makes the masks


def test_concepts_are_those_of_one_layer() -> None:
    message = refusal(computed, UsageError, [ConceptsNeed()], ["conv1", "relu2"])
    assert message == "DFF finds concepts in one layer, and got several: 'conv1', 'relu2'"
