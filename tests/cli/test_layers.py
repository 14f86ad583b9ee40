"""``camkit layers``: what can be a target layer, as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from torch import nn

from camkit.models.classifier import Classifier
from tests.cli.running import Run, refused
from tests.models.installed import installed


@pytest.fixture
def layers(camkit: Callable[..., Run]) -> Any:
    return lambda *words: camkit("layers", *words)


def row(table: str, name: str) -> list[str]:
    """The cells of a layer's row."""
    (line,) = [line for line in table.splitlines() if line.split(" ")[0] == name]
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


@pytest.mark.usefixtures("tiny")
class TestTiny:
    """On a tiny transformer; needs no framework."""

    def test_a_table_with_the_default_marked(self, layers: Any) -> None:
        run = layers("vit")
        assert (run.code, run.err) == (0, "")
        expected = ["layers.1.ln1", "LayerNorm", "(1, 65, 8)", "8x8 + 1 in front", "64 of 64", "default"]
        assert row(run.out, "layers.1.ln1") == expected
        assert row(run.out, "layers.1.ln2")[4:] == ["dead"]
        assert "attention" not in run.out
        assert "input: 3x32x32\n" in run.out
        assert "default: layers.1.ln1 (the last norm layer that is spatial and live)\n" in run.out

    def test_all_shows_the_rest_with_reasons(self, layers: Any) -> None:
        run = layers("vit", "--all")
        assert run.code == 0
        assert row(run.out, "patch")[2:] == ["(1, 8, 8, 8)", "8x8", "64 of 64"]
        assert "gives (1, 5), which has no spatial positions" in " ".join(row(run.out, "head"))
        assert row(run.out, "layers.1.ln1")[-1] == "default"

    def test_layers_that_dont_run_are_named_too(self, layers: Any, tiny: dict[str, Classifier]) -> None:
        tiny["cnn"].model.add_module("idle", nn.ReLU())
        assert row(layers("cnn", "--all").out, "idle") == ["idle", "ReLU", "doesn't run"]
        assert "idle" not in layers("cnn").out

    def test_json_says_the_same(self, layers: Any) -> None:
        run = layers("vit", "--json")
        found = json.loads(run.out)
        assert run.code == 0
        assert (found["input"], found["default"]) == ([3, 32, 32], "layers.1.ln1")
        assert (found["output"], found["other_outputs"], found["problem"]) == ("", [], None)
        (default,) = [each for each in found["layers"] if each["default"]]
        assert default == {
            "name": "layers.1.ln1",
            "type": "LayerNorm",
            "norm": True,
            "output": [1, 65, 8],
            "form": "tokens",
            "grid": [8, 8],
            "extra_tokens": [1, 0],
            "live_places": 64,
            "live": True,
            "default": True,
            "problem": None,
        }
        whole = json.loads(layers("vit", "--json", "--all").out)["layers"]
        assert len(whole) > len(found["layers"])
        assert [each["problem"] for each in whole if each["name"] == "head"] == [
            "gives (1, 5), which has no spatial positions: choose a layer before pooling"
        ]

    def test_of_a_named_class_and_image(self, layers: Any, photo: str) -> None:
        run = layers("vit", "--target-category", "tiger cat", "--img", photo)
        assert "default: layers.1.ln1" in run.out

    def test_random_weights_that_start_at_zero_hide_no_layer(self, layers: Any, tiny: dict[str, Classifier]) -> None:
        nn.init.zeros_(tiny["cnn"].model.head.weight)
        assert "default: norm2 (" in layers("cnn").out

    def test_without_a_default_the_reason_is_a_warning(self, layers: Any, tiny: dict[str, Classifier]) -> None:
        from camkit.models.checkpoint import Origin

        nn.init.zeros_(tiny["cnn"].model.head.weight)
        tiny["cnn"] = replace(tiny["cnn"], checkpoint=Origin("cnn.pth", "0123"))
        run = layers("cnn")
        assert run.code == 0
        assert "default" not in run.out
        assert row(run.out, "norm2")[4:] == ["dead"]
        assert run.err.startswith("camkit: warning: the score depends on no place of any spatial layer")

    @pytest.mark.parametrize(
        ("flags", "code", "message"),
        [
            (["--output", "logits"], 2, "the model's output has no part 'logits'; it is one tensor, leave that out"),
            (["--num-extra-tokens", "-1"], 2, ".*--num-extra-tokens: counts tokens, got -1"),
            (["--num-extra-tokens", "5"], 1, ".*would fit: --num-extra-tokens 1 \\(8x8\\)"),
            (["--target-category", "1000"], 2, "category 1000 is outside 0..4"),
            (["--target-category", "tiger"], 2, "no class 'tiger'"),
            (["--img", "nowhere.png"], 1, "no image nowhere.png"),
        ],
    )
    def test_mistakes_take_one_line(self, flags: list[str], code: int, message: str, layers: Any) -> None:
        refused(layers("vit", *flags), code, message)


@pytest.mark.frameworks
class TestFrameworks:
    """On networks whose layers, outputs and initial weights are harder."""

    def test_of_timm(self, layers: Any) -> None:
        installed("timm")
        run = layers("timm:vit_tiny_patch16_224", "--cfg-options", "depth=2", "img_size=64")
        assert row(run.out, "blocks.1.norm1")[3:] == ["4x4 + 1 in front", "16 of 16", "default"]
        refused(layers("timm:vit_tinny"), 2, "no .*closest")

    def test_of_mmpretrain(self, layers: Any) -> None:
        installed("mmpretrain")
        run = layers("mobilenet-v2_8xb32_in1k", "--all")
        assert row(run.out, "head.loss_module")[-1] == "doesn't run"
        assert row(run.out, "backbone.conv2.bn")[-1] == "default"

    @pytest.mark.slow
    def test_of_a_model_with_two_outputs(self, layers: Any) -> None:
        installed("mmpretrain")
        conformer = "conformer-tiny-p16_3rdparty_in1k"
        out = layers(conformer).out
        assert "output: sum_of_branches (what the network predicts from; --output takes one of its parts)" in out
        assert "default: backbone.conv_trans_12.fusion_block.residual_bn" in out
        out = layers(conformer, "--output", "1", "--all").out
        assert "default: backbone.conv_trans_12.trans_block.ln1" in out
        assert row(out, "backbone.conv_trans_12[0]")[2:] == ["(1, 256, 7, 7)", "7x7", "dead"]
        assert row(out, "backbone.conv_trans_12[1]")[2:] == ["(1, 197, 384)", "14x14 + 1 in front", "dead"]

    def test_weights_that_start_at_zero(self, layers: Any) -> None:
        """A mixer's head starts at zero, and so do the last norms of residual branches elsewhere."""
        installed("timm")
        run = layers("timm:mixer_s32_224")
        assert run.err == ""
        assert "default: norm (" in run.out
        assert row(layers("timm:levit_128s").out, "stages.2.blocks.3.mlp.ln2")[4] == "16 of 16"
