"""Do the maps of the coverage's networks follow the image? One row per network of images, at its default layer.

- Turned: a network behind ``images.transpose(2, 3)`` gets the transposed photograph. Its map is the transposed map of
  the network itself ("same"; in float64 where rounding hides it), or camkit refuses it ("refused"). Anything else is
  wrong, and makes the exit code 1.
- Mirrored: with every convolution's kernel made symmetric, and the photograph as large as it is or a pixel larger, many
  networks treat a mirrored image as the image. How far a network's own layer is from that is measured at the layer; the
  mirrored photograph's map, mirrored back, may be a few times that far from the photograph's map. Networks whose layer
  is further than a thirtieth (positions, even kernels) can't tell.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import camkit
from benchmarks.coverage import cases
from benchmarks.families import Built, Case
from benchmarks.others import ECOSYSTEMS
from benchmarks.provenance import RESULTS, machine
from camkit.compat import tree_leaves
from camkit.errors import CamkitError
from camkit.models.torchvision_shim import ensure_torchvision

AGREE = 1e-4
"""How far, of its largest magnitude, a turned map may be from the plain one."""
SYMMETRIC, FEW, ROUNDING = 0.03, 10, 0.02
"""How far from symmetric a layer may be for the mirror to tell; how many times as far its map may be, whose weights are
sums of terms that cancel; and how far in any case."""


class Turned(nn.Module):
    """A network that exchanges the sides of its images first."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Any:
        """What the network gives."""
        return self.network(images.transpose(2, 3).contiguous())  # bit for bit what it is given without


@dataclass(frozen=True)
class Row:
    """One network.

    Attributes:
        turned: ``"same"``, ``"refused"`` or ``"wrong"``.
        said: What camkit says where it refuses.
        error: Distance of the turned map from the plain one, of the plain one's largest magnitude.
        mirrored: ``"same"``, ``"wrong"`` or ``"can't tell"``.
        mirror_error: Distance of the map of the mirrored photograph, mirrored back, from the photograph's, likewise.
        apart: Which part of its size the layer's output is from the mirrored photograph's, mirrored back, or the
            network's logits are from its logits, whichever is more; None where the image's sides aren't two dimensions
            of the layer's output.
    """

    model: str
    layer: str
    turned: str
    said: str = ""
    error: float = 0.0
    mirrored: str = "can't tell"
    mirror_error: float = 0.0
    apart: float | None = None


def main() -> int:
    """Run, print and write the rows where nothing was left out."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.laws", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="part of a family's or a model's name, in any case")
    options = parser.parse_args()
    ensure_torchvision()
    rows = []
    for case in cases([name for name in ECOSYSTEMS if name != "other"], options.only):
        if not case.why_not:
            rows.append(row_of(case))
            print(rows[-1], flush=True)
    counts = {verdict: sum(row.turned == verdict for row in rows) for verdict in ("same", "refused", "wrong")}
    mirrored = {verdict: sum(row.mirrored == verdict for row in rows) for verdict in ("same", "wrong", "can't tell")}
    print(f"turned: {counts}; mirrored: {mirrored}")
    if not options.only:
        record = {"machine": machine("timm", "torchvision", "transformers"), "rows": [asdict(row) for row in rows]}
        (RESULTS / "laws.json").write_text(json.dumps(record, indent=2) + "\n")
    return int(bool(counts["wrong"] or mirrored["wrong"]))


def row_of(case: Case) -> Row:
    """Build one network and explain the photograph, turned and mirrored."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        built = case.network(Path(folder))
        return _mirrored(built, replace(_turned(built), model=f"{case.ecosystem} {case.model}"))


def _turned(built: Built) -> Row:
    row = _turned_in(built, built.model, built.image)
    if row.turned == "wrong" and not row.said:  # is it rounding?
        row = _turned_in(built, copy.deepcopy(built.model).double(), built.image.double())
    return row


def _turned_in(built: Built, model: nn.Module, image: Tensor) -> Row:
    settings: dict[str, Any] = {"output": built.output, **built.settings}
    plain = camkit.CAM(model, **settings).explain(image)
    (layer, signed), (category,) = next(iter(plain.raw.items())), plain.targets[0]
    turned = camkit.CAM(Turned(model).eval(), target_layers=[f"network.{layer}"], **settings)
    try:
        (found,) = turned.explain(image.transpose(2, 3).contiguous(), category).raw.values()
    except CamkitError as error:
        return Row("", layer, "refused", str(error))
    if found.shape != signed.mT.shape:
        return Row("", layer, "wrong", f"{tuple(found.shape)} of {tuple(signed.shape)}")
    distance = _distance(found.mT, signed)
    return Row("", layer, "same" if distance <= AGREE else "wrong", error=distance)


def _mirrored(built: Built, row: Row) -> Row:
    for module in built.model.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = (module.weight.data + module.weight.data.flip(3)) / 2
    settings: dict[str, Any] = {"output": built.output, **built.settings}
    best = row
    for image in (built.image, nn.functional.pad(built.image, (0, 1, 0, 1), mode="reflect")):
        cam = camkit.CAM(built.model, target_layers=[row.layer], **settings)
        try:
            plain = cam.explain(image)
            mirrored = cam.explain(image.flip(3), plain.targets[0][0])
            apart = _apart(built, row.layer, image, plain.raw[row.layer].shape[2:])
            # A head that knows places, as VGG's, has gradients that do.
            apart = None if apart is None else max(apart, _distance(mirrored.logits, plain.logits))
        except (CamkitError, RuntimeError, AssertionError):  # a network of one image size
            continue
        if apart is None or (best.apart is not None and best.apart <= apart):
            continue
        distance = _distance(mirrored.raw[row.layer].flip(-1), plain.raw[row.layer])
        verdict = "can't tell" if apart > SYMMETRIC else "same" if distance <= ROUNDING + FEW * apart else "wrong"
        best = replace(row, mirrored=verdict, mirror_error=distance, apart=apart)
    return best


def _distance(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def _apart(built: Built, layer: str, image: Tensor, grid: tuple[int, ...]) -> float | None:
    kept: list[Tensor] = []
    module = built.model.get_submodule(layer.partition("@")[0].partition("[")[0])
    handle = module.register_forward_hook(
        lambda _, __, output: kept.append(next(each for each in tree_leaves(output) if isinstance(each, Tensor)))
    )
    try:
        with torch.inference_mode():
            built.run(image)
            built.run(image.flip(3))
    finally:
        handle.remove()
    first, second = kept[len(kept) // 2 - 1], kept[-1]
    across = 3 if first.shape[2:] == grid else 2 if first.shape[1:-1] == grid else None
    return None if across is None else float((second.flip(across) - first).norm() / first.norm())


if __name__ == "__main__":
    sys.exit(main())
