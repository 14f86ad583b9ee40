"""What a transformer's blocks attend to, by any framework, and maps of that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from camkit import CAM
from camkit.engine.network import Network
from camkit.engine.record import record
from camkit.errors import ForwardError, LayerError
from camkit.layers.attention_blocks import attention_blocks
from camkit.layers.feature_maps import FeatureMaps
from camkit.layers.layout_finder import LayoutFinder
from camkit.methods.needs import Attended, AttentionNeed
from camkit.signals.attention import attended
from tests.helpers.networks import SmallViT, TorchEncoder, seeded
from tests.helpers.refusals import refusal
from tests.models.installed import installed

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
SMALL = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
METHODS = ("LeGrad", "AttentionRollout", "GradientRollout")
DEPTH = 12


def by_timm(name: str = "vit_tiny_patch16_224", *, fused: bool = True, **how: Any) -> nn.Module:
    given = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": DEPTH, "num_heads": 2, "num_classes": 5}
    model: nn.Module = installed("timm").create_model(name, **{**given, **how})
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.__dict__["fused_attn"] = fused
    return model


def by_torchvision() -> nn.Module:
    model: nn.Module = installed("torchvision").models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=DEPTH, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=5
    )
    return model


def by_transformers(attention: str) -> nn.Module:
    transformers = installed("transformers")
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=DEPTH,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        num_labels=5,
        attn_implementation=attention,
    )
    model: nn.Module = transformers.ViTForImageClassification(config)
    return model


def by_mmpretrain(kind: str, head: str, **how: Any) -> nn.Module:
    installed("mmpretrain")
    from mmpretrain.registry import MODELS

    arch = {"embed_dims": 16, "num_layers": DEPTH, "num_heads": 2, "feedforward_channels": 32}
    backbone = how or {"arch": arch, "img_size": 32, "patch_size": 8}
    model: nn.Module = MODELS.build(
        {
            "type": "ImageClassifier",
            "backbone": {"type": kind, **backbone},
            "head": {"type": head, "num_classes": 5, "in_channels": 16},
        }
    )
    return model


def t2t() -> nn.Module:
    layers = {"num_heads": 2, "feedforward_channels": 32}
    return by_mmpretrain(
        "T2T_ViT",
        "VisionTransformerClsHead",
        img_size=64,
        in_channels=3,
        embed_dims=16,
        t2t_cfg={"token_dims": 8, "use_performer": False},
        num_layers=DEPTH,
        layer_cfgs=layers,
    )


CLASS, MEAN = {0: 1.0}, dict.fromkeys(range(16), 1 / 16)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], str, dict[int, float]]] = {
    "timm, fused": (by_timm, "blocks.{}", CLASS),
    "timm, step by step": (lambda: by_timm(fused=False), "blocks.{}", CLASS),
    "timm, mean": (lambda: by_timm(class_token=False, global_pool="avg"), "blocks.{}", MEAN),
    "timm, registers": (lambda: by_timm(reg_tokens=4), "blocks.{}", CLASS),
    "timm, distilled": (lambda: by_timm("deit_tiny_distilled_patch16_224"), "blocks.{}", {0: 0.5, 1: 0.5}),
    "torchvision": (by_torchvision, "encoder.layers.encoder_layer_{}", CLASS),
    "transformers, eager": (lambda: by_transformers("eager"), "vit.layers.{}", CLASS),
    "transformers, sdpa": (lambda: by_transformers("sdpa"), "vit.layers.{}", CLASS),
    "mmpretrain": (
        lambda: by_mmpretrain("VisionTransformer", "VisionTransformerClsHead"),
        "backbone.layers.{}",
        CLASS,
    ),
    "mmpretrain, distilled": (
        lambda: by_mmpretrain("DistilledVisionTransformer", "DeiTClsHead"),
        "backbone.layers.{}",
        {0: 0.5, 1: 0.5},
    ),
    "mmpretrain, tokens to tokens": (t2t, "backbone.encoder.{}", CLASS),
}
each_network = pytest.mark.parametrize("network", NETWORKS)


def made(network: str) -> tuple[nn.Module, Tensor, list[str], dict[int, float]]:
    make, pattern, readout = NETWORKS[network]
    images = torch.nn.functional.interpolate(IMAGES, scale_factor=2) if "tokens to tokens" in network else IMAGES
    return seeded(make()), images, [pattern.format(number) for number in range(DEPTH)], readout


def attention_of(
    model: nn.Module, images: Tensor, targets: Any, gradients: str | None, blocks: list[str] | None = None
) -> tuple[list[Attended], Tensor]:
    """What methods get, target by target, and the logits."""
    network, need = Network(model), AttentionNeed(gradients)
    names = attention_blocks(network, images) if blocks is None else blocks
    modules = {name: model.get_submodule(name) for name in names}
    with record(network, images, modules, targets, need.records) as forward:
        features = FeatureMaps(forward, [], LayoutFinder(forward), modules)
        return list(attended(features, need)), forward.logits


def logits(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.logits


@pytest.mark.frameworks
@each_network
class TestNetworks:
    def test_blocks_are_found_in_order(self, network: str) -> None:
        model, images, names, _ = made(network)
        assert list(attention_blocks(Network(model), images)) == names

    def test_attention_is_all_of_it_and_changes_nothing(self, network: str) -> None:
        model, images, names, readout = made(network)
        found, scores = attention_of(model, images, [[0, 3], [2, 2]], "score")
        assert_close(scores, logits(model(images)).detach(), rtol=1e-4, atol=1e-5)
        assert len(found) == 2
        for one in found:
            assert len(one.probabilities) == len(one.gradients) == len(names)
            for probabilities, gradients in zip(one.probabilities, one.gradients, strict=True):
                assert probabilities.shape[:2] == (2, 2)
                assert gradients.shape == (1, *probabilities.shape)
                assert_close(probabilities.sum(-1), torch.ones_like(probabilities[..., 0]), rtol=0, atol=1e-5)
                assert gradients.any()
            expected = torch.zeros_like(one.readout)
            for token, share in readout.items():
                expected[:, :, token] = share
            assert_close(one.readout, expected)

    @pytest.mark.parametrize("method", METHODS)
    def test_maps_vary_and_ignore_batch_mates(self, network: str, method: str) -> None:
        model, images, names, _ = made(network)
        found = CAM(model, method).explain(images, [[0, 3], [2, 1]])
        assert found.layers == tuple(names)
        assert found.raw["attention"].shape == (2, 2, 4, 4)
        assert found.maps.flatten(2).std(2).min() > 0.02
        if method != "AttentionRollout":
            assert (found.maps[:, 0] - found.maps[:, 1]).abs().amax((1, 2)).min() > 1e-3
        alone = CAM(model, method).explain(images[1:], [[2, 1]])
        assert_close(found.maps[1], alone.maps[0], rtol=0, atol=1e-3)


class TestByHand:
    """Against plain autograd through a network that computes attention step by step."""

    def slow(self, model: Any, category: int) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """Probabilities and their gradients by the score, (L, B, heads, N, N), and by own scores; and tokens."""
        tokens = (
            torch.cat([model.tokens.expand(2, -1, -1), model.patch(SMALL.double()).flatten(2).mT], 1) + model.position
        )
        kept, outputs = [], []
        for block in model.layers:
            normed = block.ln1(tokens)
            query, key, value = (
                part.unflatten(2, (2, 4)).transpose(1, 2)
                for part in nn.functional.linear(
                    normed, block.attention.in_proj_weight, block.attention.in_proj_bias
                ).chunk(3, 2)
            )
            kept.append((query @ key.mT / 2).softmax(-1))
            tokens = tokens + block.attention.out_proj((kept[-1] @ value).transpose(1, 2).flatten(2))
            tokens = tokens + block.mlp(block.ln2(tokens))
            outputs.append(tokens)
        score = model.head(model.norm(tokens)[:, 0])[:, category].sum()
        own = [
            torch.autograd.grad(model.head(model.norm(out.mean(1)))[:, category].sum(), attention, retain_graph=True)[0]
            for out, attention in zip(outputs, kept, strict=True)
        ]
        by_score = torch.stack(torch.autograd.grad(score, kept, retain_graph=True))
        return torch.stack(kept).detach(), by_score, torch.stack(own), outputs

    def test_probabilities_and_gradients(self) -> None:
        model = seeded(SmallViT()).double()
        probabilities, by_score, by_own, _ = self.slow(model, 3)
        (found,), _ = attention_of(model, SMALL.double(), 3, "score")
        assert_close(torch.stack(found.probabilities), probabilities)
        assert_close(torch.stack(found.gradients)[:, 0], by_score)
        (found,), _ = attention_of(model, SMALL.double(), 3, "own")
        assert_close(torch.stack(found.gradients)[:, 0], by_own)

    def test_maps(self) -> None:
        model = seeded(SmallViT()).double()
        probabilities, by_score, by_own, _ = self.slow(model, 3)
        eye = torch.eye(17, dtype=torch.float64)
        flow = relevance = eye
        for attention, gradient in zip(probabilities, by_score, strict=True):
            step = attention.mean(1) + eye
            flow = step / step.sum(-1, keepdim=True) @ flow
            relevance = relevance + (attention * gradient).relu().mean(1) @ relevance
        expected = {
            "LeGrad": by_own.relu().mean((2, 3)).mean(0),
            "AttentionRollout": flow[:, 0],
            "GradientRollout": relevance[:, 0],
        }
        for method, tokens in expected.items():
            raw = CAM(model, method).explain(SMALL, 3).raw["attention"][:, 0]
            assert_close(raw, tokens[:, 1:].unflatten(1, (4, 4)))

    def test_of_some_blocks_without_an_earlier_search_for_all(self) -> None:
        """The own scores of blocks are those behind the last block of all, which is found where it isn't known."""
        model = seeded(SmallViT()).double()
        probabilities, _, by_own, _ = self.slow(model, 3)
        (found,), _ = attention_of(model, SMALL.double(), 3, "own", ["layers.0"])
        assert_close(found.probabilities[0], probabilities[0])
        assert_close(found.gradients[0][0], by_own[0])

    @pytest.mark.parametrize("gradients", [None, "score"])
    def test_readout_is_the_class_token(self, gradients: str | None) -> None:
        (found,), _ = attention_of(seeded(SmallViT()), SMALL, 3, gradients)
        assert len(found.gradients) == (2 if gradients else 0)
        expected = torch.zeros(1, 2, 17)
        expected[..., 0] = 1
        assert_close(found.readout, expected)
        assert_close(found.lay_out(expected), torch.zeros(1, 2, 4, 4))

    @pytest.mark.parametrize("fusion", ["mean", "max", "min"])
    def test_heads_may_be_fused(self, fusion: str) -> None:
        model = seeded(SmallViT())
        assert CAM(model, "AttentionRollout", head_fusion=fusion)(SMALL).std() > 0.02


class TestOtherNetworks:
    def test_torchs_own_encoder(self) -> None:
        model = seeded(TorchEncoder())
        for method in METHODS:
            found = CAM(model, method).explain(SMALL, 1)
            assert found.layers == ("encoder.layers.0", "encoder.layers.1")
            assert found.maps.std() > 0.02

    def test_tokens_at_the_back(self) -> None:
        model = seeded(SmallViT(back=2))
        for method in METHODS:
            assert CAM(model, method).explain(SMALL, 1).raw["attention"].shape == (2, 1, 4, 4)

    def test_a_network_that_doesnt_read_its_attention(self) -> None:
        class Ignores(SmallViT):
            def forward(self, images: Tensor) -> Tensor:
                return 0 * super().forward(images).detach() + self.head(self.patch(images).mean((2, 3)))

        message = refusal(CAM(seeded(Ignores()), "GradientRollout"), LayerError, SMALL)
        assert "the score doesn't depend on 'layers.1', the last block with attention" in message

    def test_a_layout_of_ones_own_is_refused(self) -> None:
        cam = CAM(seeded(SmallViT()), "LeGrad", reshape_transform=lambda tokens: tokens[:, 1:].mT.unflatten(2, (4, 4)))
        assert "leave reshape_transform out" in refusal(cam, LayerError, SMALL)

    @pytest.mark.parametrize("method", METHODS)
    def test_that_take_single_images(self, method: str) -> None:
        class Single(SmallViT):
            def forward(self, images: Tensor) -> Tensor:
                assert len(images) == 1
                return super().forward(images)

        made = CAM(seeded(Single()), method)(SMALL[:1], 1)
        assert_close(made, CAM(seeded(SmallViT()), method)(SMALL[:1], 1))
        with pytest.raises(ForwardError):
            CAM(seeded(Single()), method)(SMALL, 1)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("method", METHODS)
    def test_half_precision(self, method: str, dtype: torch.dtype) -> None:
        exact = CAM(seeded(SmallViT()), method)(SMALL, 1)
        made = CAM(seeded(SmallViT()).to(dtype), method)(SMALL, 1)
        assert made.dtype == torch.float32
        assert (made - exact).abs().mean() < 0.05


@pytest.mark.frameworks
@pytest.mark.slow
def test_digits_are_found() -> None:
    """On the small trained transformer a map that is asked for a digit is hottest there."""
    from benchmarks.digits import measure, recipe

    model, canvases = recipe.load(), measure.sample("held-out", (48, 48))
    rows = {method: measure.measure(model, method, canvases) for method in METHODS}
    assert rows["GradientRollout"].maps > 0.93
    assert rows["GradientRollout"].exchanged < 0.05
    assert rows["LeGrad"].maps > 0.75
    assert rows["LeGrad"].exchanged < 0.2
    # Attention alone asks for no class: it finds one of the two digits, whichever is asked for.
    assert abs(rows["AttentionRollout"].maps - rows["AttentionRollout"].exchanged) < 0.02
