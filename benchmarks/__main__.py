"""How fast camkit is and how much memory it takes, beside a plain forward, grad-cam, torchcam and Captum.

Everybody explains the same images with the same network, interleaved, in one process per cell. Without PART all parts
run, which takes three quarters of an hour on two cores (throughput on a GPU only); --quick measures less in 4 minutes,
--smoke only shows that everything works. Whole runs are kept in benchmarks/results (those on a GPU in its cuda) and
drawn to docs/speed.png; others go where they say.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.provenance import RESULTS, machine
from benchmarks.speed import cells, memory, scaling, throughput
from benchmarks.speed.charts import bars, lines
from benchmarks.speed.files import CHART, MEASURED, load
from benchmarks.speed.isolated import isolated
from benchmarks.speed.measure import rows_of
from benchmarks.speed.soak import soak
from benchmarks.speed.startup import startup
from benchmarks.speed.table import full, readme
from benchmarks.speed.targets import judged

PEERS = ("grad-cam", "torchcam", "captum")
PARTS = (*MEASURED, "charts")


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    speed: tuple[cells.Cell, ...]
    memory: tuple[cells.Cell, ...]
    repeats: int
    soak: int
    startup: int
    vis_cam: bool
    scaling: tuple[scaling.Axis, ...]
    network: str
    rounds: int
    throughput: throughput.Load


PLANS = {
    "full": Plan(cells.FULL, memory.FULL, 3, 3000, 5, True, scaling.FULL, "resnet50", 9, throughput.FULL),
    "quick": Plan(cells.QUICK, memory.QUICK, 1, 300, 1, False, scaling.QUICK, "resnet50", 3, throughput.QUICK),
    "smoke": Plan(cells.SMOKE, memory.SMOKE, 1, 150, 1, False, scaling.SMOKE, "tiny", 2, throughput.SMOKE),
}


Row = dict[str, Any]


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print the targets, write JSON, Markdown and charts."""
    options = _options(words)
    plan = PLANS["smoke" if options.smoke else "quick" if options.quick else "full"]
    whole = plan is PLANS["full"] and not options.only
    home = RESULTS if options.device == "cpu" else RESULTS / options.device
    folder = options.out or (home if whole else Path(tempfile.mkdtemp(prefix="camkit-benchmarks-")))
    kept = folder.resolve() == RESULTS.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for part in options.parts:
        if part in MEASURED:
            # Where it was measured is asked for first: a commit made meanwhile isn't the one that was measured.
            found: dict[str, Any] = {"machine": where(options.device)}
            has_cells = part in ("speed", "memory")
            earlier = comparable(folder / f"{part}.json", found["machine"]) if options.only and has_cells else []
            found |= measured(part, plan, options.device, options.only or [])
            if has_cells:
                found["rows"] = [row | {"commit": found["machine"]["commit"]} for row in found["rows"]]
            if earlier:
                order = [cell.name for cell in (plan.speed if part == "speed" else plan.memory)]
                found["rows"] = judged(merged(earlier, found["rows"], order), of_memory=part == "memory")
            (folder / f"{part}.json").write_text(json.dumps(found, indent=1) + "\n")
    results = load(folder)
    if not results:
        raise SystemExit(f"nothing was measured in {folder} yet")
    (folder / "speed.md").write_text(full(results))
    if "charts" in options.parts:
        if "speed" in results:
            bars(results["speed"]["rows"], CHART if kept else folder / CHART.name)
        if "scaling" in results:
            lines(results["scaling"]["rows"], folder / "scaling.png")
    print(readme(results))
    print(f"wrote: {folder}")


def comparable(file: Path, machine_: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of an earlier run, which cells that are measured again replace; each says at which commit it was.

    Raises:
        SystemExit: it was on other hardware, or of other versions.
    """
    if not file.exists():
        return []
    found = json.loads(file.read_text())
    before, now = ({k: v for k, v in each.items() if k != "commit"} for each in (found["machine"], machine_))
    if before != now:
        raise SystemExit(
            f"{file} was measured elsewhere or with other versions: measure all of it, or choose another --out"
        )
    return [{"commit": found["machine"]["commit"]} | row for row in found["rows"]]


def merged(earlier: Sequence[Row], again: Sequence[Row], order: Sequence[str]) -> list[Row]:
    """Rows of two runs, by cell in ``order``: a cell has those of one run, of the second where that measured it."""
    measured_again = {row["cell"] for row in again}
    rows = [*(row for row in earlier if row["cell"] not in measured_again), *again]
    return sorted(rows, key=lambda row: order.index(row["cell"]))


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one or several of: {', '.join(PARTS)}")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="less of everything, in 4 minutes")
    size.add_argument("--smoke", action="store_true", help="a tiny network, 2 rounds: does it work?")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="CELL",
        help="parts of cells' names, such as swin or b16-methods; with --out, they replace those rows there",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, help="a folder for the results")
    options = parser.parse_args(words)
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}; there are: {', '.join(PARTS)}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device on this machine")
    # A CPU has no use for large batches in half precision; asked for by name they run there too.
    options.parts = options.parts or [part for part in PARTS if part != "throughput" or options.device == "cuda"]
    return options


def measured(part: str, plan: Plan, device: str, only: Sequence[str]) -> dict[str, Any]:
    """One part's results."""
    match part:
        case "speed":
            return {"rows": judged(rows_of(_chosen(plan.speed, only), device))}
        case "memory":
            return {"rows": judged(memory.rows_of(_chosen(plan.memory, only), device, plan.repeats), of_memory=True)}
        case "soak":
            return isolated(soak, plan.soak, device)
        case "startup":
            return startup(plan.startup, vis_cam=plan.vis_cam)
        case "throughput":
            return {"rows": isolated(throughput.throughput, plan.throughput, device)}
        case _:
            return {"rows": scaling.scaling(plan.scaling, plan.network, plan.rounds, device)}


def _chosen(all_cells: Sequence[cells.Cell], only: Sequence[str]) -> list[cells.Cell]:
    chosen = [cell for cell in all_cells if not only or any(part in cell.name for part in only)]
    if not chosen:
        raise SystemExit(f"no cell's name holds {' or '.join(only)}; there are: {', '.join(c.name for c in all_cells)}")
    return chosen


def where(device: str) -> dict[str, Any]:
    """What the numbers are taken on."""
    found = machine(*(peer for peer in PEERS if _installed(peer))) | {"device": device, "model": _processor()}
    changes = subprocess.run(
        ["git", "status", "--porcelain", ":/camkit"], capture_output=True, text=True, check=False, cwd=RESULTS
    )
    found["changed"] = bool(changes.stdout.strip())  # the commit alone doesn't say what was measured
    if device == "cuda":
        found["model"] = torch.cuda.get_device_name()
    return found


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _processor() -> str:
    lines_ = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines_ if line.startswith("model name")), "")


if __name__ == "__main__":
    main()
