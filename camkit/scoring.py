"""What changed images and changed activations score: the functions that scored methods get."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from camkit.batching import Chunks, chunk_size
from camkit.errors import ForwardError, LayerError, NonFiniteError
from camkit.layout import Layout
from camkit.run import Pass
from camkit.tail import Tail

Step = Callable[[int | None, Tensor], Tensor]
"""The image that is changed, or None for each one once, and how, (n,), to scores (n, T)."""


class Masked:
    """See :class:`camkit.methods.requests.MaskedScore`."""

    def __init__(self, evidence: Pass, *, check: bool) -> None:
        self._evidence = evidence
        self._check = check
        self.size = tuple(evidence.seen.images.shape[2:])

    def __call__(self, mask: Callable[[Tensor, Tensor], Tensor], items: Tensor, samples: int = 1) -> Tensor:
        """Scores (T, B, N) of ``images[b] * mask(b, items[b, n])``."""
        images = self._evidence.seen.images.detach()

        def step(image: int | None, chosen: Tensor) -> Tensor:
            every = torch.arange(len(images), device=images.device)
            owners, own = every, images
            if image is not None:
                owners, own = every[image].expand(len(chosen)), images[image][None]
            return self._evidence.scores_of(own * mask(owners, chosen)[:, None].to(images.dtype), image)

        largest = max(self._evidence.seen.largest, 4 * images[0].nbytes)
        return _scores(
            self._evidence, items, step, largest, lambda item: f"behind channel {item // samples}", check=self._check
        )


class Ablated:
    """See :class:`camkit.methods.requests.AblatedScore`.

    Args:
        evidence: of the images as they are.
        name: of the layer, or of one of its branches.
        check: look for scores that aren't finite.
    """

    def __init__(self, evidence: Pass, name: str, *, check: bool) -> None:
        self._evidence = evidence
        self._name = name
        self._check = check
        self._tails = Tails(evidence, name)
        self.scores = evidence.scores.T.to(evidence.activations[name].dtype)

    def __call__(self, channels: Tensor) -> Tensor:
        """Scores (T, B, N) without channel ``channels[b, n]``, in all of the layer's tokens."""
        index, axis = self._tails.index, self._tails.axis

        def step(image: int | None, chosen: Tensor) -> Tensor:
            outputs = self._tails.of(image).repeated(len(chosen))
            leaf = tree_leaves(outputs)[index].movedim(axis, 1)
            leaf[torch.arange(len(chosen), device=leaf.device), chosen] = 0
            rows = self._tails.of(image)(outputs, len(chosen))
            return self._evidence.scores_in(rows, image)

        # Other images' tails are as large.
        return _scores(
            self._evidence, channels, step, self._tails.first.largest, "without channel {}".format, check=self._check
        )


class Tails:
    """The network behind a layer, for each image; where that can't be, the pass is marked as whole.

    Args:
        evidence: of the images as they are.
        name: of the layer, or of one of its branches.

    Raises:
        LayerError: the layer has a layout of the user's own, which leads only one way.
    """

    def __init__(self, evidence: Pass, name: str) -> None:
        layout: Layout = evidence.layouts[name]
        if layout.index is None or layout.axis is None:
            raise LayerError(
                f"what {name!r} returns can't be changed through a reshape_transform, which leads only one way: "
                "leave that out, or take a method that changes no activations, such as LayerCAM"
            )
        self.index, self.axis = layout.index, layout.axis
        self._layout = layout
        self._evidence = evidence
        self._layer = evidence.layer_of(name)
        self._known: tuple[int | None, Tail] | None = None
        if not evidence.whole:
            try:
                self.of(0)
            except ForwardError:
                evidence.whole = True  # some networks take batches of one size only

    @property
    def first(self) -> Tail:
        """The tail of the first image, or of all of them together."""
        return self.of(None if self._evidence.whole else 0)

    def filled(self, image: int | None, values: Tensor, count: int) -> Any:
        """What the network returns where every place of the layer has ``values``; tokens without a place stay.

        Args:
            image: whose tail, None for all together.
            values: (count, C, *S), or what expands to that.
            count: the number of rows.
        """
        tail = self.of(image)
        outputs = tail.repeated(count)
        places = self._layout.transform(outputs)  # a view, so that it can be written to
        places.copy_(values.expand_as(places))
        return tail(outputs, count)

    def of(self, image: int | None) -> Tail:
        """The tail of one image, or of all of them together."""
        if self._known is None or self._known[0] != image:
            seen = self._evidence.seen
            images = seen.images.detach()
            shown = images if image is None else images[image : image + 1]
            tail = Tail(
                seen.model,
                self._layer,
                seen.layers[self._layer],
                shown,
                self._evidence.rows_of,
                partial(self._evidence.numbers_in, image=image),
                repeats=image is not None,
            )
            self._known = image, tail
        return self._known[1]


def _scores(
    evidence: Pass, items: Tensor, step: Step, largest: int, said: Callable[[int], str], *, check: bool
) -> Tensor:
    """Scores (T, B, N) of changes ``items`` (B, N), in words ``said``, to the images; in chunks of one image's."""
    batch, number = items.shape
    dtype = torch.float64 if evidence.scores.dtype == torch.float64 else torch.float32
    made = torch.empty(evidence.count, batch, number, dtype=dtype, device=items.device)
    size = chunk_size(largest, items.device)

    def of_image(image: int, chunk: slice) -> None:
        made[:, image, chunk] = step(image, items[image, chunk]).T.to(dtype)

    def of_each(chunk: slice) -> None:
        # Every image once at a time, as the network got them: whatever belongs to them one by one then fits.
        for column in range(chunk.start, chunk.stop):
            made[:, :, column] = step(None, items[:, column]).T.to(dtype)

    # Not in inference mode: what a network remembers, such as a mask by batch size, its owner may train with.
    with torch.no_grad():
        if not evidence.whole:
            chunks = Chunks(evidence.seen.setup, size, batch * number)
            try:
                for image in range(batch):
                    chunks.run(number, partial(of_image, image))
            except ForwardError:
                evidence.whole = True  # some networks take batches of one size only
        if evidence.whole:
            setup = replace(evidence.seen.setup, batch_size=None)
            Chunks(setup, batch, batch * number, each=batch).run(number, of_each)
    if check and not bool(made.isfinite().all()):
        target, image, item = (int(each) for each in (~made.isfinite()).nonzero()[0])
        raise NonFiniteError(
            f"image {image} scores {float(made[target, image, item])} for target {target} "
            f"{said(int(items[image, item]))}: the network can't take what is left (try float32, or another layer)"
        )
    return made
