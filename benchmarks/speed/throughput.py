"""Images per second in large batches and half precision, which is what a GPU is for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks.speed.cells import Cell
from benchmarks.speed.contestants import PLAIN, contestant, plain, questions, subject
from benchmarks.speed.timing import interleaved, summary


@dataclass(frozen=True)
class Load:
    """What is run.

    Attributes:
        network: see :class:`benchmarks.speed.cells.Cell`.
        batch: how many images at a time.
        rounds: how often.
    """

    network: str
    batch: int
    rounds: int


FULL = Load("resnet50", 256, 30)
QUICK = Load("resnet50", 256, 10)
SMOKE = Load("tiny", 16, 3)


def throughput(load: Load, device: str) -> list[dict[str, Any]]:
    """A row per question, the plain forward's first, all in bfloat16."""
    cells = [Cell(load.network, "late", load.batch, task, ()) for task in ("methods", "all six", "eigen-smooth")]
    of = subject(cells[0], device)
    of = replace(of, model=of.model.bfloat16(), images=of.images.bfloat16())
    asked = {question.label: question for cell in cells for question in questions(cell)}
    contestants = [plain(of), *(contestant("camkit", question, of) for question in asked.values())]
    times = interleaved(contestants, (load.rounds, load.rounds), 0, device)
    for each, taken in zip(contestants, times, strict=True):
        if taken.why_not:
            raise RuntimeError(f"{each.who} {each.what} {taken.why_not}")
    return [
        {"network": load.network, "batch": load.batch, "dtype": str(torch.bfloat16), "who": each.who}
        | {"what": each.what or PLAIN}
        | (found := summary(taken, times[0]))
        | {"images_per_second": load.batch / found["seconds"]}
        for each, taken in zip(contestants, times, strict=True)
    ]
