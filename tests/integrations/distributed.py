"""Two processes that train one network, for test_distributed.py: ``python -m tests.integrations.distributed ...``."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from camkit.errors import CamkitError
from camkit.integrations import Recorder
from tests.helpers.networks import SmallCNN
from tests.helpers.training import examples


def main(how: str, rank: int, folder: Path) -> None:
    """Train for four steps, two of them added up, and save losses, weights and what the Recorder says.

    Args:
        how: ``with`` or ``without`` the Recorder, ``bad`` with a class that isn't there, or ``fails`` at each record.
        rank: of this process.
        folder: for the results, and the file by which the processes find each other.
    """
    torch.distributed.init_process_group("gloo", f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    torch.default_generator.manual_seed(0)
    model = DistributedDataParallel(SmallCNN())
    torch.default_generator.manual_seed(rank)
    images, labels = examples(8)
    recorder = None
    if how != "without":
        targets = [9] if how == "bad" else "both"
        try:
            recorder = Recorder(model, images[:2], labels=labels[:2].tolist(), targets=targets, folder=folder / "maps")
        except CamkitError as error:
            (folder / f"{how}{rank}.txt").write_text(str(error))
            raise SystemExit(3) from error
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    kept = []
    for step in range(4):
        batch = torch.randint(len(images), (4,))
        loss = functional.cross_entropy(model(images[batch]), labels[batch]) / 2
        loss.backward()  # type: ignore[no-untyped-call]
        if recorder is not None:
            if how == "fails" and rank == 0:
                recorder._explainer.samples[0].inputs.fill_(float("nan"))  # type: ignore[union-attr]
            recorder.step(step)
        if step % 2:
            optimizer.step()
            optimizer.zero_grad()
        kept.append(loss.detach())
    found = (recorder.records, recorder.failures) if recorder is not None else (0, 0)
    weights = {name.removeprefix("module."): value for name, value in model.state_dict().items()}
    torch.save({"losses": kept, "weights": weights, "found": found}, folder / f"{how}{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
