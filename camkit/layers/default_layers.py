"""The rules by which target layers are chosen where none are named."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch.fx
from torch import nn

from camkit.engine.network import Network, is_script
from camkit.errors import LayerError, TokenGridError
from camkit.layers.liveness import Candidate, probe
from camkit.layers.names import LIST_LAYERS, backbone_modules, is_norm
from camkit.layers.token_grid import as_text
from camkit.methods.needs import DefaultLayer
from camkit.typing import Images, Targets

MOST_RESOLUTIONS = 4
"""How many layers are chosen at most for maps of several resolutions; convolutional networks have as many stages."""


_POOLS = (nn.modules.pooling._AdaptiveAvgPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd)


class Choice(NamedTuple):
    """A layer, and in words why it was chosen."""

    name: str
    reason: str


@dataclass(frozen=True)
class Chosen:
    """Layers by one of the rules.

    Attributes:
        choices: in the order of execution.
        at_any_size: whether images of another size would lead to the same ones: no layer was passed over because its
            grid is too small, or its tokens make none, for images of this size.
    """

    choices: tuple[Choice, ...]
    at_any_size: bool


@dataclass(frozen=True)
class Question:
    """What the default layers are asked for.

    Attributes:
        without_gradients: whether layers that no gradient reaches will do.
    """

    network: Network
    images: Images
    targets: Targets
    num_extra_tokens: int | None = None
    without_gradients: bool = False

    def probe(self, layers: Mapping[str, nn.Module]) -> list[Candidate]:
        """See :func:`camkit.layers.liveness.probe`."""
        gradients = not self.without_gradients
        layers = {name: module for name, module in layers.items() if not is_script(module)}
        found = probe(self.network, layers, self.images, self.targets, self.num_extra_tokens, gradients=gradients)
        if gradients:
            return found
        return [replace(each, live_places=math.prod(each.layout.grid) if each.layout else 0) for each in found]

    def norms(self) -> list[Candidate]:
        """The norm layers of the backbone."""
        return self.probe({name: m for name, m in backbone_modules(self.network.model).items() if is_norm(m)})


def choose(rule: DefaultLayer, question: Question) -> Chosen:
    """Choose target layers.

    - ``LAST_NORM``: the last norm layer of the backbone, in the order of execution, that is spatial and live. Spatial
      means that its output has more than one position; live, that the gradient of the class score is not zero at more
      than one of them. Behind the last attention of a network that classifies from its class token, only that token
      gets a gradient: the norms there are dead, and the one before the attention is chosen. Where no norm layer
      qualifies, the last live module without children is taken.
    - ``EVERY_RESOLUTION``: of every resolution, from the last :data:`MOST_RESOLUTIONS`, the last norm layer that is
      spatial and live. Where all live norm layers have one resolution, as many of them in even steps up to the last.
    - ``LAST``: the last layer of any kind that is spatial and live.

    Raises:
        TokenGridError: ``num_extra_tokens`` is given and fits no norm layer.
        LayerError: nothing in the network is spatial and live.
    """
    return _RULES[rule](question)


def _last_norm(question: Question) -> Chosen:
    norms = question.norms()
    live = _live(norms, question.images)
    if _sure(live):
        return _chosen(norms, [Choice(_sure(live)[-1].name, "the last norm layer that is spatial and live")])
    misfits = [candidate.problem for candidate in norms if isinstance(candidate.problem, TokenGridError)]
    if question.num_extra_tokens is not None and misfits:
        raise misfits[-1]
    modules = backbone_modules(question.network.model)
    leaves = {name: module for name, module in modules.items() if not list(module.children())}
    others = question.probe(leaves)
    found = _live(others, question.images)
    if _sure(found):
        reason = "the last live layer, as no norm layer is spatial and live"
        return _chosen([*norms, *others], [Choice(_sure(found)[-1].name, reason)])
    for unsure in (live, found):
        if unsure:
            reason = "the last live layer; whether its positions are places of the image can't be told"
            return _chosen([*norms, *others], [Choice(unsure[-1].name, reason)])
    spatial = [each.name for each in others if each.layout and not _is_input(each, question.images)]
    laid_out = [each for each in (*norms, *others) if each.layout]
    is_connected = any(each.is_connected for each in laid_out) if laid_out else None
    why = _cause(question.network.model, is_connected=is_connected)
    if why:
        raise LayerError(f"no layer can be chosen: {why}")
    if spatial:
        raise LayerError(
            f"the score depends on no place of any spatial layer (the last one is {spatial[-1]!r}), so no map can "
            f"say where: check the weights of the head, or name a layer with target_layers; {LIST_LAYERS}"
        )
    raise LayerError(
        f"no layer of the network has more than one place for a {as_text(question.images.shape[2:])} input, so no map "
        "can say where: it works on flattened or pooled features, or the images are too small for it"
    )


def _cause(model: nn.Module, *, is_connected: bool | None) -> str:
    """What keeps hooks or gradients from all layers of a network, as far as it shows; empty where nothing does.

    Args:
        model: the network.
        is_connected: whether a gradient of the score reaches any spatial layer; None where there is none.
    """
    modules = dict(model.named_modules())
    scripted = [name for name, module in modules.items() if is_script(module)]
    if scripted:
        return f"{scripted[0]!r} is TorchScript, whose layers take no hooks; build it from the module it was made from"
    quantised = [name for name, module in modules.items() if ".quantized" in type(module).__module__]
    if quantised:
        return (
            f"{quantised[0]!r} has quantised weights, which let no gradient through; explain the network as it was "
            "before"
        )
    if isinstance(model, torch.fx.GraphModule):
        return "it is a traced or exported program, whose layers are functions; pass the module it was made from"
    if is_connected is False:
        return (
            "no gradient comes back from the score to any of them, as the network runs them under no_grad or "
            "inference_mode, or detaches what they return; take that out, or take a method without gradients, such "
            "as EigenCAM"
        )
    return ""


def _last_norm_per_resolution(question: Question) -> Chosen:
    norms = question.norms()
    live = _sure(_live(norms, question.images))
    last = {each.layout.grid: each.name for each in live if each.layout}  # the last one of each
    names = list(last.values())[-MOST_RESOLUTIONS:]
    reason = "the last norm layer of its resolution that is spatial and live"
    if len(names) < 2 <= len(live):
        count = min(MOST_RESOLUTIONS, len(live))
        names = [live[len(live) * (number + 1) // count - 1].name for number in range(count)]
        reason = "one of the norm layers, in even steps, that are spatial and live"
    return _chosen(norms, [Choice(name, reason) for name in names]) if names else _last_norm(question)


def _last(question: Question) -> Chosen:
    candidates = question.probe(backbone_modules(question.network.model))
    live = _sure(_live(candidates, question.images))
    if not live:
        return _last_norm(question)
    return _chosen(candidates, [Choice(live[-1].name, "the last layer that is spatial and live")])


_RULES: dict[DefaultLayer, Callable[[Question], Chosen]] = {
    DefaultLayer.LAST_NORM: _last_norm,
    DefaultLayer.EVERY_RESOLUTION: _last_norm_per_resolution,
    DefaultLayer.LAST: _last,
}


def _chosen(candidates: Sequence[Candidate], choices: Sequence[Choice]) -> Chosen:
    names = [each.name for each in candidates]
    behind = candidates[names.index(choices[-1].name) + 1 :]
    return Chosen(tuple(choices), not any(map(_depends_on_size, behind)))


def _depends_on_size(candidate: Candidate) -> bool:
    """Whether a layer that can't be laid out might be with images of another size."""
    if isinstance(candidate.problem, TokenGridError):
        return True
    if isinstance(candidate.module, _POOLS) and candidate.module.output_size in (1, (1,), (1, 1), (1, 1, 1)):
        return False
    shape = candidate.shape
    is_map = candidate.problem is not None and len(shape) > 3
    return is_map and 1 in (math.prod(shape[2:]), math.prod(shape[1:-1]))


def _live(candidates: Sequence[Candidate], images: Images) -> list[Candidate]:
    """The live layers."""
    return [each for each in candidates if each.layout and each.is_live and not _is_input(each, images)]


def _sure(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those whose positions are places of the image for sure."""
    return [each for each in candidates if each.layout and each.layout.is_sure]


def _is_input(candidate: Candidate, images: Images) -> bool:
    """Whether a layer gives the image itself: one that normalises it or hands it on in front of the network."""
    return candidate.shape[1:] == tuple(images.shape[1:]) and not list(candidate.module.parameters())
