"""GradCAM and the other methods on ResNet-50: camkit beside grad-cam and a plain forward, interleaved in one process.

Every round runs each contestant once, in a new order, so that whatever slows the machine slows all of them alike and
nobody always runs on the caches that the same other one left. Reported are the median and the quartiles of the seconds
per call, and the ratio of the medians to the plain forward's.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import camkit
from benchmarks.provenance import RESULTS, machine
from camkit.adapters.torchvision_shim import ensure_torchvision

LAYER = "layer4.2"


def main() -> None:
    """Measure, print a table, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=RESULTS / "speed.json")
    options = parser.parse_args()
    ensure_torchvision()
    rows = [row for batch in options.batch for row in measure(batch, options.rounds)]
    print(markdown(rows))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2) + "\n")
    print(f"wrote: {options.out}")


def measure(batch: int, rounds: int) -> list[dict[str, Any]]:
    """One row per contestant."""
    from torchvision.models import resnet50

    torch.manual_seed(0)
    model = resnet50().eval()
    images = torch.randn(batch, 3, 224, 224)
    field = contestants(model, images)
    seconds: dict[str, list[float]] = {name: [] for name in field}
    order = list(field)
    shuffle = random.Random(0).shuffle
    for index in range(rounds + 2):
        shuffle(order)
        for name in order:
            start = time.perf_counter()
            field[name]()
            if index >= 2:  # the first two rounds warm up
                seconds[name].append(time.perf_counter() - start)
    plain = statistics.median(seconds["plain forward"])
    return [
        {
            "network": "ResNet-50",
            "layer": LAYER,
            "batch": batch,
            "contestant": name,
            "seconds": statistics.median(taken),
            "quartiles": statistics.quantiles(taken)[::2],
            "ratio": statistics.median(taken) / plain,
        }
        for name, taken in seconds.items()
    ]


def contestants(model: nn.Module, images: torch.Tensor) -> dict[str, Callable[[], Any]]:
    """Name to call; all explain category 281 of every image."""
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    layer = model.get_submodule(LAYER)
    category = [281] * len(images)

    def forward() -> torch.Tensor:
        with torch.inference_mode():
            logits: torch.Tensor = model(images)
            return logits

    field: dict[str, Callable[[], Any]] = {"plain forward": forward}
    for method in camkit.METHODS.values():
        ours = camkit.CAM(model, method, [LAYER])
        theirs = getattr(pytorch_grad_cam, method.identifier)(
            model=model, target_layers=[layer], reshape_transform=torch.clone
        )
        # The peer's hooks stay on the model as long as it lives: they come off around everyone else's turn.
        theirs.activations_and_grads.release()
        field[f"camkit {method.name}"] = partial(ours, images, category)
        targets = [ClassifierOutputTarget(each) for each in category]
        field[f"grad-cam {method.name}"] = partial(_hooked, theirs, layer, images, targets)
    return field


def _hooked(peer: Any, layer: nn.Module, images: torch.Tensor, targets: list[Any]) -> Any:
    from pytorch_grad_cam.activations_and_gradients import ActivationsAndGradients

    peer.activations_and_grads = ActivationsAndGradients(peer.model, [layer], torch.clone)
    try:
        return peer(images, targets)
    finally:
        peer.activations_and_grads.release()
        peer.model.zero_grad(set_to_none=True)


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table as it stands in README.md."""
    lines = ["| batch | who and what | ms | x plain forward |", "| --- | --- | --- | --- |"]
    lines += [f"| {r['batch']} | {r['contestant']} | {1000 * r['seconds']:.0f} | {r['ratio']:.2f} |" for r in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
