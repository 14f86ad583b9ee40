"""Gradients that take more than one backward: of a linear head, of noisy images, of guided ReLUs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from camkit.compat import float64
from camkit.engine.forward import Forward
from camkit.engine.gradients import backward
from camkit.engine.listeners import GuidedListener
from camkit.engine.record import record
from camkit.engine.rerun import rerun_batch, rows_at_a_time
from camkit.engine.tensors import at_least_float32
from camkit.errors import LayerError, UsageError
from camkit.layers.feature_maps import FeatureMaps
from camkit.methods.needs import NoisyGradientsNeed, Recording
from camkit.signals.perturbed import Fillings
from camkit.typing import Gradients

CLOSE = 1e-3
"""How far apart, relative to their size, numbers may be that are equal but for rounding."""


def require_linear_head(features: FeatureMaps, gradients: Mapping[str, Gradients]) -> None:
    """Check CAM's requirement: global average pooling and one linear layer behind the target layer.

    For the first image: the gradient must be the same everywhere, and noise in place of the activations must change the
    score by its inner product with the gradient.

    Args:
        features: the target layers.
        gradients: branch to (T, B, C, *S).

    Raises:
        LayerError: the score isn't linear in the mean of the layer over space.
    """
    for name, found in gradients.items():
        own = found[:, 0].flatten(2)
        constant = own.mean(2, keepdim=True)
        is_constant = bool(((own - constant).abs() <= CLOSE * own.abs().amax()).all())
        if not is_constant or not _is_linear(features, name, found):
            raise LayerError(
                f"CAM needs a head of pooling and one linear layer: the score isn't linear in the mean of {name!r}; "
                "take GradCAM or HiResCAM, the same where CAM applies (without target layers CAM takes the last one in "
                "front of the head)"
            )


def _is_linear(features: FeatureMaps, name: str, gradients: Gradients) -> bool:
    forward, fillings = features.forward, Fillings(features, name)
    rounding = fillings.replays.first.rounding
    image = None if forward.network.takes_whole_batches else 0
    activations = features.activations[name][:1]
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(activations.shape, generator=generator, dtype=torch.float64).to(activations)
    noise = activations.mean() + activations.std() * drawn
    scores = []
    with torch.no_grad():
        for values in (torch.zeros_like(noise), noise):
            rows = fillings.run(image, values, 1 if image == 0 else len(forward.images))
            scores.append(float64(forward.scores_in(rows, image)[0]))
    products = (float64(gradients[:, 0]) * float64(noise)).flatten(1)
    found, expected = (scores[1] - scores[0])[: len(products)], products.sum(1)
    size = torch.maximum(found.abs(), expected.abs()) + products.norm(dim=1)
    allowed = max(CLOSE, rounding) * size + rounding * torch.maximum(*(each.abs() for each in scores))
    return bool(((found - expected).abs() <= allowed).all())


def noisy_moments(features: FeatureMaps, need: NoisyGradientsNeed) -> dict[str, tuple[Gradients, Gradients, Gradients]]:
    """Means of G, G^2 and G^3 over noisy images, (T, B, C, *S) each, by branch.

    The noise is drawn on the CPU, so that it is the same on every device, and all images of a batch get the same.
    In front of the layers the network runs as in inference.
    """
    forward = features.forward
    images, network = forward.images.detach(), forward.network
    noise = draw_noise(need, tuple(images.shape[1:])).to(images)
    rows = network.batch_size or rows_at_a_time(max(forward.row_bytes, 4 * images[0].nbytes), images.device)
    sums: dict[str, list[Tensor]] = {}

    def gradients(samples: slice) -> dict[str, Gradients]:
        return _noisy_gradients(features, noise[samples])

    for found in rerun_batch(network, gradients, need.num_samples, len(images), rows):
        for name, of_noises in found.items():
            powers = [of_noises, of_noises.square(), of_noises.square() * of_noises]
            totals = sums.setdefault(name, [torch.zeros_like(of_noises[:, 0]) for _ in powers])
            for total, power in zip(totals, powers, strict=True):
                total += power.sum(1)
    means = {name: [total / need.num_samples for total in totals] for name, totals in sums.items()}
    return {name: (first, second, third) for name, (first, second, third) in means.items()}


def draw_noise(need: NoisyGradientsNeed, shape: tuple[int, ...]) -> Tensor:
    """The noise, (num_samples, *shape) float32."""
    generator = torch.Generator().manual_seed(need.seed)
    return need.std * torch.randn(need.num_samples, *shape, generator=generator)


def _noisy_gradients(features: FeatureMaps, noise: Tensor) -> dict[str, Gradients]:
    """Gradients (T, n, B, C, *S) of all images with each of n noises."""
    forward, count = features.forward, len(noise)
    images = forward.images.detach()
    shown = (images[None] + noise[:, None]).flatten(0, 1)
    chosen = forward.chosen
    targets = chosen.repeat(count, 1) if isinstance(chosen, Tensor) else [list(row) for row in chosen] * count
    network = forward.network.with_output(forward.output_name)
    with forward.autocast(), record(network, shown, features.layers, targets, Recording(gradients=True)) as noisy:
        found = features.of(noisy)
        parts = list(found.gradients())
    return {
        name: torch.unflatten(torch.cat([part[name] for part in parts]), 1, (count, len(images)))
        for name in found.activations
    }


def guided_gradients(forward: Forward) -> Gradients:
    """Gradients of the images (T, B, C, *size) by guided backpropagation, from a forward of their own.

    Raises:
        UsageError: the network calls no ReLU.
        LayerError: the score doesn't depend on the images.
    """
    images = forward.images.detach().clone().requires_grad_()
    with GuidedListener() as listener:
        rows = forward.rows(images.clone())
    if not listener.count:
        raise UsageError(
            "guided backpropagation needs ReLUs, and this network calls none (other activations have no rule); "
            "FullGrad, LayerCAM and GradCAM need none"
        )
    scores = forward.scores_in(rows, None)
    found = [
        backward(scores, [images], range(target, target + 1), retain=target + 1 < forward.count)[0]
        for target in range(forward.count)
        if scores.requires_grad
    ]
    gradients = [gradient for gradient in found if gradient is not None]
    if len(gradients) < forward.count:
        raise LayerError("the score doesn't depend on the images: something on the way detaches them")
    return at_least_float32(torch.cat(gradients))
