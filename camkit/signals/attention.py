"""The attention of a transformer's blocks, with its gradients, and the tokens that the score reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from camkit.compat import tree_flatten, tree_leaves, tree_unflatten
from camkit.engine.replay import Replay
from camkit.engine.tensors import at_least_float32, detached
from camkit.errors import LayerError
from camkit.layers.attention_blocks import INSTEAD, attention_blocks
from camkit.layers.feature_maps import FeatureMaps
from camkit.layers.layout import Layout
from camkit.layers.layout_finder import LayoutFinder
from camkit.methods.needs import Attended, AttentionNeed
from camkit.typing import SignedMaps


def attended(features: FeatureMaps, need: AttentionNeed) -> Iterator[Attended]:
    """What attention methods are called with, for one target after the other.

    Args:
        features: of a forward that recorded attention and the outputs of the blocks.
        need: whether there are gradients, and of which scores.

    Raises:
        LayerError: what a block returns are no tokens on a grid, or other ones than it attends to.
    """
    yield from _Attention(features).compute(need)


class _Attention:
    def __init__(self, features: FeatureMaps) -> None:
        self._forward = features.forward
        self._blocks = list(features.blocks)
        heard = [kept for path, kept in self._forward.heard.attention if any(name in self._blocks for name in path)]
        tokens = heard[-1].shape[-1] if heard else 0
        self._kept = [kept for kept in heard if kept.shape[-1] == tokens]
        self._last = self._blocks[-1]
        self._layout = _layout(features.finder, self._blocks)
        if self._layout.index is None or self._layout.axis is None:
            raise LayerError("attention methods lay tokens out themselves: leave reshape_transform out")
        self._index, self._axis = self._layout.index, self._layout.axis
        if len(self._kept) != len(self._blocks) or self._tokens(self._last).shape[1] != tokens:
            raise LayerError(f"the blocks up to {self._last!r} return other tokens than they attend to: {INSTEAD}")

    def compute(self, need: AttentionNeed) -> Iterator[Attended]:
        probabilities = [at_least_float32(kept.detach()) for kept in self._kept]
        own = self._own_scores() if need.gradients == "own" else None
        for target in range(self._forward.count):
            gradients: list[Tensor] = []
            if own is not None:
                for kept, scores in zip(self._kept, own, strict=True):
                    gradients += self._gradients([kept], target, scores)
            elif need.gradients == "score":
                gradients = self._gradients(self._kept, target)
            yield Attended(probabilities, gradients, self._readout(target), self._lay_out)

    def _lay_out(self, relevance: Tensor) -> SignedMaps:
        """Numbers by token, (T, B, N), as maps (T, B, *grid)."""
        front, back = self._layout.extra_tokens
        places = relevance[:, :, front : relevance.shape[2] - back]
        return torch.unflatten(places, 2, self._layout.grid)

    def _gradients(self, leaves: Sequence[Tensor], target: int, scores: Tensor | None = None) -> list[Tensor]:
        found = self._forward.gradients_in(leaves, target, scores)
        return [
            at_least_float32(torch.zeros_like(leaf) if gradient is None else gradient)[None]
            for leaf, gradient in zip(leaves, found, strict=True)
        ]

    def _readout(self, target: int) -> Tensor:
        """(1, B, N): the tokens behind the last block that the score depends on, with the same share each."""
        (gradient,) = self._forward.gradients_in([self._leaf(self._last)], target)
        if gradient is None:
            raise LayerError(f"the score doesn't depend on {self._last!r}, the last block with attention: {INSTEAD}")
        live = (self._to_tokens(gradient) != 0).any(2).to(torch.float32)
        return (live / live.sum(1, keepdim=True).clamp(min=1))[None].to(at_least_float32(gradient).dtype)

    def _own_scores(self) -> list[Tensor]:
        """Every block's own scores (B, T): of the network behind the last block, with the mean token in place of each.

        That is the last block of all, whichever are asked for.
        """
        forward = self._forward
        end = attention_blocks(forward.network, forward.images)[-1]
        replay = Replay(forward, end, None, repeats=False)
        scores = []
        for name in self._blocks:
            tokens = self._tokens(name)
            mean = tokens.mean(1, keepdim=True).expand_as(tokens)
            leaves, structure = tree_flatten(detached(replay.output))
            leaves[self._index] = self._from_tokens(mean, leaves[self._index])
            rows = replay(tree_unflatten(leaves, structure), len(forward.images))
            scores.append(forward.scores_in(rows, None))
        return scores

    def _leaf(self, block: str) -> Tensor:
        leaf: Tensor = tree_leaves(self._forward.outputs[block])[self._index]
        return leaf

    def _tokens(self, block: str) -> Tensor:
        """A block's output as (B, N, C)."""
        return self._to_tokens(self._leaf(block))

    def _to_tokens(self, leaf: Tensor) -> Tensor:
        return leaf.movedim(self._axis, -1).flatten(1, -2)

    def _from_tokens(self, tokens: Tensor, like: Tensor) -> Tensor:
        moved = like.movedim(self._axis, -1)
        return torch.unflatten(tokens, 1, moved.shape[1:-1]).movedim(-1, self._axis)


def _layout(finder: LayoutFinder, blocks: Sequence[str]) -> Layout:
    """How the blocks' tokens are laid out: the last block's where that can be told, else that of one before it."""
    problems = []
    for name in reversed(blocks):
        try:
            return next(iter(finder.of(name).values()))
        except LayerError as error:  # so deep in a network tokens may have little to do with their own places
            problems.append(error)
    raise problems[0]
