"""Run a network on changed images: batches of one size, whoever asked, equal changes once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from camkit.engine.network import Network
from camkit.engine.outputs import pick_output
from camkit.metrics.perturbations import Perturbation, generator_of
from camkit.metrics.trial import Responses

Probability = Callable[[Tensor], Tensor]
"""From logits (n, K) to probabilities (n, K)."""
PROBABILITIES: Mapping[str, Probability] = {
    "softmax": lambda logits: logits.softmax(1),
    "sigmoid": lambda logits: logits.sigmoid(),
    "none": lambda logits: logits,
}


class Request(NamedTuple):
    """A perturbation of all images, by a method's maps or by none."""

    perturbation: Perturbation
    method: str | None


class _Row(NamedTuple):
    """One changed image."""

    request: Request
    item: int
    step: int
    image: Tensor


def respond(
    network: Network,
    images: Tensor,
    targets: Tensor,
    maps: Mapping[str, Tensor],
    requests: Sequence[Request],
    *,
    probability: str,
    seed: int,
    batch_size: int,
) -> dict[Request, Responses]:
    """Run all changed images in batches of one size.

    Args:
        network: gets changed images only.
        images: (N, C, H, W), prepared.
        targets: (N,).
        maps: by method, (N, H, W).
        requests: each one once.
        probability: see :data:`PROBABILITIES`.
        seed: of whatever is drawn.
        batch_size: how many images run at a time.
    """
    found: dict[Request, list[list[tuple[float, float]]]] = {each: [[] for _ in images] for each in requests}
    batch: list[_Row] = []

    def run() -> None:
        rows = torch.stack([row.image for row in batch])
        logits = pick_output(network.call(rows), network.output)[0].double()
        chances = PROBABILITIES[probability](logits)
        own = targets[torch.tensor([row.item for row in batch])].to(logits.device)[:, None]
        pairs = torch.cat([logits.gather(1, own), chances.gather(1, own)], 1).tolist()
        for row, (score, chance) in zip(batch, pairs, strict=True):
            found[row.request][row.item].append((score, chance))
        batch.clear()

    with network.borrowed(), torch.no_grad():
        for row in _rows(images, maps, requests, seed):
            batch.append(row)
            if len(batch) == batch_size:
                run()
        if batch:
            run()
    made = {}
    for request, rows in found.items():
        both = torch.tensor(rows, dtype=torch.float64)
        made[request] = Responses(both[..., 0], both[..., 1])
    return made


def _rows(
    images: Tensor, maps: Mapping[str, Tensor], requests: Sequence[Request], seed: int
) -> Iterator[_Row]:
    for item, image in enumerate(images):
        for request in requests:
            heat = next(iter(maps.values()))[item] if request.method is None else maps[request.method][item]
            changed = request.perturbation.images(image, heat.to(image.device), generator_of(image, seed))
            for step, made in enumerate(changed):
                yield _Row(request, item, step, made.clone())
