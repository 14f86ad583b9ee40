"""Scores of masked images and of changed activations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from camkit.compat import tree_leaves
from camkit.engine.forward import Forward
from camkit.engine.replay import Replays
from camkit.engine.rerun import Change, rerun
from camkit.errors import LayerError, NonFiniteError, UsageError
from camkit.layers.feature_maps import FeatureMaps
from camkit.layers.layout import channel_axes


class Masked:
    """Scores masked images, see :class:`camkit.methods.needs.MaskedScore`."""

    def __init__(self, forward: Forward, *, check: bool) -> None:
        self.size = tuple(forward.images.shape[2:])
        self._forward = forward
        self._check = check

    def __call__(self, mask: Callable[[Tensor, Tensor], Tensor], items: Tensor, samples: int = 1) -> Tensor:
        """Scores (T, B, N) of ``images[b] * mask(b, items[b, n])``."""
        forward = self._forward
        images = forward.images.detach()
        every = torch.arange(len(images), device=images.device)

        def scores(image: int | None, chosen: Tensor) -> Tensor:
            owners, own = every, images
            if image is not None:
                owners, own = every[image].expand(len(chosen)), images[image][None]
            rows = forward.rows(own * mask(owners, chosen)[:, None].to(images.dtype))
            return forward.scores_in(rows, image)

        row_bytes = max(forward.row_bytes, 4 * images[0].nbytes)
        found = _run(forward, scores, items, row_bytes)
        if self._check:
            _require_finite(found, items, lambda item: f"behind channel {item // samples}")
        return found


class Ablated:
    """Scores images without single channels, see :class:`camkit.methods.needs.AblatedScore`.

    Args:
        features: the target layers.
        name: of a branch of them.
        check: look for scores that aren't finite.

    Raises:
        LayerError: the branch can't be changed, or the network doesn't repeat itself.
    """

    def __init__(self, features: FeatureMaps, name: str, *, check: bool) -> None:
        self._forward = features.forward
        self._check = check
        axes = channel_axes(features.layouts[name], features.forward.outputs[features.layer_of(name)])
        if axes is None:
            raise LayerError(
                f"what {name!r} returns can't be changed through a reshape_transform that mixes channels: leave that "
                "out, or take a method that changes no activations, such as LayerCAM"
            )
        self._axes = axes
        self._replays = Replays(features.forward, features.layer_of(name))
        self.scores = features.forward.scores.T.to(features.activations[name].dtype)

    def __call__(self, channels: Tensor) -> Tensor:
        """Scores (T, B, N) without channel ``channels[b, n]``, in all of the layer's tokens."""

        def scores(image: int | None, chosen: Tensor) -> Tensor:
            replay = self._replays.of(image)
            outputs = replay.repeated(len(chosen))
            leaves = tree_leaves(outputs)
            ablate([leaves[index].movedim(axis, 1) for index, axis in self._axes], chosen)
            return self._forward.scores_in(replay(outputs, len(chosen)), image)

        # Other images' replays are as large.
        found = _run(self._forward, scores, channels, self._replays.first.row_bytes)
        if self._check:
            _require_finite(found, channels, "without channel {}".format)
        return found


def ablate(leaves: Sequence[Tensor], channels: Tensor) -> None:
    """Set one channel of every row to zero, in place.

    Args:
        leaves: (N, C, ...) each; their channels are counted from the first to the last.
        channels: (N,).
    """
    rows = torch.arange(len(channels), device=channels.device)
    if len(leaves) == 1:
        leaves[0][rows, channels] = 0
        return
    for leaf in leaves:
        mine = (channels >= 0) & (channels < leaf.shape[1])
        leaf[rows[mine], channels[mine]] = 0
        channels = channels - leaf.shape[1]


class Fillings:
    """Runs the network with other values at every position of a layer; tokens without a place stay as they are.

    Args:
        features: the target layers.
        name: of a branch of them.

    Raises:
        LayerError: as for :class:`Ablated`.
    """

    def __init__(self, features: FeatureMaps, name: str) -> None:
        self._layout = features.layouts[name]
        if self._layout.index is None:
            raise LayerError(
                f"what {name!r} returns can't be changed through a reshape_transform, which leads only one way: "
                "leave that out, or take a method that changes no activations, such as LayerCAM"
            )
        self.replays = Replays(features.forward, features.layer_of(name))

    def run(self, image: int | None, values: Tensor, count: int) -> Any:
        """What the network returns, ``count`` rows.

        Args:
            image: whose; None for all together.
            values: (count, C, *S), or what expands to that.
            count: the number of rows.
        """
        replay = self.replays.of(image)
        outputs = replay.repeated(count)
        places = self._layout.transform(outputs)  # a view, so that it can be written to
        places.copy_(values.expand_as(places))
        return replay(outputs, count)


def name_concepts(features: FeatureMaps, name: str, concepts: Tensor) -> tuple[Tensor, Tensor]:
    """Name each concept by the class that the network predicts where the layer shows the concept everywhere.

    Args:
        features: the target layers.
        name: of the branch in which the concepts were found.
        concepts: (K, C).

    Returns:
        Class indices (B, K) and their scores (B, K).

    Raises:
        UsageError: the model returns no logits (batch, classes).
    """
    forward = features.forward
    if forward.logits.ndim != 2 or not forward.logits.shape[1]:
        raise UsageError("concepts are named by class, which takes a model that returns logits (batch, classes)")
    fillings = Fillings(features, name)
    values = concepts.view(*concepts.shape, *[1] * (features.activations[name].ndim - 2))

    def logits(image: int | None, chosen: Tensor) -> Tensor:
        found: Tensor = fillings.run(image, values[chosen], len(chosen))
        return found

    items = torch.arange(len(concepts), device=concepts.device).expand(len(forward.images), -1)
    found = rerun(forward.network, logits, items, fillings.replays.first.row_bytes)
    targets = found.argmax(2)
    return targets, found.gather(2, targets[:, :, None]).squeeze(2)


def _run(forward: Forward, scores: Change, items: Tensor, row_bytes: int) -> Tensor:
    """Scores (T, B, N) of perturbations ``items`` (B, N), in the precision of the CAM maths."""
    dtype = torch.float64 if forward.scores.dtype == torch.float64 else torch.float32
    return rerun(forward.network, scores, items, row_bytes).to(dtype).permute(2, 0, 1)


def _require_finite(scores: Tensor, items: Tensor, described: Callable[[int], str]) -> None:
    if not bool(scores.isfinite().all()):
        target, image, item = (int(each) for each in (~scores.isfinite()).nonzero()[0])
        raise NonFiniteError(
            f"image {image} scores {float(scores[target, image, item])} for target {target} "
            f"{described(int(items[image, item]))}: the network can't take what is left (try float32, or another layer)"
        )
