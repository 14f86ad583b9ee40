"""The default target layer: the last normalisation whose places the class score can still be traced to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from camkit.capture import Capture, is_float
from camkit.errors import LayerError, TokenGridError
from camkit.layers import backbone_of, declared_extra_tokens, is_norm
from camkit.layout import plan
from camkit.run import as_input, backward
from camkit.shapes import Images
from camkit.state import borrowed
from camkit.targets import Targets, logits_of, rows, score


@dataclass(frozen=True)
class Choice:
    """A layer, and in words why it was chosen."""

    name: str
    why: str


@dataclass(frozen=True)
class Candidate:
    """A layer that ran: at how many places the score depends on it, or why it has no places."""

    name: str
    live_places: int = 0
    problem: LayerError | None = None

    @property
    def is_live(self) -> bool:
        """Whether the score can be traced to more than one place."""
        return self.live_places > 1


def default_layer(
    model: nn.Module, images: Images, targets: Targets = None, *, num_extra_tokens: int | None = None
) -> Choice:
    """Choose the last norm layer of the backbone, in execution order, that is spatial and live.

    Spatial means that its output has more than one position; live, that the gradient of the class score is not zero
    at more than one of them. Behind the last attention of a network that classifies from its class token, only that
    token gets a gradient: the norms there are dead, and the one before the attention is chosen. Where no norm layer
    qualifies, the last live module without children is; where nothing is live, the last spatial norm layer, whose maps
    will be empty. One forward and one backward, on the first image.

    Raises:
        TokenGridError: ``num_extra_tokens`` is given and fits no norm layer.
        LayerError: nothing in the network is spatial.
    """
    prefix, backbone = backbone_of(model)
    modules = {name: module for name, module in backbone.named_modules(prefix=prefix) if name}
    norms = {name: module for name, module in modules.items() if is_norm(module)}
    probed = probe(model, norms, images, targets, num_extra_tokens=num_extra_tokens)
    live = [candidate.name for candidate in probed if candidate.is_live]
    if live:
        return Choice(live[-1], "the last norm layer that is spatial and live")
    misfits = [candidate.problem for candidate in probed if isinstance(candidate.problem, TokenGridError)]
    if num_extra_tokens is not None and misfits:
        raise misfits[-1]
    leaves = {name: module for name, module in modules.items() if not list(module.children())}
    others = probe(model, leaves, images, targets, num_extra_tokens=num_extra_tokens)
    live = [candidate.name for candidate in others if candidate.is_live]
    if live:
        return Choice(live[-1], "the last live layer, as no norm layer is spatial and live")
    spatial = [candidate.name for candidate in probed or others if candidate.problem is None]
    if spatial:
        return Choice(spatial[-1], "the last spatial layer, as the score depends on no place of any")
    raise LayerError(
        "no layer of the network has more than one place, so no map can say where; name a layer with target_layers "
        "(--target-layers)"
    )


def probe(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    images: Images,
    targets: Targets = None,
    *,
    num_extra_tokens: int | None = None,
) -> list[Candidate]:
    """What became of ``layers`` with the first image, in execution order; layers that don't run are left out."""
    wanted = rows(targets, len(images))
    # A copy: some networks normalise their input in place.
    image = as_input(model, images[:1]).detach().clone()
    with borrowed(model):
        with Capture(layers, roots=True) as capture:
            output = model(image)
        # A gradient is asked for only where there is one plain tensor: containers hold layers that are candidates too.
        kept = {name: tensor for name, tensor in capture.outputs.items() if is_float(tensor)}
        _, scores = score(logits_of(output), wanted and wanted[:1], batch=1)
        gradients: tuple[Tensor | None, ...] = (None,) * len(kept)
        if kept and scores.requires_grad:
            gradients, _ = backward(scores.sum(), list(kept.values()))
    candidates = []
    for (name, tensor), gradient in zip(kept.items(), gradients, strict=True):
        try:
            layout = plan(
                name,
                layers[name],
                tensor,
                images[:1],
                num_extra_tokens=num_extra_tokens,
                declared_extra_tokens=declared_extra_tokens(model),
            )
        except LayerError as error:
            candidates.append(Candidate(name, problem=error))
            continue
        places = 0 if gradient is None else int((layout(gradient) != 0).any(1).sum())
        candidates.append(Candidate(name, places))
    return candidates
