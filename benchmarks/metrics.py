"""What metrics cost, in forwards of the network that they consist of, beside torchcam, grad-cam and Quantus.

``python -m benchmarks.metrics`` takes ResNet-50 at 224 px; ``--quick`` a small network at 64 px, to see that everything
works. Each figure is the median over rounds of what is compared, one after the other in each round. Peers take part
where they are installed.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.provenance import RESULTS, machine
from camkit.engine.network import Network
from camkit.engine.record import largest_row
from camkit.engine.rerun import rows_at_a_time
from camkit.metrics import measure, measure_methods
from camkit.metrics.imputation import impute
from camkit.metrics.ranks import ascending, descending
from camkit.metrics.road import EVERY_TENTH
from camkit.models.environment import quiet
from camkit.models.torchvision_shim import ensure_torchvision

TARGET = 3
LIMITS = {
    "deletion and insertion, over their forwards": 1.10,
    "ROADCombined, over its 18 forwards": 3.0,
    "18 imputations on one core, seconds": 3.5,
    "deletion of five methods, over one's": 5.2,
}
PEERS = {"torchcam": "torchcam", "grad-cam": "pytorch_grad_cam", "quantus": "quantus"}


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    network: str
    size: int
    rounds: int


PLANS = {"full": Plan("resnet50", 224, 5), "quick": Plan("tiny", 64, 1)}
Timed = tuple[str, Callable[[], object]]


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print, and write benchmarks/results/metrics.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small network; results go where it says")
    parser.add_argument("--rounds", type=int, help="how often everything is measured")
    parser.add_argument("--without-peers", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(words)
    plan = PLANS["quick" if options.quick else "full"]
    rounds = options.rounds or plan.rounds
    folder = options.out or (Path(tempfile.mkdtemp(prefix="camkit-metrics-")) if options.quick else RESULTS)
    folder.mkdir(parents=True, exist_ok=True)
    peers = [] if options.without_peers else [name for name, module in PEERS.items() if find_spec(module)]
    with quiet():
        ensure_torchvision()
    model = network(plan.network)
    image = torch.randn(1, 3, plan.size, plan.size, generator=torch.Generator().manual_seed(0))
    found: dict[str, Any] = {"machine": machine(*peers), "network": plan.network, "size": plan.size, "rounds": rounds}
    found["figures"] = figures(model, image, rounds)
    found["seconds"] = medians(contestants(model, image, peers), rounds)
    found["memory"] = memory(model, image)
    for name, figure in found["figures"].items():
        print(f"{name}: {figure:.3f} (at most {LIMITS[name]})")
    for name, seconds in found["seconds"].items():
        print(f"{name}: {seconds:.3f} s")
    print(f"memory beyond the model, MB: {found['memory']}")
    (folder / "metrics.json").write_text(json.dumps(found, indent=1))
    print(folder / "metrics.json")


def network(name: str) -> nn.Module:
    """In evaluation mode, with random weights."""
    torch.manual_seed(0)
    if name == "tiny":
        layers = [nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)).eval()
    from torchvision.models import resnet50

    model: nn.Module = resnet50().eval()
    return model


def heat(size: int, seed: int = 0) -> Tensor:
    """A smooth map (1, size, size) in [0, 1], as CAMs of a 7 x 7 layer are."""
    small = torch.rand(1, 1, 7, 7, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(small, (size, size), mode="bilinear")[0]


def figures(model: nn.Module, image: Tensor, rounds: int) -> dict[str, float]:
    """What :data:`LIMITS` are of: ratios of medians, and seconds of processor time."""
    size = image.shape[-1]
    maps = heat(size)
    five = {str(number): heat(size, number) for number in range(5)}
    steps = size + 1
    names = list(LIMITS)
    times = medians(
        [
            ("deletion and insertion", lambda: measure(["Deletion", "Insertion"], maps, image, model, TARGET)),
            ("their forwards", lambda: forwards(model, image, 2 * steps)),
            ("ROADCombined", lambda: measure("ROADCombined", maps, image, model, TARGET)),
            ("its forwards", lambda: forwards(model, image, 2 * len(EVERY_TENTH))),
            ("one", lambda: measure("Deletion", maps, image, model, TARGET)),
            ("five", lambda: measure_methods("Deletion", five, image, model, TARGET)),
        ],
        rounds,
    )
    return {
        names[0]: times["deletion and insertion"] / times["their forwards"],
        names[1]: times["ROADCombined"] / times["its forwards"],
        names[2]: statistics.median(imputations(image, maps[0]) for _ in range(rounds)),
        names[3]: times["five"] / times["one"],
    }


def forwards(model: nn.Module, image: Tensor, count: int) -> None:
    """Plain forwards of as many images, in batches of the size that metrics choose here."""
    size = chosen_size(model, image)
    with torch.no_grad():
        for start in range(0, count, size):
            model(image.expand(min(size, count - start), -1, -1, -1).contiguous())


def chosen_size(model: nn.Module, image: Tensor) -> int:
    """The size of metrics' batches, where there are enough images to fill one."""
    return rows_at_a_time(largest_row(Network(model), image), image.device)


def imputations(image: Tensor, values: Tensor) -> float:
    """Seconds of one core for the masks of ROADCombined."""
    pixels = image[0].double().numpy()
    masks = []
    for order in (descending(values), ascending(values)):
        for share in EVERY_TENTH:
            missing = np.zeros(values.shape, dtype=bool)
            missing.flat[order[: round(share / 100 * values.numel())].numpy()] = True
            masks.append(missing)
    start = time.thread_time()
    for missing in masks:
        impute(pixels, missing)
    return time.thread_time() - start


def contestants(model: nn.Module, image: Tensor, peers: Sequence[str]) -> list[Timed]:
    """Camkit and its peers at the same work."""
    size = image.shape[-1]
    maps = heat(size)
    made: list[Timed] = [
        ("camkit: deletion and insertion", lambda: measure(["Deletion", "Insertion"], maps, image, model, TARGET)),
        ("camkit: ROADCombined", lambda: measure("ROADCombined", maps, image, model, TARGET)),
        ("camkit: deletion", lambda: measure("Deletion", maps, image, model, TARGET)),
    ]
    if "torchcam" in peers:
        made.append(("torchcam: deletion and insertion", lambda: torchcam_curves(model, image, maps)))
    if "grad-cam" in peers:
        made.append(("grad-cam: ROADCombined", lambda: gradcam_road(model, image, maps)))
    if "quantus" in peers:
        made.append(("Quantus: deletion (PixelFlipping)", lambda: quantus_deletion(model, image, maps)))
    return made


def torchcam_curves(model: nn.Module, image: Tensor, maps: Tensor) -> None:
    """Torchcam's deletion and insertion with as many steps, of a map that costs nothing."""
    from torchcam.metrics import DeletionInsertionMetric

    class Extractor:
        def __init__(self) -> None:
            self.model = model

        def __call__(self, *given: Any, **how: Any) -> list[Tensor]:
            return [maps]

        def fuse_cams(self, cams: list[Tensor]) -> Tensor:
            return cams[0]

        def _hooks_off(self) -> Any:
            return nullcontext()

    metric = DeletionInsertionMetric(Extractor(), lambda logits: logits.softmax(-1), steps=image.shape[-1])
    metric.update(image, TARGET)


def gradcam_road(model: nn.Module, image: Tensor, maps: Tensor) -> None:
    """grad-cam's ROADCombined."""
    from pytorch_grad_cam.metrics.road import ROADCombined

    ROADCombined()(image, maps.numpy(), [lambda output: output.softmax(-1)[TARGET]], model)


def quantus_deletion(model: nn.Module, image: Tensor, maps: Tensor) -> None:
    """Quantus' PixelFlipping with as many steps."""
    import quantus

    metric = quantus.PixelFlipping(features_in_step=image.shape[-1], perturb_baseline="black", disable_warnings=True)
    metric(
        model=model,
        x_batch=image.numpy(),
        y_batch=np.array([TARGET]),
        a_batch=maps[:, None].numpy(),
        device="cpu",
        softmax=True,
    )


def medians(timed: Sequence[Timed], rounds: int) -> dict[str, float]:
    """Seconds of each, interleaved, after a round that isn't counted."""
    found: dict[str, list[float]] = {name: [] for name, _ in timed}
    for number in range(rounds + 1):
        for name, call in timed:
            start = time.perf_counter()
            call()
            if number:
                found[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in found.items()}


def memory(model: nn.Module, image: Tensor) -> dict[str, float]:
    """Growth of the process' peak, MB, with more images in batches of one size: none but the images' own."""
    found = {}
    for count in (1, 2, 8):
        images, maps = image.expand(count, -1, -1, -1).contiguous(), heat(image.shape[-1]).expand(count, -1, -1)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        measure("Deletion", maps, images, model, TARGET, batch_size=8, pixels_per_step=20 * image.shape[-1])
        found[f"{count} images"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return found


if __name__ == "__main__":
    main()
