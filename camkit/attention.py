"""A transformer's blocks, and what attention methods get of them."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from camkit.errors import LayerError
from camkit.forward import Setup, forward
from camkit.layers import LIST_LAYERS
from camkit.layout import Layout, full
from camkit.memory import PerModel
from camkit.methods.requests import Attended, Attention
from camkit.recording import Recording
from camkit.run import Pass
from camkit.shapes import Images, SignedMaps
from camkit.tail import Tail

INSTEAD = "use LayerCAM or GradCAM"


def blocks_of(
    model: nn.Module, images: Images, setup: Setup, inside: Sequence[str] | None = None, *, or_all: bool = False
) -> dict[str, nn.Module]:
    """The blocks of a transformer: modules with one attention over all tokens each, from front to back.

    Where attention works at several resolutions, the blocks at the last one count. Remembered for the model and the
    size of the images; one forward of one image.

    Args:
        model: the network.
        images: to run it on.
        setup: how it is called.
        inside: names of layers; only blocks that are these or inside them count.
        or_all: all blocks, where none is inside.

    Raises:
        LayerError: there are none.
    """
    size = tuple(images.shape[1:])
    known = _BLOCKS.of(model)
    modules = dict(model.named_modules())
    if not all(name in modules and modules[name] is module() for name, module in known.get(size, _NONE).items()):
        del known[size]  # the network was changed
    if size not in known:
        known[size] = {name: weakref.ref(modules[name]) for name in _find(model, images, setup)}
    names = list(known[size])
    if inside is not None:
        chosen = [name for name in names if any(name == each or name.startswith(f"{each}.") for each in inside)]
        if not chosen and not or_all:
            raise LayerError(
                f"no attention block in {', '.join(map(repr, inside))}: leave target layers out for all blocks, "
                f"or name some: {', '.join(map(repr, names))}; {LIST_LAYERS}"
            )
        names = chosen or names
    return {name: modules[name] for name in names}


_Blocks = dict[str, weakref.ref[nn.Module]]
_BLOCKS: PerModel[dict[tuple[int, ...], _Blocks]] = PerModel(dict)
_NONE: _Blocks = {}


def _find(model: nn.Module, images: Images, setup: Setup) -> list[str]:
    shown = images if setup.needs_whole_batch else images[:1]
    with forward(model, {}, shown, setup, roots=False, recording=Recording(attention=True)) as seen:
        heard, others = seen.heard.attention, seen.heard.other_attention
    if not heard:
        what = (
            f"attends only within windows or to other tokens ({others} times)" if others else "has no attention at all"
        )
        raise LayerError(
            f"attention methods need attention over all tokens of an image, and this network {what}: {INSTEAD}"
        )
    tokens = heard[-1][1].shape[-1]
    paths = [path for path, probabilities in heard if probabilities.shape[-1] == tokens]
    count = Counter(name for path in paths for name in set(path))
    elements = {
        f"{name}.{child}" if name else child
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential)
        for child, _ in module.named_children()
    }
    found = []
    for path in paths:
        alone = [name for name in path if name and count[name] == 1]
        listed = [name for name in alone if name in elements]
        if not alone:
            raise LayerError(f"several attentions share the module {path[-1]!r}, so they make no blocks: {INSTEAD}")
        found.append((listed or alone)[0])
    return found


class Attending:
    """Answers :class:`camkit.methods.requests.Attention` from a pass whose forward kept the blocks.

    Args:
        evidence: recorded with attention, and the outputs of ``blocks``.
        blocks: name to module, from front to back.

    Raises:
        LayerError: what a block returns are no tokens on a grid, or other ones than it attends to.
    """

    def __init__(self, evidence: Pass, blocks: Mapping[str, nn.Module]) -> None:
        self._evidence = evidence
        self._blocks = blocks
        seen = evidence.seen
        heard = [(path, kept) for path, kept in seen.heard.attention if any(name in blocks for name in path)]
        tokens = heard[-1][1].shape[-1] if heard else 0
        self._kept = [kept for _, kept in heard if kept.shape[-1] == tokens]
        self._last = list(blocks)[-1]
        self._layout = _layout(evidence, list(blocks))
        if self._layout.index is None or self._layout.axis is None:
            raise LayerError("attention methods lay tokens out themselves: leave reshape_transform out")
        self._index, self._axis = self._layout.index, self._layout.axis
        if len(self._kept) != len(blocks) or self._tokens(self._output(self._last)).shape[1] != tokens:
            raise LayerError(f"the blocks up to {self._last!r} return other tokens than they attend to: {INSTEAD}")

    def answers(self, request: Attention) -> Iterator[Attended]:
        """What a method gets, for one target after the other."""
        probabilities = [full(kept.detach()) for kept in self._kept]
        own = self._own_scores() if request.gradients == "own" else None
        for target in range(self._evidence.count):
            gradients: list[Tensor] = []
            if own is not None:
                for kept, scores in zip(self._kept, own, strict=True):
                    gradients += self._gradients([kept], target, scores)
            elif request.gradients == "score":
                gradients = self._gradients(self._kept, target)
            yield Attended(probabilities, gradients, self._readout(target), self._lay_out)

    def _lay_out(self, relevance: Tensor) -> SignedMaps:
        """Numbers by token, (T, B, N), as maps (T, B, *grid)."""
        front, back = self._layout.extra_tokens
        places = relevance[:, :, front : relevance.shape[2] - back]
        return torch.unflatten(places, 2, self._layout.grid)

    def _gradients(self, leaves: Sequence[Tensor], target: int, scores: Tensor | None = None) -> list[Tensor]:
        found = self._evidence.gradients_of(leaves, target, scores)
        return [full(torch.zeros_like(leaf) if g is None else g)[None] for leaf, g in zip(leaves, found, strict=True)]

    def _readout(self, target: int) -> Tensor:
        """(1, B, N): the tokens behind the last block that the score depends on, with the same share each."""
        (gradient,) = self._evidence.gradients_of([self._leaf(self._output(self._last))], target)
        if gradient is None:
            raise LayerError(f"the score doesn't depend on {self._last!r}, the last block with attention: {INSTEAD}")
        live = (self._to_tokens(gradient) != 0).any(2).to(torch.float32)
        return (live / live.sum(1, keepdim=True).clamp(min=1))[None].to(full(gradient).dtype)

    def _own_scores(self) -> list[Tensor]:
        """Every block's own scores (B, T): the network behind the last block, with the mean token in place of each.

        That is the last block of all, whichever are asked for.
        """
        seen = self._evidence.seen
        end = list(_BLOCKS.of(seen.model)[tuple(seen.images.shape[1:])])[-1]
        tail = Tail(
            seen.model,
            end,
            seen.model.get_submodule(end),
            seen.images.detach(),
            self._evidence.rows_of,
            partial(self._evidence.numbers_in, image=None),
            repeats=False,
        )
        scores = []
        for name in self._blocks:
            tokens = self._tokens(self._output(name))
            mean = tokens.mean(1, keepdim=True).expand_as(tokens)
            leaves, structure = tree_flatten(tree_map(_detached, tail.output))
            leaves[self._index] = self._from_tokens(mean, leaves[self._index])
            rows = tail(tree_unflatten(leaves, structure), len(seen.images))
            scores.append(self._evidence.scores_in(rows, None))
        return scores

    def _output(self, name: str) -> object:
        return self._evidence.seen.outputs[name]

    def _leaf(self, output: object) -> Tensor:
        leaf: Tensor = tree_leaves(output)[self._index]
        return leaf

    def _tokens(self, output: object) -> Tensor:
        """A block's output as (B, N, C)."""
        return self._to_tokens(self._leaf(output))

    def _to_tokens(self, leaf: Tensor) -> Tensor:
        return leaf.movedim(self._axis, -1).flatten(1, -2)

    def _from_tokens(self, tokens: Tensor, like: Tensor) -> Tensor:
        moved = like.movedim(self._axis, -1)
        return torch.unflatten(tokens, 1, moved.shape[1:-1]).movedim(-1, self._axis)


def _layout(evidence: Pass, names: Sequence[str]) -> Layout:
    """How the blocks' tokens are laid out: the last block's where that can be told, else that of one before it."""
    problems = []
    for name in reversed(names):
        try:
            return next(iter(evidence.seen.layouts(name).values()))
        except LayerError as error:  # so deep in a network tokens may have little to do with their own places
            problems.append(error)
    raise problems[0]


def _detached(leaf: object) -> object:
    return leaf.detach() if isinstance(leaf, Tensor) else leaf
