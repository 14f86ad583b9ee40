"""Listening to a network's functions: attention, affine maps, rectifiers; what it computes stays as it is."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close

from camkit.compat import torch_version
from camkit.engine.listeners import Affine, AffineListener, AttentionListener, GuidedListener


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def heard(call: Any, batch: int = 2) -> tuple[Tensor, list[Tensor], int]:
    """What ``call`` returns, the probabilities that were kept, and how many weren't."""
    kept: list[Tensor] = []
    with AttentionListener(batch, kept.append) as listener:
        made = call()
    return made, kept, listener.others


QUERY, KEY, VALUE = (drawn(2, 4, 6, 8, seed=seed).requires_grad_() for seed in range(3))
BLOCKED = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(3)) > 0.4
BLOCKED[..., 0] = True  # no row without anything
FUSED: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"is_causal": True},
    "scaled": {"scale": 0.3},
    "blocked": {"attn_mask": BLOCKED},
    "biased": {"attn_mask": drawn(4, 6, 6, seed=4)},
    **({"grouped": {"enable_gqa": True}} if torch_version() >= (2, 5) else {}),
    "everything": {"attn_mask": BLOCKED, "scale": 2.0, "dropout_p": 0.0},
}


class TestFusedAttention:
    @pytest.mark.parametrize("how", FUSED)
    def test_is_what_torch_makes(self, how: str) -> None:
        key, value = (KEY[:, :2], VALUE[:, :2]) if how == "grouped" else (KEY, VALUE)

        def attend() -> Tensor:
            return functional.scaled_dot_product_attention(QUERY, key, value, **FUSED[how])

        expected = attend()
        made, (kept,), others = heard(attend)
        assert_close(made, expected)
        assert others == 0
        assert kept.shape == (2, 4, 6, 6)
        assert_close(kept.sum(-1), torch.ones(2, 4, 6, dtype=torch.float64))
        weights = drawn(*expected.shape, seed=5)
        for leaf in (QUERY, KEY, VALUE):
            (one,) = torch.autograd.grad((made * weights).sum(), leaf, retain_graph=True)
            (other,) = torch.autograd.grad((expected * weights).sum(), leaf, retain_graph=True)
            assert_close(one, other)

    def test_gradients_of_probabilities_are_those_of_a_plain_computation(self) -> None:
        made, (kept,), _ = heard(lambda: functional.scaled_dot_product_attention(QUERY, KEY, VALUE))
        weights = drawn(*made.shape, seed=5)
        (gradient,) = torch.autograd.grad((made * weights).sum(), kept)
        assert_close(gradient, weights @ VALUE.mT)
        assert_close(kept, (QUERY @ KEY.mT / math.sqrt(8)).softmax(-1))

    @pytest.mark.parametrize("kind", [torch.bool, torch.float64])
    def test_who_may_look_at_nothing_gets_nothing(self, kind: torch.dtype) -> None:
        mask = BLOCKED.clone()
        mask[1, :, 2] = False
        given = mask if kind == torch.bool else torch.zeros(mask.shape, dtype=kind).masked_fill(~mask, -math.inf)

        def attend() -> Tensor:
            return functional.scaled_dot_product_attention(QUERY, KEY, VALUE, given)

        made, (kept,), _ = heard(attend)
        assert_close(made, attend().nan_to_num())  # torch before 2.5 gives NaN
        assert not kept[1, :, 2].any()
        (gradient,) = torch.autograd.grad(made.sum(), QUERY)
        assert gradient.isfinite().all()

    def test_positional_arguments(self) -> None:
        expected = functional.scaled_dot_product_attention(QUERY, KEY, VALUE, None, 0.0, True)
        made, kept, _ = heard(lambda: functional.scaled_dot_product_attention(QUERY, KEY, VALUE, None, 0.0, True))
        assert_close(made, expected)
        assert not kept[0].triu(1).any()

    def test_roots_a_graph_where_there_is_none(self) -> None:
        query, key, value = (each.detach() for each in (QUERY, KEY, VALUE))
        made, (kept,), _ = heard(lambda: functional.scaled_dot_product_attention(query, key, value))
        assert kept.is_leaf
        assert kept.requires_grad
        (gradient,) = torch.autograd.grad(made.sum(), kept)
        assert gradient.any()


class TestStepByStep:
    @pytest.mark.parametrize(
        "softmax",
        [
            lambda tensor: tensor.softmax(-1),
            lambda tensor: tensor.softmax(dim=-1),
            lambda tensor: torch.softmax(tensor, -1),
            lambda tensor: functional.softmax(tensor, dim=-1),
            nn.Softmax(-1),
        ],
    )
    def test_every_softmax_is_heard(self, softmax: Any) -> None:
        made, (kept,), _ = heard(lambda: softmax(QUERY @ KEY.mT))
        assert_close(made, kept)

    def test_heads_beside_images(self) -> None:
        made, (kept,), _ = heard(lambda: (QUERY @ KEY.mT).flatten(0, 1).softmax(-1))
        assert kept.shape == (2, 4, 6, 6)
        assert_close(made, kept.flatten(0, 1))

    @pytest.mark.parametrize("shape", [(2, 4, 6, 7), (6, 4, 6, 6), (2, 3, 4, 6, 6), (3, 6, 6)])
    def test_other_attention_is_counted(self, shape: tuple[int, ...]) -> None:
        _, kept, others = heard(lambda: drawn(*shape).softmax(-1))
        assert (kept, others) == ([], 1)

    @pytest.mark.parametrize("shape", [(2, 5), (6,), (2, 4, 1)])
    def test_scores_and_gates_are_no_attention(self, shape: tuple[int, ...]) -> None:
        assert heard(lambda: drawn(*shape).softmax(-1))[1:] == ([], 0)


class TestMultiheadAttention:
    @pytest.mark.parametrize("need_weights", [False, True])
    @pytest.mark.parametrize("batch_first", [False, True])
    @pytest.mark.parametrize("masked", [False, True])
    @pytest.mark.parametrize("grad", [False, True])
    def test_is_heard_and_unchanged(self, need_weights: bool, batch_first: bool, masked: bool, grad: bool) -> None:
        layer = nn.MultiheadAttention(8, 2, batch_first=batch_first).double().eval().requires_grad_(grad)
        tokens = drawn(2, 6, 8) if batch_first else drawn(6, 2, 8)
        mask = torch.full((6, 6), -math.inf, dtype=torch.float64).triu(1) if masked else None

        def attend() -> Any:
            return layer(tokens, tokens, tokens, need_weights=need_weights, attn_mask=mask)

        expected, weights = attend()
        (made, returned), (kept,), others = heard(attend)
        assert_close(made, expected)
        assert kept.shape == (2, 2, 6, 6)
        assert others == 0
        assert_close(kept.sum(-1), torch.ones(2, 2, 6, dtype=torch.float64))
        if need_weights:
            assert_close(returned, weights)
            assert_close(kept.mean(1), weights)
        else:
            assert returned is None

    def test_transformer_layers_are_heard_without_a_graph(self) -> None:
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).double().eval()
        tokens = drawn(2, 6, 8)
        with torch.no_grad():
            expected = layer(tokens)
            made, kept, _ = heard(lambda: layer(tokens))
        assert len(kept) == 1
        assert_close(made, expected)

    def test_batches_of_one_in_one_dimension(self) -> None:
        layer = nn.MultiheadAttention(8, 2).double().eval()
        tokens = drawn(6, 8)
        _, (kept,), _ = heard(lambda: layer(tokens, tokens, tokens), batch=1)
        assert kept.shape == (1, 2, 6, 6)


IMAGE = drawn(2, 3, 6, 6, seed=7).requires_grad_()
NORM = nn.BatchNorm2d(3).double().eval()
NORM.running_mean, NORM.running_var = drawn(3, seed=8), drawn(3, seed=9).abs()
AFFINE: dict[str, tuple[Any, int]] = {
    "convolution": (nn.Conv2d(3, 4, 3).double(), 1),
    "transposed": (nn.ConvTranspose2d(3, 4, 3).double(), 1),
    "norm": (NORM, 1),
    "norm without weights": (nn.BatchNorm2d(3, affine=False).double().eval(), 1),
    "group norm": (nn.GroupNorm(3, 3).double(), 1),
    "layer norm": (nn.LayerNorm(6).double(), 3),
    "linear": (nn.Linear(6, 5).double(), 3),
    "function": (lambda image: functional.conv2d(image, drawn(4, 3, 1, 1), drawn(4)), 1),
    "keyword": (lambda image: functional.conv2d(image, drawn(4, 3, 1, 1), bias=drawn(4)), 1),
}


class TestAffine:
    def heard(self, call: Any) -> tuple[Any, list[Affine]]:
        kept: list[Affine] = []
        with AffineListener(kept.append):
            made = call()
        return made, kept

    @pytest.mark.parametrize("name", AFFINE)
    def test_what_is_added_is_what_nothing_gives(self, name: str) -> None:
        function, axis = AFFINE[name]
        made, (kept,) = self.heard(lambda: function(IMAGE))
        assert_close(made, function(IMAGE))
        assert (kept.axis, kept.shape) == (axis, tuple(made.shape))
        added = kept.bias.view([-1 if each == axis else 1 for each in range(4)])
        if "group" not in name and "layer" not in name:  # those are no affine functions
            assert_close(function(torch.zeros_like(IMAGE)), added.expand_as(made))
        (gradient,) = torch.autograd.grad(made.square().sum(), kept.edge)
        assert_close(gradient, 2 * made)

    def test_without_a_bias_there_is_nothing(self) -> None:
        assert self.heard(lambda: nn.Conv2d(3, 4, 3, bias=False).double()(IMAGE))[1] == []
        assert self.heard(lambda: nn.Conv2d(3, 4, 3).double().requires_grad_(False)(IMAGE.detach()))[1] == []

    def test_writing_to_the_result_moves_no_edge(self) -> None:
        layer = nn.Conv2d(3, 4, 1).double()
        made, (kept,) = self.heard(lambda: layer(IMAGE).mul_(3).relu_())
        (gradient,) = torch.autograd.grad(made.sum(), kept.edge)
        assert_close(gradient, 3.0 * (made > 0).double())


RECTIFIERS: dict[str, Any] = {
    "module": nn.ReLU(),
    "in place": nn.Sequential(nn.Identity(), nn.ReLU(inplace=True)),
    "function": functional.relu,
    "function in place": lambda tensor: functional.relu(tensor, inplace=True),
    "method": lambda tensor: tensor.relu(),
    "method in place": lambda tensor: tensor.relu_(),
    "torch": torch.relu,
    "six": nn.ReLU6(),
    "clip": nn.Hardtanh(0, 6),
    "clip function": lambda tensor: functional.hardtanh(tensor, min_val=0.0, max_val=6.0),
}


class TestGuided:
    @pytest.mark.parametrize("name", RECTIFIERS)
    def test_lets_through_what_is_positive(self, name: str) -> None:
        image, weights = drawn(2, 3, 4).requires_grad_(), drawn(2, 3, 4, seed=1)
        with GuidedListener() as listener:
            made = RECTIFIERS[name](1 * image)
        assert listener.count == 1
        assert_close(made, image.relu())
        (gradient,) = torch.autograd.grad((made * weights).sum(), image)
        assert_close(gradient, torch.where(image > 0, weights.relu(), 0))

    @pytest.mark.parametrize("function", [nn.GELU(), nn.Hardtanh(), nn.LeakyReLU(), nn.Sigmoid(), torch.square])
    def test_others_are_left_alone(self, function: Any) -> None:
        image = drawn(2, 3).requires_grad_()
        with GuidedListener() as listener:
            made = function(image)
        assert listener.count == 0
        (gradient,) = torch.autograd.grad(-made.sum(), image)
        (expected,) = torch.autograd.grad(-function(image).sum(), image)
        assert_close(gradient, expected)

    def test_several_targets_at_once(self) -> None:
        image = drawn(2, 3).requires_grad_()
        with GuidedListener():
            made = (2 * image).relu()
        wanted = drawn(4, 2, 3, seed=1)
        (together,) = torch.autograd.grad(made, image, wanted, is_grads_batched=True)
        assert_close(together, torch.where(image > 0, 2 * wanted.relu(), 0))


def test_listening_ends_with_the_context() -> None:
    kept: list[Tensor] = []
    with pytest.raises(RuntimeError, match="inside"), AttentionListener(2, kept.append):
        raise RuntimeError("inside")
    (QUERY @ KEY.mT).softmax(-1)
    functional.scaled_dot_product_attention(QUERY, KEY, VALUE)
    assert kept == []
