"""How fast runs over data sets are, beside a plain inference loop and loops over grad-cam and torchcam, and how flat.

``python -m benchmarks.datasets`` explains 2,000 photographs with everybody, interleaved; ``--quick`` a few of them. The
images are crops of packaged photographs in many colours, JPEGs of about 500 x 375. Rates are medians over rounds of
images per second, and of images per second of processor time, which busy machines disturb less.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image, ImageEnhance

from benchmarks.networks import enliven, photographs
from benchmarks.provenance import RESULTS, machine
from camkit.datasets import load, run
from camkit.datasets.counting import Counts, Progress
from camkit.datasets.local import Images, gathered
from camkit.datasets.sources import Source, find_source
from camkit.models.classifier import Classifier
from camkit.models.demo import convert_lite0, find_weights
from camkit.models.load import load as load_classifier

SIX = ("GradCAM", "GradCAM++", "XGradCAM", "EigenCAM", "EigenGradCAM", "LayerCAM")
LAYERS = {"lite0": "bn2", "resnet50": "layer4"}
FLOORS = {"batch 1": 0.8, "GradCAM": 0.9, "six methods": 0.8}
FLAT = 0.02


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    images: int
    rounds: int
    batches: tuple[int, ...]
    soak: int
    settled: int
    sizes: int


PLANS = {"full": Plan(2000, 10, (1, 8, 16), 50_000, 2000, 5000), "quick": Plan(24, 1, (1, 8), 3000, 1000, 300)}


@dataclass(frozen=True)
class Contestant:
    """Somebody who goes through images; its call returns seconds, and seconds of processor time."""

    name: str
    batch: int
    go: Callable[[Sequence[int]], tuple[float, float]]


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print, and write benchmarks/results/datasets.json and .md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few images, a rough figure; results go where it says")
    parser.add_argument("--images", type=int, metavar="N", help="for the rates; default: 2,000, with --quick 24")
    parser.add_argument("--parts", nargs="+", default=["speed", "flat"], choices=["speed", "flat"])
    parser.add_argument("--networks", nargs="+", default=list(LAYERS), choices=list(LAYERS))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(words)
    plan = PLANS["quick" if options.quick else "full"]
    plan = replace(plan, images=options.images or plan.images)
    folder = options.out or (Path(tempfile.mkdtemp(prefix="camkit-datasets-")) if options.quick else RESULTS)
    folder.mkdir(parents=True, exist_ok=True)
    peers = [name for name, module in (("grad-cam", "pytorch_grad_cam"), ("torchcam", "torchcam")) if find_spec(module)]
    earlier = folder / "datasets.json"
    found: dict[str, Any] = json.loads(earlier.read_text()) if earlier.exists() else {}
    found |= {"machine": machine(*peers) | {"workers": options.workers}}
    with tempfile.TemporaryDirectory() as scratch:
        if "speed" in options.parts:
            images = write_images(Path(scratch) / "images", plan.images)
            found["images"], found["rounds"] = plan.images, plan.rounds
            found["speed"] = [row for name in options.networks for row in speed(name, images, plan, options.workers)]
            found["bytes"] = kept_bytes(images, Path(scratch))
        if "flat" in options.parts:
            found["flat"] = [soak(plan, varied, Path(scratch)) for varied in (False, True)]
    earlier.write_text(json.dumps(found, indent=1))
    (folder / "datasets.md").write_text(table(found))
    print(table(found))
    print(f"wrote: {earlier}")


def write_images(folder: Path, count: int) -> Path:
    """JPEGs of about 500 x 375: crops of the packaged photographs, turned left to right, in other colours."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    sources = [Image.fromarray(photo) for photo in photographs()]
    for number in range(count):
        photo = sources[number % len(sources)]
        share = random.uniform(0.5, 1.0)
        width, height = round(photo.width * share), round(photo.height * share)
        left = int(random.integers(0, photo.width - width + 1))
        top = int(random.integers(0, photo.height - height + 1))
        picture = photo.crop((left, top, left + width, top + height))
        picture = picture.resize((int(500 + random.integers(-20, 21)), int(375 + random.integers(-20, 21))))
        if random.random() < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        picture = ImageEnhance.Color(picture).enhance(random.uniform(0.5, 1.5))
        picture.save(folder / f"{number:05}.jpg", quality=90)
    return folder


def network(name: str) -> Classifier:
    """EfficientNet-Lite0 as it was trained, or a ResNet-50 whose random weights are made to behave."""
    if name == "lite0":
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "lite0.pth"
            torch.save(convert_lite0(torch.load(find_weights(), map_location="cpu", weights_only=True)), path)
            return load_classifier("timm:tf_efficientnet_lite0", str(path))
    classifier = load_classifier(f"timm:{name}", pretrained=False)
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    return replace(classifier, model=enliven(classifier.model, image))


def speed(name: str, images: Path, plan: Plan, workers: int) -> list[dict[str, Any]]:
    """Rates of everybody, and camkit's shares of the plain loop's at the same batch size."""
    classifier = network(name)
    source = find_source(images, classifier)
    with tempfile.TemporaryDirectory() as scratch:
        field = contestants(name, classifier, source, plan, workers, Path(scratch))
        rates: dict[Contestant, list[tuple[float, float]]] = {each: [] for each in field}
        step = plan.images // (plan.rounds + 1)
        for each in field:  # warm-up
            each.go(range(min(step, 16)))
        for number in range(1, plan.rounds + 1):
            part = range(number * step, (number + 1) * step)
            for each in field[number % len(field) :] + field[: number % len(field)]:
                seconds, computing = each.go(part)
                rates[each].append((len(part) / seconds, len(part) / computing))
                print(f"{name}, {each.name}, batch {each.batch}: {rates[each][-1][0]:.2f} images/s", flush=True)
    return [row_of(name, each, rates) for each in field]


def row_of(name: str, each: Contestant, rates: dict[Contestant, list[tuple[float, float]]]) -> dict[str, Any]:
    """A contestant's row: medians, and shares of the plain loop's rates round by round."""
    plain = next(other for other in rates if other.name == "plain loop" and other.batch == each.batch)
    pairs = list(zip(rates[each], rates[plain], strict=True))
    shares = [own[0] / other[0] for own, other in pairs]
    kind = each.name.removeprefix("camkit, ")
    floor = FLOORS["batch 1"] if each.batch == 1 else FLOORS.get(kind)
    share = statistics.median(shares)
    is_ours = each.name.startswith("camkit")
    return {
        "network": name,
        "who": each.name,
        "batch": each.batch,
        "images_per_second": statistics.median(rate for rate, _ in rates[each]),
        "share": share,
        "spread": [min(shares), max(shares)],
        "share_of_processor_time": statistics.median(own[1] / other[1] for own, other in pairs),
        "floor": floor if is_ours else None,
        "met": share >= floor if is_ours and floor else None,
    }


def contestants(
    name: str, classifier: Classifier, source: Source, plan: Plan, workers: int, scratch: Path
) -> list[Contestant]:
    """Everybody who goes through the images."""
    loader, begin = classifier.loader(), Counts.start

    def plain(batch: int, part: Sequence[int]) -> None:
        for groups, _ in gathered(Images(source, loader), list(part), batch, workers, print):
            for group in groups:
                with torch.inference_mode():
                    classifier.model(loader.inputs(group.pixels)).argmax(1).tolist()

    def ours(methods: Sequence[str], batch: int, part: Sequence[int]) -> tuple[float, float]:
        listed = scratch / f"{len(list(scratch.iterdir()))}.txt"
        listed.write_text("".join(f"{source.path(position)}\n" for position in part))
        started: list[float] = []

        def start(counts: Counts) -> None:
            begin(counts)
            started.append(processor_seconds())

        with patch.object(Counts, "start", start):  # what comes before is done once for a data set of any size
            summary = run(listed, classifier, listed.with_suffix(""), methods, batch_size=batch, workers=workers)
        assert summary.new == len(part)
        assert not summary.failed
        return summary.seconds, processor_seconds() - started[0]

    def grad_cam(part: Sequence[int]) -> None:
        from pytorch_grad_cam import GradCAM

        layer = classifier.model.get_submodule(LAYERS[name])
        with GradCAM(model=classifier.model, target_layers=[layer]) as cam:
            for position in part:
                cam(input_tensor=classifier.prepare(source.path(position)).inputs, targets=None)

    def torchcam(part: Sequence[int]) -> None:
        from torchcam.methods import GradCAM

        with GradCAM(classifier.model, LAYERS[name]) as extractor:
            for position in part:
                out = classifier.model(classifier.prepare(source.path(position)).inputs)
                extractor(out.squeeze(0).argmax().item(), out)

    field = []
    for batch in plan.batches:
        field.append(Contestant("plain loop", batch, timed(partial(plain, batch))))
        field.append(Contestant("camkit, GradCAM", batch, partial(ours, ("GradCAM",), batch)))
    last = plan.batches[-1]
    field.append(Contestant("camkit, six methods", last, partial(ours, SIX, last)))
    if find_spec("pytorch_grad_cam"):
        field.append(Contestant("grad-cam's loop, GradCAM", 1, timed(grad_cam)))
    if find_spec("torchcam"):
        field.append(Contestant("torchcam's loop, GradCAM", 1, timed(torchcam)))
    return field


def timed(go: Callable[[Sequence[int]], None]) -> Callable[[Sequence[int]], tuple[float, float]]:
    """``go``, which says how long it took."""

    def call(part: Sequence[int]) -> tuple[float, float]:
        started, computing = time.perf_counter(), processor_seconds()
        go(part)
        return time.perf_counter() - started, processor_seconds() - computing

    return call


def kept_bytes(images: Path, scratch: Path) -> dict[str, float]:
    """Bytes per image that a run keeps, with one method and with six."""
    found = {}
    classifier = network("lite0")
    kinds = {"GradCAM": (("GradCAM",), "float32"), "six methods": (SIX, "float32")}
    kinds["GradCAM, float16"] = ("GradCAM",), "float16"
    for name, (methods, kind) in kinds.items():
        out = scratch / f"bytes {name}"
        run(images, classifier, out, methods, map_dtype=kind, limit=1000)
        opened = load(out)
        found[name] = opened.nbytes / len(opened)
    return found


def soak(plan: Plan, varied: bool, scratch: Path) -> dict[str, Any]:  # noqa: FBT001
    """Resident bytes of a long run with a tiny network, after some images and at the end."""
    from tests.datasets.pictures import classifier
    from tests.helpers.networks import AnySizeViT, seeded

    folder = scratch / f"soak {varied}"
    folder.mkdir()
    sizes = plan.sizes if varied else 1
    random = np.random.default_rng(0)
    for number in range(sizes):
        height, width = 24 + number % 71, 24 + number // 71
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    names = [f"{number}.png" for number in random.permutation(sizes)]  # else the largest would come late
    listed = folder / "list.txt"
    listed.write_text("".join(f"{names[number % len(names)]}\n" for number in range(plan.soak)))
    found: dict[int, int] = {}

    def look(progress: Progress) -> None:
        if plan.settled not in found and progress.done >= plan.settled:
            found[plan.settled] = resident()

    net = classifier(whole=varied, model=seeded(AnySizeViT())) if varied else classifier()
    summary = run(listed, net, folder / "run", workers=1, progress=look)
    end = resident()
    growth = end / found[plan.settled] - 1
    print(f"{sizes} sizes: {found[plan.settled]} bytes, {end} at the end: {growth:.2%}", flush=True)
    return {
        "images": summary.done,
        "sizes": sizes,
        "settled_after": plan.settled,
        "settled_bytes": found[plan.settled],
        "end_bytes": end,
        "growth": growth,
        "floor": FLAT,
        "met": growth <= FLAT,
    }


def resident() -> int:
    """Bytes of this process that are in memory now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def processor_seconds() -> float:
    """Processor time of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def table(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = ["# Data sets", ""]
    if "speed" in found:
        lines += [f"Rates over {found['images']} images in {found['rounds']} interleaved rounds.", ""]
        lines += ["| network | who | batch | images/s | of the plain loop | of its processor time | floor |"]
        lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
        for row in found["speed"]:
            low, high = row["spread"]
            floor = "" if row["floor"] is None else f"{row['floor']:.2f} {'met' if row['met'] else 'missed'}"
            lines.append(
                f"| {row['network']} | {row['who']} | {row['batch']} | {row['images_per_second']:.1f} | "
                f"{row['share']:.2f} ({low:.2f} to {high:.2f}) | {row['share_of_processor_time']:.2f} | {floor} |"
            )
        lines += ["", "| kept | bytes per image |", "| --- | --- |"]
        lines += [f"| {name} | {value:.0f} |" for name, value in found["bytes"].items()]
    if "flat" in found:
        lines += ["", "| images | sizes | resident after | at the end | growth |", "| --- | --- | --- | --- | --- |"]
        for row in found["flat"]:
            lines.append(
                f"| {row['images']} | {row['sizes']} | {row['settled_bytes'] / 1e6:.0f} MB after "
                f"{row['settled_after']} | {row['end_bytes'] / 1e6:.0f} MB | {row['growth']:.1%} |"
            )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
