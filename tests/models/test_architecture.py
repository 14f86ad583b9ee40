"""Which unknown tensors are of another architecture, and which are extras."""

from __future__ import annotations

import pytest
import torch

from camkit.models.architecture import foreign_tensors

OWN = ["cls_token", "pos_embed", "fc.weight", "fc.bias", "backbone.norm.weight", "patch.proj.weight"]
MODULES = ["", "fc", "backbone", "backbone.norm", "patch", "patch.proj", "neck", "neck.gap", "head", "head.loss_module"]


def found(name: str, own: list[str] = OWN, size: int = 3) -> bool:
    return name in foreign_tensors(own, {name: torch.ones(size)}, MODULES)


@pytest.mark.parametrize(
    "name",
    [
        "fc.lora_A",
        "fc.lora_A.default.weight",
        "patch.proj.bias",
        "neck.p",
        "neck.fc.weight",
        "backbone.absolute_pos_embed",
        "reg_token",
        "dist_token",
    ],
)
def test_parts_of_another_network(name: str) -> None:
    assert found(name)


@pytest.mark.parametrize(
    "name",
    [
        "fc.loss_weight",
        "fc.ema",
        "fc.running_mean",
        "fc.total_ops",
        "fc.weight_mask",
        "neck.proj.weight",
        "head.loss_module.class_weight",
        "backbone.mask_token",
        "mask_token",
        "teacher.fc.weight",
        "head_dist.weight",
        "prototypes",
        "queue",
        "mean",
    ],
)
def test_extras(name: str) -> None:
    assert not found(name)


def test_single_numbers_count_inside_layers_alone() -> None:
    assert found("neck.p", size=1)
    assert found("fc.scale", size=1)
    assert not found("logit_scale", size=1)
    assert not found("p", size=1)
    assert not found("reg_token", size=0)


def test_beside_a_network_without_embeddings_they_are_another_part_s() -> None:
    assert not found("positional_embedding", ["conv.weight", "fc.weight"])
