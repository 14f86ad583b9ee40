"""Find which parameters and buffers a network's scores depend on, by running it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

_SIZES = (224, 299, 384, 256, 32, 64, 512, 28)  # tried in turn, behind what the model says itself
_SIZE_NAMES = ("img_size", "image_size", "input_size")
_LISTED = 4  # of buffers that matter, as many are looked for

Rebuild = Callable[[], nn.Module]


def depended_on(model: nn.Module, names: Sequence[str], rebuild: Rebuild | None = None) -> list[str] | None:
    """Which of some parameters and buffers a network's scores depend on.

    Parameters count where autograd reaches them from the scores of one image, buffers where NaN in them makes scores
    NaN. Of the buffers, those alone that training fills, such as running means: what the network computes when it is
    built (indices, masks, frequencies) is the same whichever weights it gets. The model is left as it was.

    Args:
        model: On the CPU.
        names: As ``named_parameters`` and ``named_buffers`` have them; others are ignored.
        rebuild: Builds the same network anew, drawing other random numbers.

    Returns:
        The names, in their order; of buffers no more than a few. None where the network runs on no image.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    buffers = dict(model.named_buffers(remove_duplicate=False))
    asked = {name: parameters[name] for name in names if name in parameters}
    filled = _filled_by_training({name: buffers[name] for name in names if name in buffers}, rebuild)
    if not asked and not filled:
        return []
    with _evaluating(model):
        image = _working_image(model)
        if image is None:
            return None
        used = _reached(model, asked, image)
        rest = {name: each for name, each in (asked | filled).items() if name not in used}
        if not used:  # an error is due already otherwise
            used = set(_spoiling(model, rest, image))
    return [name for name in names if name in used]


def _filled_by_training(buffers: dict[str, Tensor], rebuild: Rebuild | None) -> dict[str, Tensor]:
    doubtful = {name: buffer for name, buffer in buffers.items() if not _is_blank(buffer)}
    if not doubtful:
        return buffers
    if rebuild is None:
        return {name: buffer for name, buffer in buffers.items() if buffer.is_floating_point()}
    anew = dict(rebuild().named_buffers(remove_duplicate=False))
    built = {
        name
        for name, buffer in doubtful.items()
        if name in anew and anew[name].shape == buffer.shape and torch.equal(anew[name], buffer)
    }
    return {name: buffer for name, buffer in buffers.items() if name not in built}


def _is_blank(buffer: Tensor) -> bool:
    """Whether a buffer holds nothing yet, as running means and variances at first: all 0 or all 1."""
    return (
        buffer.is_floating_point()
        and buffer.numel() > 0
        and bool((buffer == buffer.flatten()[0]).all())
        and (float(buffer.flatten()[0]) in (0.0, 1.0))
    )


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        for module, was in training.items():
            module.training = was


def _working_image(model: nn.Module) -> Tensor | None:
    """An image that the network takes, of the channels and the size that its modules speak of."""
    convolutions = [each for each in model.modules() if isinstance(each, nn.Conv2d | nn.Conv3d)]
    channels = dict.fromkeys([*(each.in_channels for each in convolutions[:1]), 3, 1])
    for count in channels:
        for height, width in dict.fromkeys([*_declared_sizes(model), *((side, side) for side in _SIZES)]):
            image = torch.rand(1, count, height, width, generator=torch.Generator().manual_seed(0))
            try:
                with torch.no_grad():
                    if _scores(model(image)):
                        return image
            except Exception:  # noqa: BLE001, S112  # another size may do
                continue
    return None


def _declared_sizes(model: nn.Module) -> Iterator[tuple[int, int]]:
    for owner in (*model.modules(), getattr(model, "config", None)):
        for name in _SIZE_NAMES:
            size = getattr(owner, name, None)
            pair = tuple(size) if isinstance(size, list | tuple) else (size, size)
            if len(pair) == 2 and all(isinstance(side, int) and 8 <= side <= 2048 for side in pair):
                yield pair


def _scores(output: Any) -> list[Tensor]:
    """The tensors of scores in what a network returned."""
    logits = getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return [logits]
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    inside: Iterable[Any] = output.values() if isinstance(output, Mapping) else ()
    if isinstance(output, list | tuple):
        inside = output
    return [tensor for each in inside for tensor in _scores(each)]


def _reached(model: nn.Module, parameters: Mapping[str, Tensor], image: Tensor) -> set[str]:
    """The parameters that autograd reaches from the scores."""
    leaves = {name: each.detach().requires_grad_() for name, each in parameters.items() if each.is_floating_point()}
    if not leaves:
        return set()
    frozen = {name: each.detach() for name, each in model.named_parameters() if name not in leaves}
    try:
        with torch.enable_grad():
            scores = [
                each
                for each in _scores(functional_call(model, frozen | leaves, (image,), tie_weights=False))
                if each.requires_grad
            ]
            if not scores:
                return set()
            total = torch.stack([each.float().sum() for each in scores]).sum()
            found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    except Exception:  # noqa: BLE001
        return set()  # what is not differentiable is asked otherwise
    return {name for name, gradient in zip(leaves, found, strict=True) if gradient is not None}


def _spoiling(model: nn.Module, tensors: dict[str, Tensor], image: Tensor) -> list[str]:
    """The first few tensors in which NaN makes the scores NaN, found by halving."""
    if not tensors or not _spoils(model, tensors, image):
        return []
    if len(tensors) == 1:
        return list(tensors)
    names = list(tensors)
    found: list[str] = []
    for part in (names[: len(names) // 2], names[len(names) // 2 :]):
        if len(found) < _LISTED:
            found += _spoiling(model, {name: tensors[name] for name in part}, image)
    return found or names  # together, and none alone


def _spoils(model: nn.Module, tensors: dict[str, Tensor], image: Tensor) -> bool:
    spoilt = {
        name: torch.full_like(each, torch.nan) if each.is_floating_point() else torch.zeros_like(each)
        for name, each in tensors.items()
    }
    try:
        with torch.no_grad():
            before = _scores(model(image))
            after = _scores(functional_call(model, spoilt, (image,), tie_weights=False))
    except Exception:  # noqa: BLE001  # such as an index out of NaN
        return True
    return not all(torch.equal(one, other) for one, other in zip(before, after, strict=False)) or not before
