"""``camkit layers``: what can be a target layer, as a table and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from camkit.cli import main

VIT = ("timm:vit_tiny_patch16_224", "--cfg-options", "depth=2", "img_size=64")


@pytest.fixture
def layers(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*words: object) -> tuple[int, str, str]:
        try:
            code = main(["layers", *map(str, words)])
        except SystemExit as stop:  # argparse's way out
            code = int(stop.code or 0)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def row(table: str, name: str) -> list[str]:
    """The cells of a layer's row."""
    (line,) = [line for line in table.splitlines() if line.split(" ")[0] == name]
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_a_table_with_the_default_marked(layers: Any) -> None:
    code, out, err = layers(*VIT)
    assert (code, err) == (0, "")
    assert row(out, "blocks.1.norm1") == [
        "blocks.1.norm1",
        "LayerNorm",
        "(1, 17, 192)",
        "4x4 + 1 in front",
        "16 of 16",
        "default",
    ]
    assert row(out, "blocks.1.norm2")[4:] == ["dead"]
    assert "attn" not in out
    assert "input: 3x64x64" in out
    assert "default: blocks.1.norm1 (the last norm layer that is spatial and live)" in out


def test_all_shows_the_rest_with_reasons(layers: Any) -> None:
    code, out, _ = layers(*VIT, "--all")
    assert code == 0
    assert row(out, "patch_embed.proj")[2:] == ["(1, 192, 4, 4)", "4x4", "16 of 16"]
    assert "gives (1, 1000), which has no spatial positions" in " ".join(row(out, "head"))
    assert row(out, "blocks.1.norm1")[-1] == "default"


def test_layers_that_dont_run_are_named_too(layers: Any) -> None:
    _, out, _ = layers("mobilenet-v2_8xb32_in1k", "--all")
    assert row(out, "head.loss_module")[-1] == "doesn't run"
    assert row(out, "backbone.conv2.bn")[-1] == "default"


def test_json_says_the_same(layers: Any) -> None:
    code, out, _ = layers(*VIT, "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["input"], found["default"]) == ([3, 64, 64], "blocks.1.norm1")
    (default,) = [each for each in found["layers"] if each["default"]]
    assert default == {
        "name": "blocks.1.norm1",
        "type": "LayerNorm",
        "norm": True,
        "output": [1, 17, 192],
        "form": "tokens",
        "grid": [4, 4],
        "extra_tokens": [1, 0],
        "live_places": 16,
        "live": True,
        "default": True,
        "problem": None,
    }
    whole = json.loads(layers(*VIT, "--json", "--all")[1])["layers"]
    assert len(whole) > len(found["layers"])
    assert [each["problem"] for each in whole if each["name"] == "head"] == [
        "gives (1, 1000), which has no spatial positions: choose a layer before pooling"
    ]


def test_of_a_model_with_two_outputs(layers: Any) -> None:
    conformer = "conformer-tiny-p16_3rdparty_in1k"
    _, out, _ = layers(conformer)
    assert "output: sum_of_branches (what the network predicts from; --output takes one of its parts)" in out
    assert "default: backbone.conv_trans_12.fusion_block.residual_bn" in out
    _, out, _ = layers(conformer, "--output", "1", "--all")
    assert "default: backbone.conv_trans_12.trans_block.ln1" in out
    assert row(out, "backbone.conv_trans_12[0]")[2:] == ["(1, 256, 7, 7)", "7x7", "dead"]
    assert row(out, "backbone.conv_trans_12[1]")[2:] == ["(1, 197, 384)", "14x14 + 1 in front", "dead"]


def test_with_an_image_of_ones_own(layers: Any, tmp_path: Path) -> None:
    import cv2
    from skimage import data

    cv2.imwrite(str(tmp_path / "cat.png"), data.chelsea())
    code, out, _ = layers(*VIT, "--img", tmp_path / "cat.png")
    assert code == 0
    assert "default: blocks.1.norm1" in out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["timm:vit_tinny"], 2, "closest"),
        ([*VIT, "--output", "logits"], 2, "the model's output has no part 'logits'; it is one tensor, leave that out"),
        ([*VIT, "--num-extra-tokens", "-1"], 2, "--num-extra-tokens: counts tokens, got -1"),
        ([*VIT, "--target-category", "1000"], 2, "category 1000 is outside 0..999"),
        ([*VIT, "--img", "nowhere.png"], 1, "no image nowhere.png"),
    ],
)
def test_mistakes_take_one_line(layers: Any, words: list[str], code: int, message: str) -> None:
    made, out, err = layers(*words)
    assert (made, out) == (code, "")
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_random_weights_that_start_at_zero_hide_no_layer(layers: Any) -> None:
    """A mixer's head starts at zero, and so do the last norms of residual branches elsewhere."""
    _, out, err = layers("timm:mixer_s32_224")
    assert err == ""
    assert "default: norm (" in out
    _, out, _ = layers("timm:levit_128s")
    assert row(out, "stages.2.blocks.3.mlp.ln2")[4] == "16 of 16"


def test_tokens_given_that_fit_nothing_are_an_error(layers: Any) -> None:
    code, out, err = layers(*VIT, "--num-extra-tokens", "5")
    assert (code, out) == (1, "")
    assert "would fit: --num-extra-tokens 1 (4x4)" in err
