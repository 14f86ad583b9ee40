"""Wrappers that take a CAM and are a CAM. They stack in either order, with the same result."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from camkit.cam import CAM, Explanation
from camkit.errors import UsageError
from camkit.methods import Reduction, principal_component
from camkit.shapes import Images
from camkit.targets import Targets, rows


class Wrapper(CAM):
    """A CAM around another one, whose model, method and layers are its own."""

    def __init__(self, cam: CAM, *, enabled: bool = True) -> None:
        if not isinstance(cam, CAM):
            raise UsageError(f"{type(self).__name__} wraps a CAM, got {type(cam).__name__}")
        self.cam = cam
        self.enabled = enabled
        name = type(self).__name__
        self.smoothing = cam.smoothing + ((name,) if enabled and name not in cam.smoothing else ())

    def __getattr__(self, name: str) -> Any:
        # Reached only for what the wrapper doesn't define. "cam" itself is missing while unpickling.
        if name == "cam":
            raise AttributeError(name)
        return getattr(self.cam, name)

    def target_layers(self, images: Images, targets: Targets = None) -> dict[str, nn.Module]:
        """See :meth:`camkit.CAM.target_layers`."""
        return self.cam.target_layers(images, targets)

    def compute(self, images: Images, targets: Targets = None, reduction: Reduction | None = None) -> Explanation:
        """See :meth:`camkit.CAM.compute`."""
        if not self.enabled:
            return self.cam.compute(images, targets, reduction)
        return replace(self.smooth(images, targets, reduction), smoothing=self.smoothing)

    def smooth(self, images: Images, targets: Targets, reduction: Reduction | None) -> Explanation:
        """What the wrapper adds."""
        raise NotImplementedError


class EigenSmooth(Wrapper):
    """Reduce the weighted channels to their first principal component in place of their sum.

    Methods that reduce to the principal component anyway stay as they are.

    Args:
        cam: what to wrap.
        enabled: False makes it equal to ``cam``.
    """

    def smooth(self, images: Images, targets: Targets, reduction: Reduction | None) -> Explanation:
        """The wrapped CAM with the other reduction."""
        return self.cam.compute(images, targets, principal_component)


@dataclass(frozen=True)
class View:
    """One test-time augmentation: the images flipped left to right or not, times ``factor``."""

    flip: bool
    factor: float

    def of(self, images: Images) -> Images:
        """The images as this view shows them."""
        return self.unflip(images) * self.factor

    def unflip(self, tensor: Tensor) -> Tensor:
        """Undo the flip of a tensor whose last dimension is the width."""
        return tensor.flip(-1) if self.flip else tensor


VIEWS = tuple(View(flip, factor) for flip, factor in product((False, True), (1.0, 0.9, 1.1)))
"""{identity, horizontal flip} x {1.0, 0.9, 1.1 times the input}. The unaugmented image comes first."""


class AugSmooth(Wrapper):
    """Average the finished maps, and the signed ones, over the test-time augmentations :data:`VIEWS`.

    Targets of None are decided once, on the images as given. Logits and scores are those of the images as given.
    Targets that name a place (:class:`camkit.SegmentationCategory`, :class:`camkit.BoxScore`) are refused.

    Args:
        cam: what to wrap.
        enabled: False makes it equal to ``cam``.
    """

    def smooth(self, images: Images, targets: Targets, reduction: Reduction | None) -> Explanation:
        """The mean over all views of the maps, each flipped back."""
        if any(
            not getattr(target, "follows_flips", True) for row in rows(targets, len(images)) or () for target in row
        ):
            raise UsageError(
                "a target that names a place in the image (a mask, a box) means something else in a mirrored view: "
                "leave out AugSmooth"
            )
        first = self.cam.compute(images, targets, reduction)
        views = [(view, self.cam.compute(view.of(images), first.targets, reduction)) for view in VIEWS[1:]]
        views.insert(0, (VIEWS[0], first))
        maps = torch.stack([view.unflip(explanation.maps) for view, explanation in views]).mean(0)
        raw = {
            layer: torch.stack([view.unflip(explanation.raw[layer]) for view, explanation in views]).mean(0)
            for layer in first.raw
        }
        lit = maps.flatten(2).any(2)
        empty = {place: line for place, line in first.empty.items() if not lit[place]}
        return replace(first, maps=maps, raw=raw, empty=empty)
