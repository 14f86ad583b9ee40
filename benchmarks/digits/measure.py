"""Where the maps are hottest, and where the digits are."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

import camkit
from benchmarks.digits.canvases import SIDE, Canvases, box_share, draw
from benchmarks.speed.cells import METHODS
from camkit.methods import Method

SIZES = ((48, 48), (48, 96), (96, 48))
COUNT = 200
SEEDS = {"validation": 1, "held-out": 2}
"""Choices (network, recipe, methods' settings) were made on the one, the numbers are of the other."""
MORE = (
    "HiResCAM",
    "FinerCAM",
    "RefineCAM",
    "ShapleyCAM",
    "ScoreCAM",
    "AblationCAM",
    "LeGrad",
    "AttentionRollout",
    "GradientRollout",
    "FullGrad",
    "RandomCAM",
)
"""Methods that run plain only; the last one is the control, which knows nothing."""
WRAPPERS: dict[str, Callable[[camkit.CAM], camkit.CAM]] = {
    "": lambda cam: cam,
    "EigenSmooth": camkit.EigenSmooth,
    "AugSmooth": camkit.AugSmooth,
}


@dataclass(frozen=True)
class Row:
    """One method on all canvases of one size. What counts as a hit, :func:`hits` says.

    Attributes:
        canvas: height x width.
        method: the method, and the wrapper if there is one.
        layer: the target layers, or blocks, that camkit chose; empty where the method looks at the whole network.
        grid: the token grid that camkit found there, height x width.
        canvases: the share of canvases on which both digits' maps are hottest on their digit.
        maps: the share of maps, two per canvas, that are.
        raw: the share of the signed maps at the layer's resolution that are; None where several layers have one each.
        exchanged: the share of maps that are hottest on the digit that was *not* asked for: a map that answers to
            what it is asked has few of them, one that shows whatever is there has as many as hits.
        chance: what a hottest position at random would score in ``maps``.
        empty: how many of the maps are zero everywhere; they miss.
    """

    canvas: str
    method: str
    layer: str
    grid: str
    canvases: float
    maps: float
    raw: float | None
    exchanged: float
    chance: float
    empty: int


def sample(split: str, size: tuple[int, int]) -> Canvases:
    """The canvases of a split that everything is measured on: two digits each, the same ones every time."""
    return draw(split, COUNT, size, torch.Generator().manual_seed(SEEDS[split]))


def measure(model: nn.Module, method: str | Method, canvases: Canvases, wrapper: str = "") -> Row:
    """Ask for both digits of every canvas, with no flags: camkit finds the layer, the grid and the class token."""
    cam = WRAPPERS[wrapper](camkit.CAM(model, method))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", camkit.EmptyMapWarning)  # they are counted
        result = cam.explain(canvases.images, canvases.classes)
    size = (canvases.images.shape[2], canvases.images.shape[3])
    found = hits(result.maps, canvases.corners, size)
    first, *others = result.raw.values()
    return Row(
        canvas=f"{size[0]} x {size[1]}",
        method=" + ".join(filter(None, (result.method, wrapper))),
        layer=" + ".join(result.layers),
        grid=f"{first.shape[2]} x {first.shape[3]}",
        canvases=_share(found.all(1)),
        maps=_share(found),
        raw=None if others else _share(hits(first, canvases.corners, size)),
        exchanged=_share(hits(result.maps, canvases.corners.flip(1), size)),
        chance=box_share(size),
        empty=len(result.empty),
    )


def hits(maps: Tensor, corners: Tensor, size: tuple[int, int]) -> Tensor:
    """Whether maps are hottest on their digit: the centre of the hottest cell lies inside the digit's box.

    Strictly inside; and where several cells tie for the hottest, all of them must. A map that is the same everywhere
    is a miss.

    Args:
        maps: (N, T, h, w), finished (cells are pixels) or at the layer's resolution (cells are tokens).
        corners: (N, T, 2), top and left of the digits' boxes, in pixels.
        size: the canvas's height and width.

    Returns:
        (N, T) bool.
    """
    inside = torch.ones(maps.shape, dtype=torch.bool)
    for axis, length in enumerate(size):
        cells = maps.shape[2 + axis]
        centres = (torch.arange(cells) + 0.5) * length / cells
        start = corners[:, :, axis, None]
        within = (centres > start) & (centres < start + SIDE)
        inside &= within.unsqueeze(3 - axis)
    hottest = maps == maps.amax((2, 3), keepdim=True)
    return (inside | ~hottest).flatten(2).all(2)


def rows(model: nn.Module, split: str) -> list[Row]:
    """Every method plain, and those of one forward and one backward also wrapped, on every size of canvas."""
    return [
        measure(model, method, canvases, wrapper)
        for canvases in (sample(split, size) for size in SIZES)
        for wrapper in WRAPPERS
        for method in (METHODS if wrapper else (*METHODS, *MORE))
        # What reduces to the principal component anyway stays as it is under EigenSmooth.
        if not (wrapper == "EigenSmooth" and "Eigen" in method)
    ]


def recognised(model: nn.Module, canvases: Canvases) -> Tensor:
    """(N, 2), whether a digit's class is among the two with the highest scores, as many as there are on the canvas."""
    with torch.inference_mode():
        top = model(canvases.images).topk(2).indices
    known: Tensor = (canvases.classes[:, :, None] == top[:, None]).any(2)
    return known


def recognition(model: nn.Module, split: str) -> dict[str, dict[str, float]]:
    """Per size of canvas, the share of digits the network recognises, and of canvases where it does so with both."""
    shares = {}
    for size in SIZES:
        found = recognised(model, sample(split, size))
        shares[f"{size[0]} x {size[1]}"] = {"digits": _share(found), "canvases": _share(found.all(1))}
    return shares


def markdown(rows: list[Row], network: dict[str, dict[str, float]]) -> str:
    """The rows as a table per size of canvas, best first."""
    parts = []
    for canvas in dict.fromkeys(row.canvas for row in rows):
        of = sorted((row for row in rows if row.canvas == canvas), key=lambda row: (-row.canvases, -row.maps))
        usual = next(row for row in of if row.method == METHODS[0])
        others = [row for row in of if row.layer != usual.layer]
        placed = [f"Layer {_layers(usual.layer)}, {usual.grid} tokens"]
        placed += [
            f"{', '.join(row.method for row in others if row.layer == layer)}: {_layers(layer)}"
            for layer in dict.fromkeys(row.layer for row in others)
        ]
        share = network[canvas]
        known = f"recognises {share['digits']:.1%} of the digits, both on {share['canvases']:.1%} of the canvases"
        parts += [
            f"### {canvas} pixels\n",
            f"{'; '.join(placed)}. Chance: {usual.chance:.1%} of maps. The network {known}.\n",
            "| method | canvases, both maps right | maps right | raw maps right | on the other digit | empty |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for row in of:
            shares = (row.canvases, row.maps, row.raw, row.exchanged)
            shown = ["-" if share is None else f"{share:.1%}" for share in shares]
            parts.append(" | ".join([f"| {row.method}", *shown, f"{row.empty} |"]))
        parts.append("")
    return "\n".join(parts)


def as_json(rows: list[Row]) -> list[dict[str, object]]:
    """The rows as JSON takes them."""
    return [asdict(row) for row in rows]


def _layers(names: str) -> str:
    return ", ".join(f"`{name}`" for name in names.split(" + ")) if names else "the whole network"


def _share(found: Tensor) -> float:
    return found.double().mean().item()
