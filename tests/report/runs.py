"""Runs made without a network: rows and maps as a test wants them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from camkit.datasets.boxes import Rule
from camkit.datasets.manifest import Manifest
from camkit.datasets.places import Folder
from camkit.datasets.schema import MapColumn, make_batch, make_schema
from camkit.datasets.store import ShardWriter

SIDE = 64
"""Of the images."""
CLASSES = ("espresso", "cup", "tabby cat", "tiger cat")


def write_run(
    folder: Path,
    label: Sequence[int | None],
    predicted: Sequence[int],
    *,
    score: Sequence[float] | None = None,
    maps: NDArray[np.float32] | None = None,
    explained: Sequence[Sequence[int]] | None = None,
    ids: Sequence[str] | None = None,
    classes: Sequence[str] = CLASSES,
    asked: int | None = None,
    shard_rows: int = 7,
) -> Path:
    """A run of images of noise, with maps of the predicted classes; its folder is ``folder / "run"``.

    Args:
        folder: Where images and run go.
        label: Of each image, None where it isn't known.
        predicted: Of each image.
        score: Of that; 0.9 for all unless given.
        maps: (N, T, h, w); blobs in the middle unless given.
        explained: Which classes the T maps are of; the predicted one unless given.
        ids: Names of the images, and of their files.
        classes: Names of the classes.
        asked: How many images the command asked for; as many as there are unless given.
        shard_rows: Rows in a file.
    """
    count = len(predicted)
    maps = blobs(np.full((count, 2), 3.0)) if maps is None else maps
    shown = [[each] for each in predicted] if explained is None else [list(each) for each in explained]
    names = [f"{number:03}.png" for number in range(count)] if ids is None else list(ids)
    scores = [0.9] * count if score is None else [float(each) for each in score]
    column = MapColumn("GradCAM/layer4", "GradCAM", "layer4", maps.shape[1:])
    schema = make_schema([column])
    place = Folder(folder / "run")
    about = {"images": count if asked is None else asked}
    _manifest(column, classes, about).write(place)
    values: dict[str, Any] = {
        "id": names,
        "path": [str(write_image(folder / "images" / name, seed)) for seed, name in enumerate(names)],
        "label": list(label),
        "label_score": [None if each is None else 0.3 for each in label],
        "predicted": list(predicted),
        "score": scores,
        "logit": scores,
        "classes": shown,
        "scores": [[each] * len(own) for each, own in zip(scores, shown, strict=True)],
        "logits": [[each] * len(own) for each, own in zip(scores, shown, strict=True)],
        "seconds": [0.1] * count,
    }
    values |= {name: [SIDE] * count for name in ("height", "width", "input_height", "input_width")}
    values |= {name: [0.0] * count for name in ("box_left", "box_top")}
    values |= {name: [float(SIDE)] * count for name in ("box_right", "box_bottom")}
    writer = ShardWriter(place, schema, [column], shard_rows)
    for start in range(0, count, shard_rows):
        part = slice(start, start + shard_rows)
        rows = {name: each[part] for name, each in values.items()}
        writer.add(make_batch(schema, [column], list(range(count))[part], rows, {column.name: maps[part]}))
    writer.commit()
    return folder / "run"


def write_labelled(folder: Path) -> Path:
    """Forty images of two classes, one of which is told by a corner; a quarter is taken for a third class."""
    label = [number % 2 for number in range(40)]
    predicted = [2 if number % 4 == 0 else number % 2 for number in range(40)]
    centres = np.array([[0, 0] if each else [3, 3] for each in label], dtype=float)
    centres += np.random.default_rng(0).normal(0, 0.2, centres.shape)
    return write_run(folder, label, predicted, score=list(np.linspace(0.5, 0.99, 40)), maps=blobs(centres))


def blobs(centres: NDArray[Any], side: int = 7, targets: int = 1) -> NDArray[np.float32]:
    """Signed maps with a bump at (row, column), (N, targets, side, side)."""
    y, x = np.mgrid[:side, :side]
    rows, columns = (np.asarray(centres, dtype=float)[:, at, None, None] for at in (0, 1))
    bump = np.exp(-((y - rows) ** 2 + (x - columns) ** 2) / 2) - 0.05
    return np.repeat(bump[:, None].astype(np.float32), targets, axis=1)


def write_image(path: Path, seed: int) -> Path:
    """A small picture of coarse noise, unless it is there already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((SIDE, SIDE)).save(path, format="PNG")
    return path


def _manifest(column: MapColumn, classes: Sequence[str], about: dict[str, Any]) -> Manifest:
    made: dict[str, Any] = {
        "data": "images",
        "config": "made up",
        "network": "0",
        "checkpoint": "0",
        "preprocessing": {"digest": "0"},
        "output": None,
        "activation": "softmax",
        "methods": {"GradCAM": {}},
        "target": "predicted",
        "smoothing": [],
        "precision": "as loaded",
        "map dtype": "float32",
        "camkit": "0",
    }
    rule = Rule("whole", 0, (SIDE, SIDE))
    return Manifest(made, {"GradCAM": ["layer4"]}, [column], rule, len(classes), list(classes), about)
