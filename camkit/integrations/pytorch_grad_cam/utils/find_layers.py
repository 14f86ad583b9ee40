"""Find layers in a model, and put others in their place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import nn


def replace_layer_recursive(model: nn.Module, old_layer: nn.Module, new_layer: nn.Module) -> bool:
    """Put ``new_layer`` in the place of ``old_layer``, where it comes first; whether it was found."""
    for parent, name, layer in _places(model):
        if layer is old_layer:
            parent._modules[name] = new_layer
            return True
    return False


def replace_all_layer_type_recursive(model: nn.Module, old_layer_type: type[nn.Module], new_layer: nn.Module) -> None:
    """Put ``new_layer``, one module for all, in the place of every layer of a type or of one derived from it."""
    for parent, name, layer in list(_places(model)):
        if isinstance(layer, old_layer_type):
            parent._modules[name] = new_layer


def find_layer_types_recursive(model: nn.Module, layer_types: Sequence[type[nn.Module]]) -> list[nn.Module]:
    """Every layer whose type is one of these, in the order of registration."""
    return find_layer_predicate_recursive(model, lambda layer: type(layer) in layer_types)


def find_layer_predicate_recursive(model: nn.Module, predicate: Callable[[nn.Module], bool]) -> list[nn.Module]:
    """Every layer for which ``predicate`` holds, in the order of registration; one that is used twice comes twice."""
    return [layer for _, _, layer in _places(model) if predicate(layer)]


def _places(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Parent, name and module of everything inside a model, parents first."""
    for name, layer in model._modules.items():
        if layer is not None:
            yield model, name, layer
            yield from _places(layer)
