"""Gradients of images with noise."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from camkit.batching import Chunks, chunk_size
from camkit.errors import ForwardError
from camkit.methods.requests import NoisyGradients
from camkit.run import Pass, run
from camkit.shapes import Gradients


def moments(evidence: Pass, request: NoisyGradients) -> dict[str, tuple[Gradients, Gradients, Gradients]]:
    """Layer to the means of G, G^2 and G^3 over noisy images, (T, B, C, *S) each.

    The noise is drawn on the CPU, so that it is the same on every device, and all images of a batch get the same.
    In front of the layers the network runs as in inference.
    """
    seen = evidence.seen
    images = seen.images.detach()
    noise = drawn(request, tuple(images.shape[1:])).to(images)
    rows = request.num_samples * len(images)
    largest = max(seen.largest, 4 * images[0].nbytes)
    sums: dict[str, list[Tensor]] = {}

    def step(samples: slice) -> None:
        for name, found in _gradients(evidence, images, noise[samples]).items():
            parts = [found, found.square(), found.square() * found]
            totals = sums.setdefault(name, [torch.zeros_like(found[:, 0]) for _ in parts])
            for total, part in zip(totals, parts, strict=True):
                total += part.sum(1)

    alone = Chunks(replace(seen.setup, batch_size=None), 1, rows, each=len(images))
    chunks = alone if evidence.whole else Chunks(seen.setup, chunk_size(largest, images.device), rows, each=len(images))
    try:
        chunks.run(request.num_samples, step)
    except ForwardError:
        if chunks.size == 1:
            raise
        sums.clear()  # some networks take batches of one size only
        alone.run(request.num_samples, step)
    made = {name: [total / request.num_samples for total in totals] for name, totals in sums.items()}
    return {name: (first, second, third) for name, (first, second, third) in made.items()}


def drawn(request: NoisyGradients, shape: tuple[int, ...]) -> Tensor:
    """The noise, (num_samples, *shape) float32."""
    generator = torch.Generator().manual_seed(request.seed)
    return request.std * torch.randn(request.num_samples, *shape, generator=generator)


def _gradients(evidence: Pass, images: Tensor, noise: Tensor) -> dict[str, Gradients]:
    """Gradients (T, n, B, C, *S) of all images with each of n noises."""
    seen, count = evidence.seen, len(noise)
    shown = (images[None] + noise[:, None]).flatten(0, 1)
    chosen = evidence.chosen
    targets = chosen.repeat(count, 1) if isinstance(chosen, Tensor) else [list(row) for row in chosen] * count
    layers = {name: seen.layers[name] for name in evidence.layer_names}
    setup = replace(seen.setup, output=evidence.output)
    with seen.autocast(), run(seen.model, layers, shown, targets, setup) as noisy:
        parts = list(noisy.gradients())
    return {
        name: torch.unflatten(torch.cat([part[name] for part in parts]), 1, (count, len(images)))
        for name in noisy.activations
    }
