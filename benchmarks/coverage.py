"""Does camkit explain every family of image classifiers with no flags? One row per network, and why where it doesn't.

Every network gets seeded weights and a photograph, and is explained by ``camkit.CAM(model).explain(photograph)``, with
``output`` from ``camkit.models`` where MMPretrain predicts from the sum of two heads. A row passes where the signed
map is finite and varies, where its grid has the photograph's shape, where it is for the class that the network puts
first, where a hook and an autograd call that know nothing of camkit find a gradient at more than one position of the
layer that camkit chose, and where GradCAM made by hand from what they find is camkit's map. What can't be run offline
is a row too, with the reason. The exit code is 1 where a network doesn't pass.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

import camkit
from benchmarks.families import Built, Case
from benchmarks.others import ECOSYSTEMS
from benchmarks.provenance import RESULTS, machine
from camkit.compat import tree_leaves, tree_map
from camkit.models.torchvision_shim import ensure_torchvision

SPREAD = 1e-3
"""How much of its largest magnitude a map must vary by; float32 noise on a constant map is below 1e-5 of it."""
LIVE = 1e-6
"""What part of the largest gradient a position needs to count as live."""
AGREE = 1e-4
"""How far, of its largest magnitude, camkit's map may be from the one made by hand."""
PEERS = ("timm", "torchvision", "transformers")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Row:
    """What became of one network; the fields after ``verdict`` stay empty where nothing was found out.

    Attributes:
        verdict: ``"ok"``, ``"FAIL"`` or ``"not run"``.
        reason: why, where the verdict isn't ``"ok"``.
        input: the photograph's shape as the network takes it.
        layer: what camkit chose.
        kind: the class of that layer.
        grid: the shape of its map.
        live: at how many positions the class score depends on it.
        spread: highest minus lowest value of the signed map, in units of its largest magnitude.
        error: largest distance from the map made by hand, in the same units.
        rectified_empty: nothing is left of the map without its negative part, which camkit says in a warning.
        seconds: a plain forward, finding the layer, and explaining with the layer found.
    """

    ecosystem: str
    family: str
    model: str
    verdict: str
    reason: str = ""
    parameters: int = 0
    input: tuple[int, ...] = ()
    layer: str = ""
    kind: str = ""
    grid: tuple[int, ...] = ()
    live: int = 0
    spread: float = 0.0
    error: float = 0.0
    rectified_empty: bool = False
    seconds: tuple[float, float, float] | None = None


def main() -> int:
    """Run, print the table and write it where nothing was left out."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.coverage",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--ecosystem", nargs="+", choices=ECOSYSTEMS, default=list(ECOSYSTEMS))
    parser.add_argument("--only", nargs="+", metavar="NAME", help="part of a family's or a model's name, in any case")
    options = parser.parse_args()
    ensure_torchvision()
    chosen = cases(options.ecosystem, options.only)
    rows = []
    for case in chosen:
        rows.append(row_of(case))
        print(_line(rows[-1]), flush=True)
    print(_summary(rows))
    if not options.only and len(options.ecosystem) == len(ECOSYSTEMS):
        record = {"machine": machine(*PEERS), "rows": [asdict(row) for row in rows]}
        (RESULTS / "coverage.json").write_text(json.dumps(record, indent=2) + "\n")
        (RESULTS / "coverage.md").write_text(markdown(rows))
    return int(any(row.verdict == "FAIL" for row in rows))


def cases(ecosystems: Iterable[str], only: Sequence[str] | None = None) -> list[Case]:
    """The cases of ``ecosystems`` whose family or model contains one of the names in ``only``."""
    found = [case for ecosystem in ecosystems for case in ECOSYSTEMS[ecosystem]()]
    if only is None:
        return found
    names = [name.lower() for name in only]
    return [case for case in found if any(name in f"{case.family}\n{case.model}".lower() for name in names)]


def row_of(case: Case) -> Row:
    """Build one network, explain the photograph with it and check the result. Whatever is raised is a row."""
    label = (case.ecosystem, case.family, case.model)
    if case.why_not:
        return Row(*label, "not run", case.why_not)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            built = case.network(Path(folder))
        except Exception as error:  # noqa: BLE001  the reason is the row's
            return Row(*label, "FAIL", f"it can't be built: {_said(error)}")
        try:
            return explained(label, built)
        except Exception as error:  # noqa: BLE001
            return Row(*label, "FAIL", _said(error), _size(built.model), tuple(built.image.shape))


def explained(label: tuple[str, str, str], built: Built) -> Row:
    """Explain the photograph with no flags, and judge."""
    model, image = built.model, built.image
    with torch.inference_mode():
        _, plain = _timed(lambda: built.run(image))
    settings: dict[str, Any] = {"output": built.output, **built.settings}
    cam = camkit.CAM(model, **settings)
    layers, probing = _timed(lambda: cam.target_layers(image, built.target))
    explanation, explaining = _timed(lambda: cam.explain(image, built.target))
    (name, layer), raw = next(iter(layers.items())), explanation.raw[explanation.layers[0]][0, 0]
    found = by_hand(built, layer, tuple(raw.shape))
    scale = raw.abs().max().item() or 1.0
    row = Row(
        *label,
        "ok",
        parameters=_size(model),
        input=tuple(image.shape),
        layer=name,
        kind=type(layer).__name__,
        grid=tuple(raw.shape),
        live=found.live,
        spread=(raw.max() - raw.min()).item() / scale,
        error=(raw - found.map).abs().max().item() / scale,
        rectified_empty=bool(explanation.empty),
        seconds=(plain, probing, explaining),
    )
    category = found.category if built.target else int(torch.as_tensor(explanation.targets)[0, 0])
    reasons = _objections(row, bool(raw.isfinite().all()), category, found.category, is_one_row=built.is_one_row)
    return replace(row, verdict="FAIL", reason="; ".join(reasons)) if reasons else row


def _objections(row: Row, finite: bool, category: int, first: int, *, is_one_row: bool) -> list[str]:  # noqa: FBT001
    checks = {
        "the map isn't finite": finite,
        f"a {_times(row.grid)} grid isn't the photograph's shape": _fits(row.grid, row.input[2:]) or is_one_row,
        f"the map is the same everywhere (spread {row.spread:.1g})": row.spread > SPREAD,
        f"it is for class {category}, the network puts {first} first": category == first,
        f"a gradient reaches {row.live} position{'s' * (row.live != 1)} of {row.layer}": row.live > 1,
        f"the map differs from GradCAM made by hand by {row.error:.1g}": row.error <= AGREE,
    }
    return [said for said, passed in checks.items() if not passed]


class ByHand(NamedTuple):
    """The top class, its signed GradCAM map, and at how many positions the gradient of its score isn't zero."""

    category: int
    map: Tensor
    live: int


def by_hand(built: Built, layer: nn.Module, grid: tuple[int, ...]) -> ByHand:
    """GradCAM of the top class, or of the target, at ``layer``.

    Nothing of camkit's takes part: neither its hooks nor its layouts nor its reading of what the model returns.
    """
    calls: list[list[Tensor]] = []

    def keep(_: nn.Module, __: Any, output: Any) -> Any:
        kept = [leaf.detach().clone().requires_grad_() for leaf in tree_leaves(output) if _holds(leaf, grid)]
        calls.append(kept)
        roots = iter(kept)
        return tree_map(lambda leaf: next(roots).clone() if _holds(leaf, grid) else leaf, output)

    handle = layer.register_forward_hook(keep)
    try:
        output = built.run(built.image.clone())
    finally:
        handle.remove()
    part = built.settings.get("output")
    if part is not None:
        output = output[part]
    if built.target:
        category, score = 0, built.target(output[0])
    else:
        logits = torch.stack(_scores(output)).sum(0)[0]
        category = int(logits.argmax())
        score = logits[category]
    kept = calls[built.call]
    gradients = torch.autograd.grad(score, kept, allow_unused=True)
    activations, gradient = next((a, g) for a, g in zip(kept, gradients, strict=True) if g is not None)
    places, slopes = _places(activations.detach(), grid), _places(gradient, grid)
    largest = slopes.abs().amax(0)
    live = int((largest > LIVE * gradient.abs().max()).sum())
    made = (slopes.mean(1) @ places).reshape(grid[::-1] if built.is_turned else grid)
    return ByHand(category, made.T if built.is_turned else made, live)


def _scores(output: Any) -> list[Tensor]:
    """The logits: two of them where a network predicts from the sum of two heads, as MMPretrain's Conformer does."""
    if isinstance(output, dict) and "logits" in output:
        return [output["logits"]]
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


def _holds(leaf: Any, grid: tuple[int, ...]) -> bool:
    """Whether ``leaf`` is a tensor with a place for every cell of ``grid``."""
    return isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.numel() >= math.prod(grid)


def _places(tensor: Tensor, grid: tuple[int, ...]) -> Tensor:
    """One image's (channels, places)."""
    shape, count = tuple(tensor.shape[1:]), math.prod(grid)
    if shape[1:] == grid:
        return tensor[0].flatten(1)
    if shape[:-1] == grid:
        return tensor[0].flatten(0, -2).T
    if len(shape) == 2:
        # Class, distillation and register tokens stand in front.
        return tensor[0, -count:].T
    # A layer that runs on the places of the whole batch, flattened.
    return tensor.reshape(count, -1).T


def _fits(grid: Sequence[int], size: Sequence[int]) -> bool:
    """Whether the cells are as high as they are wide, up to one more or less in a row or column."""
    return all(abs(cells - grid[0] * length / size[0]) <= 1 for cells, length in zip(grid, size, strict=True))


def _timed(call: Callable[[], Result]) -> tuple[Result, float]:
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _said(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"


def markdown(rows: Sequence[Row]) -> str:
    """The table."""
    header = "| ecosystem | family | model | M | input | layer | class | grid | live | verdict | probe + explain, s |"
    lines = [_summary(rows), "", header, re.sub(r"[^|]+", " --- ", header)]
    return "\n".join([*lines, *map(_line, rows)]) + "\n"


def _line(row: Row) -> str:
    seconds = "" if row.seconds is None else f"{row.seconds[1]:.2f} + {row.seconds[2]:.2f}"
    cells = (
        row.ecosystem,
        row.family,
        row.model,
        f"{row.parameters / 1e6:.1f}" if row.parameters else "",
        _times(row.input[2:]),
        row.layer,
        row.kind,
        _times(row.grid),
        str(row.live or ""),
        f"{row.verdict}: {row.reason}" if row.reason else row.verdict,
        seconds,
    )
    return f"| {' | '.join(cells)} |"


def _times(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes))


def _summary(rows: Sequence[Row]) -> str:
    count = {verdict: sum(row.verdict == verdict for row in rows) for verdict in ("ok", "FAIL", "not run")}
    return f"{count['ok']} explained, {count['FAIL']} not, {count['not run']} can't be run here."


if __name__ == "__main__":
    sys.exit(main())
