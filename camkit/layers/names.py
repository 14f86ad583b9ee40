"""Dotted layer names and the modules they stand for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

from camkit.compat import NORMS
from camkit.engine.hooks import parse_name
from camkit.engine.network import is_script, unwrap
from camkit.errors import LayerError, UsageError, closest
from camkit.typing import Layer

LIST_LAYERS = "list all with: camkit layers CONFIG"
_NORMS: tuple[type[nn.Module], ...] = (nn.modules.batchnorm._NormBase, *NORMS)


def layer_names(model: nn.Module) -> list[str]:
    """Every dotted name that can be a target layer, in the order of registration."""
    return [name for name, _ in model.named_modules() if name]


def find_layers(model: nn.Module, layers: Layer | Sequence[Layer]) -> dict[str, nn.Module]:
    """Find target layers by dotted name or by identity.

    Args:
        model: the network that owns the layers.
        layers: one layer or several, each a dotted name or a submodule of ``model``. Of a layer that returns several
            feature tensors ``name[0]`` means the first one alone; of one that runs several times ``name@0`` means the
            first call.

    Returns:
        Name to module, in the order asked for.

    Raises:
        UsageError: no layer given, one given twice, or one that ``model`` doesn't have.
        LayerError: a layer compiled by TorchScript, which camkit's hooks can't see into.
    """
    if not isinstance(layers, str | nn.Module | Iterable):
        raise UsageError(f"target layers are dotted names or modules, got {type(layers).__name__}")
    wanted = [layers] if isinstance(layers, str | nn.Module) else list(layers)
    if not wanted:
        raise UsageError("no target layer given: pass at least one name, or None for the default layer")
    by_name = {name: module for name, module in model.named_modules(remove_duplicate=False) if name}
    found: dict[str, nn.Module] = {}
    for layer in wanted:
        name = layer if isinstance(layer, str) else _name_of(layer, by_name)
        module = by_name.get(name) or by_name.get(parse_name(name).module)
        if module is None:
            raise UsageError(f"no layer {name!r}{closest(name, by_name)}; {_listing(by_name)}")
        if name in found:
            raise UsageError(f"target layer {name!r} is given twice")
        if is_script(module):
            raise LayerError(f"layer {name!r} is a TorchScript module, which takes no hooks: pass the eager model")
        found[name] = module
    return found


def backbone_of(model: nn.Module) -> tuple[str, nn.Module]:
    """The part of ``model`` that default layers are chosen from: ``model.backbone`` where there is one, else all."""
    # Not by attribute: wrappers such as PEFT's pass on the attributes of what they hold, which are no paths.
    backbone = model._modules.get("backbone")
    return ("", model) if backbone is None else ("backbone", backbone)


def backbone_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Name to module for all of the backbone."""
    prefix, backbone = backbone_of(model)
    return {name: module for name, module in backbone.named_modules(prefix=prefix) if name}


def is_norm(module: nn.Module) -> bool:
    """Whether ``module`` normalises: a torch norm layer, or a class that says so (LayerNorm2d, GRN, ...).

    A wrapper such as LeViT's LinearBatchNorm or MLPLayerWithBN counts where its last part is a norm: PreNorm ends in
    something else.
    """
    if isinstance(module, _NORMS):
        return True
    name = type(module).__name__
    parts = list(module.children())
    says_so = "norm" in name.lower() or name.lower() == "grn" or (bool(parts) and "BN" in name)
    return says_so and (not parts or is_norm(parts[-1]))


def declared_extra_tokens(model: nn.Module) -> int | None:
    """How many class, distillation and register tokens the network says it puts in front, or None if it is silent."""
    _, backbone = backbone_of(model)
    for owner in (backbone, getattr(model, "model", None)):
        for attribute in ("num_extra_tokens", "num_prefix_tokens"):
            count = getattr(owner, attribute, None)
            if isinstance(count, int):
                return count
    return None


def _name_of(module: nn.Module, by_name: dict[str, nn.Module]) -> str:
    if not isinstance(module, nn.Module):
        raise UsageError(f"a target layer is a dotted name or a module of the model, got {type(module).__name__}")
    module = unwrap(module)
    for name, candidate in by_name.items():
        if candidate is module:
            return name
    raise UsageError(f"the {type(module).__name__} given as target layer is not a submodule of the model")


def _listing(by_name: dict[str, nn.Module]) -> str:
    """The top of the tree, and how to see the rest."""
    top = [name for name in by_name if "." not in name]
    shown = ", ".join(top[:6]) + (", ..." if len(top) > 6 else "")
    return f"top-level layers: {shown or 'none'}; {LIST_LAYERS}"
