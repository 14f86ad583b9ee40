"""Run a network on changed images: batches of one size, whoever asked, equal changes once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import TypeVar

import torch
from torch import Tensor

from camkit.compat import float64
from camkit.engine.network import Network
from camkit.engine.outputs import pick_output
from camkit.engine.record import largest_row
from camkit.engine.rerun import Chunks, rows_at_a_time
from camkit.engine.scores import as_logits, require_known
from camkit.errors import ForwardError, NonFiniteError, UsageError
from camkit.metrics.jobs import Job, Jobs, Request
from camkit.metrics.trial import Responses

PROBABILITIES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda logits: logits.softmax(1),
    "sigmoid": lambda logits: logits.sigmoid(),
    "none": lambda logits: logits,
}
"""From a model's output (n, K) to probabilities (n, K); ``none`` where it is probabilities already."""
Result = TypeVar("Result")


def respond(
    network: Network,
    images: Tensor,
    targets: Tensor,
    maps: Mapping[str, Tensor],
    requests: Sequence[Request],
    *,
    probability: str = "softmax",
    seed: int = 0,
    batch_size: int | None = None,
) -> dict[Request, Responses]:
    """Run all changed images in batches of one size; memory is bounded by the batch.

    Networks that take whole batches only get all images at once, each with the same change.

    Args:
        network: gets changed images only.
        images: (B, C, H, W), prepared.
        targets: (B, T) class indices on the CPU.
        maps: by method, (B, T, H, W) float64 on the CPU.
        requests: each one once.
        probability: see :data:`PROBABILITIES`.
        seed: of whatever is drawn.
        batch_size: how many images run at a time; None asks the memory. A batch that doesn't fit is halved once.

    Returns:
        Scores and probabilities (B * T, S) by request, targets of one image side by side.

    Raises:
        ForwardError: the network fails on the changed images.
        UsageError: it returns no logits (n, classes), has no such class, or has a single one under a softmax.
        NonFiniteError: NaN or infinity among the scores.
        CamkitError: half of a batch doesn't fit into memory either.
    """
    jobs = Jobs(images.detach(), targets.shape[1], maps, requests, seed)
    own = targets.flatten()

    def run(size: int | None) -> dict[Request, Responses]:
        # The numbers of the jobs in the batch that is being filled, and what was read of them: (request, item, step).
        filling: list[tuple[range, int, int]] = []
        places: list[tuple[int, int, int]] = []
        read: list[Tensor] = []

        def changed(source: Iterator[Job]) -> Iterator[Tensor]:
            for job in source:
                filling.append((job.items, job.request, job.step))
                yield job.image

        source = jobs.by_change() if size is None else jobs.by_image(size)
        with closing(source):
            for logits in _batches(network, images, changed(source), len(jobs), size):
                rows = [(row, item) for row, (items, *_) in enumerate(filling[: len(logits)]) for item in items]
                places += [(filling[row][1], item, filling[row][2]) for row, item in rows]
                read.append(_read(logits, rows, own, probability))
                del filling[: len(logits)]
        return _sorted(requests, jobs.counts, len(own), places, torch.cat(read).cpu())

    return _whole_if_need_be(network, images, batch_size, run)


def top_classes(network: Network, images: Tensor, batch_size: int | None = None) -> Tensor:
    """Each image's own top class, (B, 1) on the CPU; arguments and errors as in :func:`respond`."""

    def run(size: int | None) -> Tensor:
        found = _batches(network, images, iter(images.detach()), len(images), size)
        return torch.cat([logits.argmax(1, keepdim=True) for logits in found]).cpu()

    return _whole_if_need_be(network, images, batch_size, run)


def _whole_if_need_be(
    network: Network, images: Tensor, batch_size: int | None, run: Callable[[int | None], Result]
) -> Result:
    """``run(size)``, or ``run(None)`` where the network takes whole batches only."""
    with network.borrowed(), torch.no_grad():
        if network.takes_whole_batches:
            return run(None)
        try:
            return run(batch_size or rows_at_a_time(largest_row(network, images[:1]), images.device))
        except (ForwardError, _UnreadableError) as error:
            alone = error
        try:
            made = run(None)
        except (ForwardError, _UnreadableError):  # it fails on any number of images
            raise alone from alone.__cause__
        network.found_whole()
        return made


class _UnreadableError(UsageError):
    """What the network returned for a batch of one size holds no row of scores per image."""


def _batches(
    network: Network, images: Tensor, changed: Iterator[Tensor], total: int, size: int | None
) -> Iterator[Tensor]:
    """Logits (n, K) of successive batches of changed images.

    Args:
        network: borrowed.
        images: the originals.
        changed: the changed images; each may be written to when the next one is asked for.
        total: how many there are.
        size: of a batch; None for that of ``images``, which is not halved.
    """
    each = len(images) if size is None else 1
    rows = min(size or len(images), total)
    buffer = images.new_empty((rows, *images.shape[1:]))
    filled = 0

    def step(chunk: slice) -> Tensor:
        nonlocal filled
        count = (chunk.stop - chunk.start) * each
        while filled < count:
            buffer[filled] = next(changed)
            filled += 1
        # A copy: some networks write to their input, and a batch that doesn't fit into memory runs again.
        output = network.call(buffer[:count].clone())
        try:
            part = pick_output(output, count, network.output).rows
        except UsageError as error:
            raise _UnreadableError(str(error)) from error
        logits = float64(as_logits(part))
        if filled > count:  # of a batch that was halved
            buffer[: filled - count] = buffer[count:filled].clone()
        filled -= count
        return logits

    chunks = Chunks(rows, total, network.progress, each=each, advice="smaller images")
    return chunks.run(total // each, step)


def _read(logits: Tensor, rows: Sequence[tuple[int, int]], targets: Tensor, probability: str) -> Tensor:
    """Scores and probabilities (n, 2) of the targets of items, by (row of the logits, item).

    Nothing is read back from a GPU, which goes on with the next batch meanwhile.
    """
    if probability == "softmax" and logits.shape[1] == 1:
        raise UsageError(
            "the model returns a single score per image, whose softmax is always 1: pass probability='sigmoid'"
        )
    require_known([targets.tolist()], logits.shape[1])
    row, item = torch.tensor(rows).T
    row, category = row.to(logits.device), targets[item].to(logits.device)
    return torch.stack([logits[row, category], PROBABILITIES[probability](logits)[row, category]], 1)


def _sorted(
    requests: Sequence[Request], counts: Sequence[int], items: int, places: Sequence[tuple[int, int, int]], read: Tensor
) -> dict[Request, Responses]:
    """What was read, in the order of the requests' items and steps."""
    number, item, step = torch.tensor(places).T
    made = {}
    for which, (request, count) in enumerate(zip(requests, counts, strict=True)):
        own = number == which
        found = read.new_empty((items, count, 2))
        found[item[own], step[own]] = read[own]
        if not found.isfinite().all():
            where = (~found.isfinite()).nonzero()[0]
            raise NonFiniteError(
                f"map {int(where[0])}: the network's score is NaN or infinite on change {int(where[1])} of "
                f"{request.perturbation}: check the checkpoint and the precision"
            )
        made[request] = Responses(found[..., 0], found[..., 1])
    return made
