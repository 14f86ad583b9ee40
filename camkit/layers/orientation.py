"""Whether a network has exchanged the image's sides in front of a layer.

A quarter of the image is changed, and the corner of the layer's output tells. Behind much mixing no corner stands out:
then the first convolutions of the network tell, in front of which networks exchange sides.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from camkit.engine.forward import Forward
from camkit.engine.hooks import Capture
from camkit.engine.rerun import alone_or_whole
from camkit.engine.tensors import detached
from camkit.errors import ForwardError
from camkit.layers.layout import Layout
from camkit.layers.locality import in_other_corner, tilted

FIRST = 4
"""How many of the network's convolutions tell."""


class Orientation:
    """What tilted images show of one forward's layers."""

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self._size = tuple(forward.images.shape[2:])

    @cached_property
    def tilted(self) -> tuple[int | None, Mapping[str, Any]]:
        """What the layers return for tilted images: for the first (0), or all (None); nothing where these fail."""
        forward = self._forward
        layers = {**self.witnesses, **forward.layers}

        def attempt(image: int | None) -> tuple[int | None, Mapping[str, Any]]:
            with torch.no_grad(), Capture(layers, roots=False, calls=forward.calls) as capture:
                forward.call(tilted(self._sample(image)))
            return image, capture.outputs

        try:
            return alone_or_whole(forward.network, attempt)
        except ForwardError:
            return None, {}

    @cached_property
    def witnesses(self) -> dict[str, nn.Module]:
        """The first convolutions, by name."""
        modules = self._forward.network.model.named_modules()
        found = [(name, module) for name, module in modules if name and isinstance(module, nn.Conv2d)]
        return dict(found[:FIRST])

    def of_layer(self, name: str, layout: Layout) -> bool | None:
        """Whether a layer's output looks turned; None where it does, and the network's first convolutions don't.

        Where the output's own corners tell nothing, the convolutions decide. What looks turned may also be rotated.
        """
        image, outputs = self.tilted
        if name not in outputs or len(self._size) != 2 or min(self._size) < 2:
            return False
        plain = layout.transform(detached(self._forward.outputs[name]))
        own = in_other_corner(layout.transform(outputs[name]) - (plain if image is None else plain[:1]))
        if own is False:
            return False
        return True if self._in_front(name) else None if own else False

    def _in_front(self, name: str) -> bool | None:
        """What the convolutions in front of a layer show, the last one first."""
        tilted_outputs = self.tilted[1]
        before = list(tilted_outputs)[: list(tilted_outputs).index(name)]
        for each in reversed([each for each in before if each in self._untilted]):
            plain, made = self._untilted[each], tilted_outputs[each]
            if isinstance(plain, Tensor) and plain.ndim == 4 and plain.shape == made.shape and min(plain.shape[2:]) > 1:
                turned = in_other_corner(made - plain)
                if turned is not None:
                    return turned
        return None

    @cached_property
    def _untilted(self) -> Mapping[str, Any]:
        """What the convolutions return for the images as they are; found once, however many layers ask."""
        try:
            with torch.no_grad(), Capture(self.witnesses, roots=False, calls=self._forward.calls) as capture:
                self._forward.call(self._sample(self.tilted[0]))
        except ForwardError:
            return {}
        return capture.outputs

    def _sample(self, image: int | None) -> Tensor:
        images = self._forward.images.detach()
        return images if image is None else images[:1]
