"""What the layers of a network are good for, and the default target layer: the last live normalisation."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from camkit.capture import is_float
from camkit.errors import LayerError, TokenGridError
from camkit.forward import Seen, Setup, forward
from camkit.layers import LIST_LAYERS, backbone_of, is_norm, resolve, split_branch
from camkit.layout import Layout
from camkit.memory import PerModel
from camkit.outputs import answer
from camkit.run import backward, laid_out_gradients
from camkit.shapes import Images
from camkit.targets import Targets, require_finite, rows, score
from camkit.tokens import as_text

RESOLUTIONS = 4
"""How many layers :func:`default_layers` chooses at most; convolutional networks have as many stages."""


@dataclass(frozen=True)
class Choice:
    """A layer, and in words why it was chosen."""

    name: str
    why: str


@dataclass(frozen=True)
class Candidate:
    """A layer that ran.

    Attributes:
        name: as ``target_layers`` takes it.
        module: the layer.
        shape: of the tensor it returned, the first one where none makes a map; () for none.
        layout: how it is laid out; None where it can't be.
        live_places: at how many places the score depends on it.
        problem: why it can't be laid out.
    """

    name: str
    module: nn.Module
    shape: tuple[int, ...] = ()
    layout: Layout | None = None
    live_places: int = 0
    problem: LayerError | None = None

    @property
    def is_live(self) -> bool:
        """Whether the score can be traced to more than one place."""
        return self.live_places > 1


def default_layer(model: nn.Module, images: Images, targets: Targets = None, setup: Setup | None = None) -> Choice:
    """Choose the last norm layer of the backbone, in execution order, that is spatial and live.

    Spatial means that its output has more than one position; live, that the gradient of the class score is not zero
    at more than one of them. Behind the last attention of a network that classifies from its class token, only that
    token gets a gradient: the norms there are dead, and the one before the attention is chosen. Where no norm layer
    qualifies, the last live module without children is. One forward and one backward, on the first image, and what
    laying out takes (:meth:`camkit.forward.Seen.layouts`); remembered for the model and the size of the images.

    Raises:
        TokenGridError: ``num_extra_tokens`` is given and fits no norm layer.
        LayerError: nothing in the network is spatial and live.
    """
    return _remembered(model, images, targets, setup or Setup(), _choose)[0]


def default_layers(
    model: nn.Module,
    images: Images,
    targets: Targets = None,
    setup: Setup | None = None,
    kind: str = "norm",
) -> list[Choice]:
    """Choose the layers that a kind of method takes, in execution order.

    - ``"norm"``: the one of :func:`default_layer`.
    - ``"resolutions"``, for methods that take what several layers agree on: of every resolution, from the last
      :data:`RESOLUTIONS`, the last norm layer that is spatial and live. Where all live norm layers have one resolution,
      as many of them in even steps up to the last.
    - ``"last"``, for methods that read the head: the last layer of any kind that is spatial and live.

    Remembered, and errors, as in :func:`default_layer`.
    """
    return _remembered(model, images, targets, setup or Setup(), _CHOOSING[kind])


def _remembered(
    model: nn.Module,
    images: Images,
    targets: Targets,
    setup: Setup,
    choose: Callable[[nn.Module, Images, Targets, Setup], list[Choice]],
) -> list[Choice]:
    if callable(setup.output) or has_functions(targets):  # which may look anywhere
        return choose(model, images, targets, setup)
    kwargs = tuple((name, _identity(value)) for name, value in setup.forward_kwargs.items())
    key = (choose, tuple(images.shape[1:]), setup.num_extra_tokens, setup.output, kwargs)
    known = _CHOICES.of(model)
    if key not in known or not all(_is_there(model, *each) for each in known[key]):
        choices = choose(model, images, targets, setup)
        known[key] = [(choice, weakref.ref(resolve(model, choice.name)[choice.name])) for choice in choices]
    return [choice for choice, _ in known[key]]


def forget(model: nn.Module) -> None:
    """Choose anew next time: the choice that is remembered turned out not to be live."""
    _CHOICES.of(model).clear()


def probe(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    images: Images,
    targets: Targets = None,
    setup: Setup | None = None,
) -> list[Candidate]:
    """What became of ``layers`` with the first image, in execution order; layers that don't run are left out."""
    wanted = rows(targets, len(images))
    # A reshape_transform is made for the layers it is given with, not for every layer there is.
    setup = replace(setup or Setup(), reshape_transform=None)
    if not setup.needs_whole_batch:
        images, wanted = images[:1], None if wanted is None else wanted[:1]
    with forward(model, layers, images, setup, roots=True, copies=True) as seen:
        found = answer(seen.output, len(images), setup.output)
        _, scores = score(found.rows, wanted)
        require_finite(scores)
        kept = [leaf for leaf in tree_leaves(dict(seen.outputs)) if is_float(leaf)]
        gradients: Sequence[Tensor | None] = (None,) * len(kept)
        if kept and scores.requires_grad:
            gradients = backward(scores.sum().reshape(1, 1), kept, range(1))
        of = {id(leaf): gradient for leaf, gradient in zip(kept, gradients, strict=True)}
        return [each for name in seen.outputs for each in _candidates(seen, name, layers[name], of)]


def modules_of(model: nn.Module) -> dict[str, nn.Module]:
    """Name to module for all of the backbone, which default layers are chosen from."""
    prefix, backbone = backbone_of(model)
    return {name: module for name, module in backbone.named_modules(prefix=prefix) if name}


_Remembered = dict[Any, list[tuple[Choice, weakref.ref[nn.Module]]]]
_CHOICES: PerModel[_Remembered] = PerModel(dict)


def _identity(value: Any) -> Any:
    return value if isinstance(value, str | int | float | None) else id(value)


def _is_there(model: nn.Module, choice: Choice, module: weakref.ref[nn.Module]) -> bool:
    """Whether the model still has the layer, and under that name: it may have been replaced since."""
    try:
        return model.get_submodule(split_branch(choice.name)[0]) is module()
    except AttributeError:
        return False


def has_functions(targets: Targets) -> bool:
    """Whether there are functions among the targets."""
    return any(callable(leaf) for leaf in tree_leaves(targets) if not isinstance(leaf, Tensor))


def _choose_several(model: nn.Module, images: Images, targets: Targets, setup: Setup) -> list[Choice]:
    live = _live(_norms(model, images, targets, setup), images)
    last = {each.layout.grid: each.name for each in live if each.layout}  # the last one of each
    names = list(last.values())[-RESOLUTIONS:]
    why = "the last norm layer of its resolution that is spatial and live"
    if len(names) < 2 <= len(live):
        count = min(RESOLUTIONS, len(live))
        names = [live[len(live) * (number + 1) // count - 1].name for number in range(count)]
        why = "one of the norm layers, in even steps, that are spatial and live"
    return [Choice(name, why) for name in names] or _choose(model, images, targets, setup)


def _choose_last(model: nn.Module, images: Images, targets: Targets, setup: Setup) -> list[Choice]:
    live = _last_live(probe(model, modules_of(model), images, targets, setup), images)
    if live is None:
        return _choose(model, images, targets, setup)
    return [Choice(live, "the last layer that is spatial and live")]


def _norms(model: nn.Module, images: Images, targets: Targets, setup: Setup) -> list[Candidate]:
    norms = {name: module for name, module in modules_of(model).items() if is_norm(module)}
    return probe(model, norms, images, targets, setup)


def _choose(model: nn.Module, images: Images, targets: Targets, setup: Setup) -> list[Choice]:
    modules = modules_of(model)
    norms = _norms(model, images, targets, setup)
    live = _last_live(norms, images)
    if live:
        return [Choice(live, "the last norm layer that is spatial and live")]
    misfits = [candidate.problem for candidate in norms if isinstance(candidate.problem, TokenGridError)]
    if setup.num_extra_tokens is not None and misfits:
        raise misfits[-1]
    leaves = {name: module for name, module in modules.items() if not list(module.children())}
    others = probe(model, leaves, images, targets, setup)
    live = _last_live(others, images)
    if live:
        return [Choice(live, "the last live layer, as no norm layer is spatial and live")]
    spatial = [candidate.name for candidate in others if candidate.layout and not _is_input(candidate, images)]
    if spatial:
        raise LayerError(
            f"the score depends on no place of any spatial layer (the last one is {spatial[-1]!r}), so no map can "
            f"say where: check the weights of the head, or name a layer with target_layers; {LIST_LAYERS}"
        )
    raise LayerError(
        f"no layer of the network has more than one place for a {as_text(images.shape[2:])} input, so no map can say "
        "where: it works on flattened or pooled features, or the images are too small for it"
    )


_CHOOSING = {"norm": _choose, "resolutions": _choose_several, "last": _choose_last}


def _last_live(candidates: Sequence[Candidate], images: Images) -> str | None:
    """The last live layer whose layout is sure, else the last live one."""
    return next((each.name for each in reversed(_live(candidates, images))), None)


def _live(candidates: Sequence[Candidate], images: Images) -> list[Candidate]:
    """The live layers whose layout is sure, else all live ones."""
    live = [each for each in candidates if each.layout and each.is_live and not _is_input(each, images)]
    return [each for each in live if each.layout and each.layout.is_sure] or live


def _is_input(candidate: Candidate, images: Images) -> bool:
    """Whether a layer gives the image itself: one that normalises it or hands it on in front of the network."""
    return candidate.shape[1:] == tuple(images.shape[1:]) and not list(candidate.module.parameters())


def _candidates(seen: Seen, name: str, module: nn.Module, of: Mapping[int, Tensor | None]) -> list[Candidate]:
    output = seen.outputs[name]
    shapes = [tuple(leaf.shape) for leaf in tree_leaves(output) if is_float(leaf)]
    try:
        layouts = seen.layouts(name)
    except LayerError as error:
        return [Candidate(name, module, shapes[0] if shapes else (), problem=error)]
    found = {branch: (layout, laid_out_gradients(layout, output, of, 1)[0, 0]) for branch, layout in layouts.items()}
    return [
        Candidate(branch, module, layout.shape, layout, int((gradient != 0).any(0).sum()))
        for branch, (layout, gradient) in found.items()
    ]
