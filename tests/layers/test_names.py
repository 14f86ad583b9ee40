"""Names to modules, and which modules are norms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from camkit import CAM
from camkit.engine.hooks import parse_name
from camkit.errors import LayerError, UsageError
from camkit.layers.names import (
    backbone_modules,
    declared_extra_tokens,
    find_layers,
    is_norm,
    layer_names,
)
from tests.helpers.networks import LayerNorm2d, LinearBatchNorm, PreNorm, SmallCNN, SmallViT, seeded
from tests.helpers.refusals import refusal

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_names_and_modules_are_the_same_layer() -> None:
    model = seeded(SmallCNN())
    assert find_layers(model, ["norm1", model.conv2]) == {"norm1": model.norm1, "conv2": model.conv2}
    assert find_layers(model, "relu") == find_layers(model, model.relu)
    assert layer_names(model) == ["conv1", "norm1", "conv2", "norm2", "relu", "dropout", "head"]


def test_a_shared_module_answers_to_all_its_names() -> None:
    model = seeded(SmallCNN())
    model.alias = model.norm1
    assert list(CAM(model, target_layers="alias").target_layers(IMAGES)) == ["alias"]


def test_a_branch_is_named_behind_its_layer() -> None:
    assert parse_name("blocks.3[1]") == ("blocks.3", None, 1)
    assert parse_name("blocks.3@2[1]") == ("blocks.3", 2, 1)
    assert parse_name("blocks.3") == ("blocks.3", None, None)
    model = seeded(SmallCNN())
    assert find_layers(model, ["conv1[0]", "conv1"]) == {"conv1[0]": model.conv1, "conv1": model.conv1}


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            "norm3",
            r"no layer 'norm3'; closest: norm\d, norm\d; top-level layers: conv1, .*list all with: camkit layers",
        ),
        (["norm1", "norm1"], "target layer 'norm1' is given twice"),
        ([], "no target layer given"),
        ([nn.ReLU()], "the ReLU given as target layer is not a submodule of the model"),
        (5, "target layers are dotted names or modules, got int"),
        ([3], "a target layer is a dotted name or a module of the model, got int"),
    ],
)
def test_layers_that_arent_there(layers: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CAM(SmallCNN(), target_layers=layers)


def test_a_compiled_or_parallel_model_keeps_its_own_names() -> None:
    model = seeded(SmallCNN())
    for wrapped in (nn.DataParallel(model), torch.compile(model)):
        assert list(CAM(wrapped, target_layers="norm1").target_layers(IMAGES)) == ["norm1"]
    assert find_layers(model, nn.DataParallel(model.norm1)) == {"norm1": model.norm1}


def test_a_script_module_takes_no_hooks() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), torch.jit.script(nn.ReLU()))
    message = refusal(find_layers, LayerError, model, "1")
    assert message == "layer '1' is a TorchScript module, which takes no hooks: pass the eager model"


def test_only_the_backbone_is_searched_where_there_is_one() -> None:
    model = seeded(SmallCNN())
    assert list(backbone_modules(model)) == layer_names(model)
    outer = nn.Module()
    outer.backbone, outer.neck = model, nn.BatchNorm2d(3)
    assert list(backbone_modules(outer)) == ["backbone", *(f"backbone.{name}" for name in layer_names(model))]


@pytest.mark.parametrize("attribute", ["num_extra_tokens", "num_prefix_tokens"])
def test_declared_tokens_are_read_where_frameworks_have_them(attribute: str) -> None:
    model = SmallViT()
    assert declared_extra_tokens(model) is None
    setattr(model, attribute, 3)
    assert declared_extra_tokens(model) == 3
    for name in ("backbone", "model"):
        outer = nn.Module()
        outer.add_module(name, model)
        assert declared_extra_tokens(outer) == 3
    setattr(model, attribute, "three")
    assert declared_extra_tokens(model) is None


class GRN(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / x.norm(dim=(1, 2), keepdim=True)


class LinearWithBN(LinearBatchNorm):
    """Named as transformers names it."""


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (LinearBatchNorm(), True),
        (LinearWithBN(), True),
        (PreNorm(), False),
        (GRN(), True),
        (LayerNorm2d(8), True),
        (nn.GroupNorm(2, 8), True),
        (nn.Linear(8, 8), False),
        (nn.Identity(), False),
    ],
)
def test_what_counts_as_a_norm(module: nn.Module, expected: bool) -> None:
    assert is_norm(module) == expected
