"""What pixel-level methods get: gradients of the images, and of every bias."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod

import torch
from torch import Tensor

from camkit.errors import LayerError, TokenGridError, UsageError
from camkit.functions import Affine, GuidedListener
from camkit.layout import full
from camkit.run import Pass, backward
from camkit.shapes import Activations, Gradients
from camkit.tokens import misfit, token_grids


def guided_gradients(evidence: Pass) -> Gradients:
    """Gradients of the images (T, B, C, *size) by guided backpropagation, from a forward of their own.

    Raises:
        UsageError: the network calls no ReLU.
        LayerError: the score doesn't depend on the images.
    """
    seen = evidence.seen
    images = seen.images.detach().clone().requires_grad_()
    with GuidedListener() as listener:
        rows = evidence.rows_of(images.clone())
    if not listener.count:
        raise UsageError(
            "guided backpropagation needs ReLUs, and this network calls none (other activations have no rule); "
            "FullGrad, LayerCAM and GradCAM need none"
        )
    scores = evidence.scores_in(rows, None)
    found = [
        backward(scores, [images], range(target, target + 1), retain=target + 1 < evidence.count)[0]
        for target in range(evidence.count)
        if scores.requires_grad
    ]
    gradients = [gradient for gradient in found if gradient is not None]
    if len(gradients) < evidence.count:
        raise LayerError("the score doesn't depend on the images: something on the way detaches them")
    return full(torch.cat(gradients))


def bias_terms(evidence: Pass) -> Iterator[list[Tensor]]:
    """For one target after the other, what the input and every bias contribute: (1, B, C, *S) each.

    The input times its gradient comes first, then every bias times its gradient, in the order of execution. Biases of
    layers without places on the image (behind the pooling, as in the paper, in windows, inside torch's
    MultiheadAttention) are left out.

    Raises:
        LayerError: the score doesn't depend on the images.
    """
    seen = evidence.seen
    images = seen.images
    placed = [(affine, lay_out) for path, affine in seen.heard.affine if (lay_out := _layout(evidence, path, affine))]
    leaves = [images, *(affine.edge for affine, _ in placed)]
    for target in range(evidence.count):
        first, *others = evidence.gradients_of(leaves, target)
        if first is None:
            raise LayerError("the score doesn't depend on the images: something on the way detaches them")
        terms = [(full(images.detach()) * full(first))[None]]
        for (affine, lay_out), gradient in zip(placed, others, strict=True):
            if gradient is not None:
                laid_out = full(lay_out(gradient))
                bias = affine.bias.to(laid_out.dtype).view(-1, *[1] * (laid_out.ndim - 2))
                terms.append((bias * laid_out)[None])
        yield terms


def _layout(evidence: Pass, path: tuple[str, ...], affine: Affine) -> Callable[[Tensor], Activations] | None:
    """How a tensor like an affine function's result is laid out; None where it has no places on the image."""
    images, shape, axis = evidence.seen.images, affine.shape, affine.axis
    size = tuple(images.shape[2:])
    if shape[0] != len(images):
        return None
    if len(shape) == images.ndim:
        grid = (*shape[1:axis], *shape[axis + 1 :])
        return None if prod(grid) < 2 or misfit(grid, size) == 2 else lambda tensor: tensor.movedim(axis, 1)
    if len(shape) != 3 or axis != 2:
        return None
    try:
        (front, back), grid, _ = token_grids(path[-1], shape[1], size, evidence.seen.hints())[0]
    except TokenGridError:
        return None
    if prod(grid) < 2:
        return None
    return lambda tensor: torch.unflatten(tensor[:, front : shape[1] - back].mT, 2, grid)
