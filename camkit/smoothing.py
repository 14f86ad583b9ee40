"""Wrappers that take a CAM and are a CAM. They stack in either order, with the same result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import chain, product
from typing import Any

import torch
from torch import Tensor, nn

from camkit.cam import CAM, Explanation
from camkit.errors import ForwardError, UsageError
from camkit.methods import Method, Reduction, principal_component
from camkit.methods.requests import Concepts
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

    def target_layers(self, images: Images, targets: Targets = None, kind: str = "norm") -> dict[str, nn.Module]:
        """See :meth:`camkit.CAM.target_layers`."""
        return self.cam.target_layers(images, targets, kind)

    def pinned(self, layers: Mapping[str, Sequence[str]]) -> CAM:
        """See :meth:`camkit.CAM.pinned`."""
        fixed = copy(self)
        fixed.cam = self.cam.pinned(layers)
        return fixed

    def compute_all(
        self,
        images: Images,
        targets: Targets,
        methods: Sequence[Method],
        reduction: Reduction | None = None,
        *,
        check: bool = True,
    ) -> list[Explanation]:
        """See :meth:`camkit.CAM.compute_all`."""
        if not self.enabled:
            return self.cam.compute_all(images, targets, methods, reduction, check=check)
        smooth = self.smooth(images, targets, methods, reduction, check=check)
        return [replace(explanation, smoothing=self.smoothing) for explanation in smooth]

    def smooth(
        self, images: Images, targets: Targets, methods: Sequence[Method], reduction: Reduction | None, *, check: bool
    ) -> list[Explanation]:
        """What the wrapper adds."""
        raise NotImplementedError


class EigenSmooth(Wrapper):
    """Reduce the weighted channels to their first principal component in place of their sum.

    Methods that reduce to the principal component anyway stay as they are.

    Args:
        cam: what to wrap.
        enabled: False makes it equal to ``cam``.
    """

    def smooth(
        self, images: Images, targets: Targets, methods: Sequence[Method], reduction: Reduction | None, *, check: bool
    ) -> list[Explanation]:
        """The wrapped CAM with the other reduction."""
        return self.cam.compute_all(images, targets, methods, principal_component, check=check)


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
        chunk_size: how many images go through the network at a time, at most; at least one view of all images does.
    """

    def __init__(self, cam: CAM, *, enabled: bool = True, chunk_size: int = 8) -> None:
        super().__init__(cam, enabled=enabled)
        if not isinstance(chunk_size, int) or chunk_size < 1:
            raise UsageError(f"chunk_size counts images, got {chunk_size!r}")
        self.chunk_size = chunk_size

    def smooth(
        self, images: Images, targets: Targets, methods: Sequence[Method], reduction: Reduction | None, *, check: bool
    ) -> list[Explanation]:
        """The mean over all views of the maps, each flipped back."""
        batch = len(images)
        asked = rows(targets, batch)
        if isinstance(asked, list) and not all(getattr(each, "follows_flips", True) for row in asked for each in row):
            raise UsageError(
                "a target that names a place in the image (a mask, a box) means something else in a mirrored view: "
                "leave out AugSmooth"
            )
        own = [method.name for method in methods if isinstance(method.request, Concepts)]
        if own:
            raise UsageError(
                f"{', '.join(own)} finds other concepts in every view, which have no mean: leave out AugSmooth"
            )
        first = self.cam.compute_all(images, targets, methods, reduction, check=check)
        chosen = first[0].targets
        sums = [_Sum(explanation) for explanation in first]
        pairs = zip(methods, first, strict=True)
        cam = self.cam.pinned({m.default_layers: e.layers for m, e in pairs if m.request.of_layers})
        waiting = self._chunks(batch)
        while waiting:
            views = waiting.pop(0)
            together = torch.cat([view.of(images) for view in views])
            repeated = chosen.repeat(len(views), 1) if isinstance(chosen, Tensor) else chosen * len(views)
            try:
                made = cam.compute_all(together, repeated, methods, reduction, check=check)
            except ForwardError:
                if len(views) == 1:
                    raise
                # Some networks take batches of one size only.
                waiting = [(view,) for view in (*views, *chain.from_iterable(waiting))]
                continue
            for total, found in zip(sums, made, strict=True):
                total.add(views, found)
        return [total.mean() for total in sums]

    def _chunks(self, batch: int) -> list[tuple[View, ...]]:
        """All views but the first, as many at a time as fit."""
        size = 1 if self.setup.needs_whole_batch else max(1, self.chunk_size // batch)
        return [VIEWS[start : start + size] for start in range(1, len(VIEWS), size)]


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
            empty = {place: line for place, line in empty.items() if not lit[place]}
        pixels = None if self._pixels is None else self._pixels / len(VIEWS)
        return replace(self._first, maps=maps, raw=raw, empty=empty, pixels=pixels)
