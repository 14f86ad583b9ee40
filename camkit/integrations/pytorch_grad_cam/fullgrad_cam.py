"""FullGrad."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from camkit.integrations.pytorch_grad_cam.base_cam import BaseCAM
from camkit.methods import Method, principal_component
from camkit.methods.maps import normalise, resize
from camkit.methods.registry import Maps


class FullGrad(BaseCAM):
    """FullGrad, see :class:`camkit.FullGrad`: of the whole network, whatever the target layers are.

    With ``eigen_smooth`` the first principal component of the maps of all layers takes the place of their sum.
    """

    camkit_method = "FullGrad"

    def __init__(self, model: Any, target_layers: Any = None, reshape_transform: Any = None, **others: Any) -> None:
        super().__init__(model, target_layers, reshape_transform, **{"compute_input_gradient": True, **others})

    def method_for(self, targets: Any, *, eigen_smooth: bool) -> Method:
        """With the other reduction for ``eigen_smooth``."""
        return replace(self.method, function=component) if eigen_smooth else self.method


def component(terms: Sequence[Tensor], size: tuple[int, ...]) -> Maps:
    """The first principal component of the maps of the input and of every layer with a bias.

    Args:
        terms: bias times gradient, (T, B, C, *S), per layer with a bias, and input times gradient.
        size: spatial size of the input.
    """
    layers = []
    for term in terms:
        summed = normalise(term.abs().flatten(0, 2)).view_as(term).sum(2)
        layers.append(torch.unflatten(resize(summed.flatten(0, 1), size), 0, summed.shape[:2]))
    maps = torch.stack(layers, 2)
    return Maps(torch.cat([principal_component(each, None) for each in maps]))
