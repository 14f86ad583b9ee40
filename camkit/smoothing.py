"""Wrappers that take a CAM and are a CAM. They stack in either order, with the same result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from camkit.cam import CAM
from camkit.engine.rerun import rerun_batch
from camkit.engine.scores import target_rows
from camkit.errors import UsageError
from camkit.explanation import Explanation
from camkit.layers.target_layers import TargetLayers
from camkit.methods import Method, Reduction, principal_component
from camkit.typing import Images, Targets


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

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.cam!r})" if self.enabled else repr(self.cam)

    def compute(
        self,
        images: Images,
        targets: Targets = None,
        methods: Sequence[Method] | None = None,
        *,
        layers: TargetLayers | None = None,
        reduction: Reduction | None = None,
        check: bool = True,
    ) -> list[Explanation]:
        """See :meth:`camkit.CAM.compute`."""
        methods = [self.method] if methods is None else methods
        layers = self.layers if layers is None else layers
        if not self.enabled:
            return self.cam.compute(images, targets, methods, layers=layers, reduction=reduction, check=check)
        smooth = self.smooth(images, targets, methods, layers=layers, reduction=reduction, check=check)
        return [explanation.replace(smoothing=self.smoothing) for explanation in smooth]

    def smooth(
        self,
        images: Images,
        targets: Targets,
        methods: Sequence[Method],
        *,
        layers: TargetLayers,
        reduction: Reduction | None,
        check: bool,
    ) -> list[Explanation]:
        """What the wrapper adds."""
        raise NotImplementedError


class EigenSmooth(Wrapper):
    """Reduce the weighted channels to their first principal component in place of their sum.

    Methods that reduce to the principal component anyway stay as they are.

    Args:
        cam: what to wrap.
        enabled: False makes it equal to ``cam``.

    Example:
        >>> cam = camkit.EigenSmooth(camkit.GradCAM(model, ["features"]))
        >>> cam(images, 3).shape
        torch.Size([2, 32, 32])
    """

    def smooth(
        self,
        images: Images,
        targets: Targets,
        methods: Sequence[Method],
        *,
        layers: TargetLayers,
        reduction: Reduction | None,
        check: bool,
    ) -> list[Explanation]:
        """The wrapped CAM with the other reduction."""
        return self.cam.compute(images, targets, methods, layers=layers, reduction=principal_component, check=check)


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
        chunk_size: how many images run through the network at a time, at most; at least one view of all images does.

    Example:
        >>> cam = camkit.AugSmooth(camkit.GradCAM(model, ["features"]), chunk_size=4)
        >>> cam(images, 3).shape
        torch.Size([2, 32, 32])
    """

    def __init__(self, cam: CAM, *, enabled: bool = True, chunk_size: int = 8) -> None:
        super().__init__(cam, enabled=enabled)
        if not isinstance(chunk_size, int) or chunk_size < 1:
            raise UsageError(f"chunk_size is a number of images, at least 1; got {chunk_size!r}")
        self.chunk_size = chunk_size

    def smooth(
        self,
        images: Images,
        targets: Targets,
        methods: Sequence[Method],
        *,
        layers: TargetLayers,
        reduction: Reduction | None,
        check: bool,
    ) -> list[Explanation]:
        """The mean over all views of the maps, each flipped back."""
        batch = len(images)
        rows = target_rows(targets, batch)
        if isinstance(rows, list) and not all(getattr(each, "follows_flips", True) for row in rows for each in row):
            raise UsageError(
                "a target that names a place in the image (a mask, a box) means something else in a mirrored view: "
                "leave out AugSmooth"
            )
        own = [method.name for method in methods if method.need.finds_targets]
        if own:
            raise UsageError(
                f"{', '.join(own)} finds other concepts in every view, which have no mean: leave out AugSmooth"
            )
        with self.network.borrowed():
            first = self.cam.compute(images, targets, methods, layers=layers, reduction=reduction, check=check)
            chosen = first[0].targets
            sums = [_Sum(explanation) for explanation in first]
            pairs = zip(methods, first, strict=True)
            # All views at the same layers.
            frozen = layers.freeze({method.default_layer: each.layers for method, each in pairs if method.of_layers})

            def explain(part: slice) -> tuple[Sequence[View], list[Explanation]]:
                views = VIEWS[1:][part]
                together = torch.cat([view.of(images) for view in views])
                repeated = chosen.repeat(len(views), 1) if isinstance(chosen, Tensor) else chosen * len(views)
                found = self.cam.compute(together, repeated, methods, layers=frozen, reduction=reduction, check=check)
                return views, found

            parts = rerun_batch(self.network, explain, len(VIEWS) - 1, batch, self.chunk_size, quiet=True)
            for views, found in parts:
                for total, explanation in zip(sums, found, strict=True):
                    total.add(views, explanation)
        return [total.mean() for total in sums]


class _Sum:
    """The maps of the views so far, flipped back and added up."""

    def __init__(self, first: Explanation) -> None:
        self._first = first
        self._maps = first.maps.clone()
        self._raw = {name: maps.clone() for name, maps in first.raw.items()}
        self._pixels = None if first.pixels is None else first.pixels.clone()

    def add(self, views: Sequence[View], found: Explanation) -> None:
        """Add what was found for several views of all images, one after the other."""
        for view, maps in zip(views, found.maps.chunk(len(views)), strict=True):
            self._maps += view.unflip(maps)
        for name, layer in found.raw.items():
            for view, maps in zip(views, layer.chunk(len(views)), strict=True):
                self._raw[name] += view.unflip(maps)
        if self._pixels is not None and found.pixels is not None:
            for view, pixels in zip(views, found.pixels.chunk(len(views)), strict=True):
                self._pixels += view.unflip(pixels)

    def mean(self) -> Explanation:
        """The explanation of the images as given, with the mean maps."""
        maps = self._maps / len(VIEWS)
        raw = {name: layer / len(VIEWS) for name, layer in self._raw.items()}
        empty = self._first.empty
        if empty:
            lit = maps.flatten(2).any(2)
            empty = {cell: line for cell, line in empty.items() if not lit[cell]}
        pixels = None if self._pixels is None else self._pixels / len(VIEWS)
        return self._first.replace(maps=maps, raw=raw, empty=empty, pixels=pixels)
