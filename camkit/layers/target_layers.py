"""The layers that maps are made of: those the user named, or default ones. The one place that remembers choices."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from copy import copy
from functools import partial
from typing import Any, NamedTuple

from torch import nn

from camkit.compat import tree_leaves
from camkit.engine.forward import Forward
from camkit.engine.hooks import parse_name
from camkit.engine.network import Network
from camkit.engine.scores import has_functions
from camkit.errors import CamkitError, LayerError, UsageError
from camkit.layers.calls import settle_calls
from camkit.layers.default_layers import Choice, Chosen, Question, choose
from camkit.layers.feature_maps import FeatureMaps
from camkit.layers.layout_finder import LayoutFinder
from camkit.layers.names import LIST_LAYERS, find_layers
from camkit.methods.needs import DefaultLayer
from camkit.typing import Images, Layers, ReshapeTransform, Targets


class TargetLayer(NamedTuple):
    """A layer that maps are made of, and why it was chosen; no reason where the user named it."""

    name: str
    module: nn.Module
    reason: str = ""


class TargetLayers:
    """The target layers of a network, and how they are laid out.

    Args:
        network: whose.
        layers: dotted names or modules; None for default ones.
        num_extra_tokens: for token layers, how many tokens in front of the grid belong to no place; None finds out.
        reshape_transform: the user's own layout.

    Raises:
        UsageError: no such layer, or no such number of tokens.
    """

    def __init__(
        self,
        network: Network,
        layers: Layers = None,
        *,
        num_extra_tokens: int | None = None,
        reshape_transform: ReshapeTransform | None = None,
    ) -> None:
        if num_extra_tokens is not None and (not isinstance(num_extra_tokens, int) or num_extra_tokens < 0):
            raise UsageError(f"num_extra_tokens is a number of tokens, got {num_extra_tokens!r}")
        self.network = network
        self.num_extra_tokens = num_extra_tokens
        self.reshape_transform = reshape_transform
        self.names = None if layers is None else list(find_layers(network.model, layers))
        """The layers that the user named; None for default ones."""
        self._frozen: dict[DefaultLayer, Sequence[str]] = {}
        self._last: dict[DefaultLayer, tuple[Any, Chosen]] = {}

    def resolve(
        self, rule: DefaultLayer, images: Images, targets: Targets, *, without_gradients: bool = False
    ) -> list[TargetLayer]:
        """The layers for these images and targets; default ones are chosen by ``rule``, and remembered.

        Args:
            rule: for default layers.
            images: prepared.
            targets: of the images.
            without_gradients: where no gradient reaches any layer, one will do that none reaches.

        Raises:
            UsageError: a layer that was named isn't in the model any more.
            LayerError: see :func:`camkit.layers.default_layers.choose`.
        """
        names = self._frozen.get(rule) if self.names is None else self.names
        if names is not None:
            return self._at([Choice(name, "") for name in names])
        try:
            return self._by_rule(rule, images, targets)
        except LayerError:
            if not without_gradients:
                raise
        question = Question(self.network, images, targets, self.num_extra_tokens, without_gradients=True)
        return self._at(choose(rule, question).choices)

    def resolve_again(
        self, chosen: Sequence[TargetLayer], rule: DefaultLayer, images: Images, targets: Targets
    ) -> list[TargetLayer] | None:
        """Other default layers, where those remembered aren't live any more: other targets, weights, arguments.

        Returns:
            None where the layers are not chosen by a rule, the rule leads to the same ones, or the network has other
            parameters for a while.
        """
        with self.network.borrowed() as cache:
            is_altered = cache.is_altered
        if self.names is not None or rule in self._frozen or is_altered:
            return None
        again = self._by_rule(rule, images, targets, anew=True)
        return again if [each.name for each in again] != [each.name for each in chosen] else None

    def freeze(self, layers: Mapping[DefaultLayer, Sequence[str]]) -> TargetLayers:
        """The same layers for all images to come, in place of default ones by rule."""
        frozen = copy(self)
        frozen._frozen = dict(layers) if self.names is None else {}
        return frozen

    def lay_out(self, forward: Forward, layers: Sequence[TargetLayer], blocks: Mapping[str, nn.Module]) -> FeatureMaps:
        """What the layers returned in a forward, as feature maps.

        Raises:
            LayerError: a layer that doesn't run, or can't be laid out.
        """
        finder = LayoutFinder(forward, self.num_extra_tokens, self.reshape_transform)
        return FeatureMaps(forward, [layer.name for layer in layers], finder, blocks)

    def settle_calls(self, forward: Forward) -> bool:
        """See :func:`camkit.layers.calls.settle_calls`."""
        return settle_calls(forward, LayoutFinder(forward, self.num_extra_tokens, self.reshape_transform))

    def advice(self, images: Images, targets: Targets) -> str:
        """The end of a message about a layer that can't be used: the last ones that can."""
        try:
            norms = Question(self.network, images, targets, self.num_extra_tokens).norms()
        except CamkitError:  # the error that is being reported says more
            norms = []
        live = [each.name for each in norms if each.is_live]
        return f"; live norm layers: {', '.join(map(repr, live[-3:]))}; {LIST_LAYERS}" if live else f"; {LIST_LAYERS}"

    def _by_rule(
        self, rule: DefaultLayer, images: Images, targets: Targets, *, anew: bool = False
    ) -> list[TargetLayer]:
        """The layers that a rule leads to, as remembered or, if that is no good any more, ``anew``."""
        question = Question(self.network, images, targets, self.num_extra_tokens)
        return self._at(self._chosen(rule, question, anew=anew).choices)

    def _at(self, choices: Sequence[Choice]) -> list[TargetLayer]:
        """The layers as they are now: a module may have been replaced since it was named."""
        model = self.network.model
        try:
            return [TargetLayer(name, model.get_submodule(parse_name(name).module), why) for name, why in choices]
        except AttributeError:
            find_layers(model, [name for name, _ in choices])  # says what there is
            raise

    def _chosen(self, rule: DefaultLayer, question: Question, *, anew: bool) -> Chosen:
        network, size = self.network, tuple(question.images.shape[1:])
        if callable(network.output):  # which may look anywhere
            return choose(rule, question)
        if has_functions(question.targets):
            # Functions may look anywhere too: what was chosen is remembered here alone, for others of the last kind.
            with network.borrowed() as cache:
                asked = size, {kind_of(each) for each in tree_leaves(question.targets)}, cache.changes
                if anew or rule not in self._last or self._last[rule][0] != asked:
                    self._last[rule] = asked, choose(rule, question)
            return self._last[rule][1]
        about = "default layers", rule, self.num_extra_tokens, network.output, network.arguments, len(size)
        with network.borrowed() as cache:
            known: Chosen | None = cache.find((*about, size)) or cache.find(about)
            if known is not None and not anew:
                return known
            chosen = choose(rule, question)
            cache.keep((*about, size), chosen)
            if chosen.at_any_size:
                cache.keep(about, chosen)
        return chosen


def kind_of(target: Any, seen: frozenset[int] = frozenset()) -> Hashable:
    """What a score function looks at, as far as can be told without running it: its code, or its class.

    Words and switches that it holds may choose a part of the output. Numbers and tensors are what it looks for there;
    they change from image to image.
    """
    if not callable(target) or id(target) in seen:  # functions may call themselves
        return "index"
    seen |= {id(target)}
    if isinstance(target, partial):
        held = [*target.args, *target.keywords.values()]
        return kind_of(target.func, seen), *(each for each in held if isinstance(each, str | bool | None))
    code = getattr(getattr(target, "__func__", target), "__code__", None)
    cells = getattr(target, "__closure__", None) or ()
    held = [cell.cell_contents for cell in cells] if code else list(getattr(target, "__dict__", {}).values())
    held += [*(getattr(target, "__defaults__", None) or ()), *(getattr(target, "__kwdefaults__", None) or {}).values()]
    inner = [kind_of(each, seen) for each in held if callable(each) and not isinstance(each, type | nn.Module)]
    words = [each for each in held if isinstance(each, str | bool | None)]
    return code or type(target), *words, *inner
