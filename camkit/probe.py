"""The default target layer: the last normalisation whose places the class score can still be traced to."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from camkit.capture import Capture, is_float
from camkit.errors import LayerError
from camkit.layers import backbone_of, declared_extra_tokens, is_norm
from camkit.layout import plan
from camkit.run import as_input, backward
from camkit.shapes import Images
from camkit.state import borrowed
from camkit.targets import Targets, logits_of, rows, score


def default_layer(
    model: nn.Module, images: Images, targets: Targets = None, *, num_extra_tokens: int | None = None
) -> str:
    """Name the last norm layer of the backbone, in execution order, that is spatial and live.

    Spatial means that its output has more than one position; live, that the gradient of the class score is not zero
    at more than one of them. Behind the last attention of a network that classifies from its class token, only that
    token gets a gradient: the norms there are dead, and the one before the attention is chosen. Where no norm layer
    qualifies, the last live module without children is. One forward and one backward, on the first image.

    Raises:
        LayerError: nothing in the network is spatial and live.
    """
    prefix, backbone = backbone_of(model)
    modules = {name: module for name, module in backbone.named_modules(prefix=prefix) if name}
    norms = {name: module for name, module in modules.items() if is_norm(module)}
    leaves = {name: module for name, module in modules.items() if not list(module.children())}
    for candidates in (norms, leaves):
        live = live_layers(model, candidates, images, targets, num_extra_tokens=num_extra_tokens)
        if live:
            return live[-1]
    raise LayerError(
        "no layer of the network has places that the class score depends on, so no map can say where; name a layer "
        "with target_layers (--target-layers)"
    )


def live_layers(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    images: Images,
    targets: Targets = None,
    *,
    num_extra_tokens: int | None = None,
) -> list[str]:
    """The names among ``layers`` that are spatial and live for the first image, in execution order."""
    wanted = rows(targets, len(images))
    image = as_input(model, images[:1])
    with borrowed(model):
        image = image.clone() if image.is_inference() else image.detach()
        with Capture(layers, roots=True) as capture:
            output = model(image)
        # A gradient is asked for only where there is one plain tensor: containers hold layers that are candidates too.
        kept = {name: tensor for name, tensor in capture.outputs.items() if is_float(tensor)}
        _, scores = score(logits_of(output), wanted and wanted[:1])
        if not kept or not scores.requires_grad:
            return []
        gradients, _ = backward(scores.sum(), list(kept.values()))
    return [
        name
        for (name, tensor), gradient in zip(kept.items(), gradients, strict=True)
        if gradient is not None and _is_live(model, name, layers[name], tensor, gradient, image, num_extra_tokens)
    ]


def _is_live(
    model: nn.Module,
    name: str,
    module: nn.Module,
    tensor: Tensor,
    gradient: Tensor,
    image: Tensor,
    num_extra_tokens: int | None,
) -> bool:
    try:
        layout = plan(
            name,
            module,
            tensor,
            image,
            num_extra_tokens=num_extra_tokens,
            declared_extra_tokens=declared_extra_tokens(model),
        )
    except LayerError:  # Not spatial: no candidate.
        return False
    positions: Tensor = (layout(gradient) != 0).any(1).sum()
    return int(positions) > 1
