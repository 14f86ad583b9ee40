"""Pictures of a run's maps, over the images as their files are now."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from camkit.datasets.places import as_file
from camkit.datasets.sources import as_text, from_text
from camkit.errors import CamkitError, UsageError
from camkit.models import pillow
from camkit.models.bands import as_uint8, choose, is_eight_bit, show
from camkit.models.geometry import Geometry
from camkit.models.prepared import check_file
from camkit.visualize.gallery import Cell, gallery
from camkit.visualize.opencv import cv2
from camkit.visualize.overlay import Style, draw_maps
from camkit.visualize.picture import Picture

if TYPE_CHECKING:
    from camkit.datasets.reading import Run

TILE = 224
"""Height and width of a picture on a sheet."""


def draw(
    run: Run,
    row: int | str,
    method: str,
    target_index: int = 0,
    *,
    original_size: bool = False,
    style: Style | None = None,
    bands: Sequence[int] = (),
    path: str | None = None,
) -> Picture:
    """Draw a row's map; see :meth:`camkit.datasets.Run.picture`. ``path`` is where its image is now.

    The part that the network saw is cut out of the whole image and resized, which is the picture of
    ``camkit vis-cam`` but for the way of resizing.

    Raises:
        CamkitError: The image has no maps, its file can't be read any more, or isn't the one that was explained.
        UsageError: It doesn't have the bands that are asked for.
    """
    about = run.row(row)
    maps = run.finished(row, method).numpy()
    column = next(each for each in run.manifest.columns if each.method == method)
    if column.concepts:
        target_index = 0
    if not -len(maps) <= target_index < len(maps):
        raise CamkitError(f"{about['id']} has {len(maps)} maps, and no number {target_index}")
    chosen = maps if column.concepts else maps[[target_index]]
    values = read_original(run, about if path is None else {**about, "path": as_text(path)}, bands)
    box = tuple(about[name] for name in ("box_left", "box_top", "box_right", "box_bottom"))
    size = about["input_height"], about["input_width"]
    if None in box:
        raise CamkitError(
            f"where the network looked in {about['id']} isn't known, for the preprocessing does more than resize, "
            f"crop, pad and flip: camkit vis-cam {about['path']} prepares it again"
        )
    seen = None
    if original_size:
        place = _geometry(box, size)
        laid = [place.to_original(each, (values.shape[0], values.shape[1])) for each in chosen]
        chosen, seen = np.stack([each for each, _ in laid]), laid[0][1]
    else:
        values = cut(values, box, size)
    image = show(values, eight_bit=values.dtype == np.uint8)
    pictures = draw_maps(
        image, chosen, style=style, seen=seen, is_saliency=column.saliency, are_concepts=column.concepts
    )
    return pictures[0]


def read_original(run: Run, about: dict[str, Any], bands: Sequence[int] = ()) -> NDArray[Any]:
    """The whole image of a row as the run read it, with the bands that are shown; uint8 where they are of eight bits.

    Raises:
        CamkitError: Its file can't be read any more, or has another size than the image that was explained.
        UsageError: It doesn't have such bands.
    """
    with as_file(from_text(about["path"])) as path:
        image, bgr = _read(path, run)
    if image.shape[:2] != (about["height"], about["width"]):
        raise CamkitError(
            f"{about['path']} is {image.shape[1]} x {image.shape[0]} now, and was {about['width']} x {about['height']} "
            "when it was explained"
        )
    chosen = choose(image, bands, bgr=bgr)
    return as_uint8(chosen) if is_eight_bit(image) else chosen


def find_image(root: Path, name: str, path: str) -> Path:
    """An image that has moved: below ``root`` by its id, or by the longest end of its old path that is there.

    Raises:
        CamkitError: It isn't there. Nothing outside of ``root`` counts.
    """
    parts = (PureWindowsPath(path) if "\\" in path else PurePosixPath(path)).parts
    ends = [re.sub(r"#\d+$", "", name), name, *("/".join(parts[start:]) for start in range(1, len(parts)))]
    for end in ends:
        try:
            found = (root / end).resolve()
            if found.is_relative_to(root.resolve()) and found.is_file():
                return found
        except (OSError, RuntimeError, ValueError):  # a name too long, a circle of links, a zero byte
            continue
    raise CamkitError(f"{name} isn't below {root}")


def check_root(root: Path | None) -> Path | None:
    """A folder that images are below.

    Raises:
        UsageError: It isn't there.
    """
    if root is not None and not root.is_dir():
        raise UsageError(f"--images {root} is no folder: give the one that the images are below")
    return root


def cut(image: NDArray[Any], box: Sequence[float], size: tuple[int, int]) -> NDArray[Any]:
    """The part of an image (H, W, C) in a box, resized to (height, width).

    Where the box reaches beyond the image it is black: 0 in uint8, and NaN, which is shown so, in other types, which
    become float32.
    """
    left, top, right, bottom = box
    height, width = size
    across, down = (right - left) / width, (bottom - top) / height
    # Much smaller pictures are made of averages first: sampling alone would flicker.
    factor = max(1, int(min(abs(across), abs(down))))
    small: Any = image if image.dtype == np.uint8 else image.astype(np.float32)
    if factor > 1:
        small = cv2.resize(
            small, (max(1, image.shape[1] // factor), max(1, image.shape[0] // factor)), interpolation=cv2.INTER_AREA
        )
    shrunk_x, shrunk_y = small.shape[1] / image.shape[1], small.shape[0] / image.shape[0]
    x = ((np.arange(width) + 0.5) * across + left) * shrunk_x - 0.5
    y = ((np.arange(height) + 0.5) * down + top) * shrunk_y - 0.5
    places_x, places_y = np.meshgrid(x.astype(np.float32), y.astype(np.float32))
    inside = (places_x > -1) & (places_x < small.shape[1]) & (places_y > -1) & (places_y < small.shape[0])
    made = np.asarray(cv2.remap(small, places_x, places_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))
    made = made.reshape(height, width, image.shape[2])  # OpenCV leaves out the axis of one band
    made[~inside] = 0 if made.dtype == np.uint8 else np.nan
    return made


def sheet(
    pictures: Sequence[Sequence[Picture]],
    titles: Sequence[str],
    notes: Sequence[str],
    rows: Sequence[str],
    heading: str,
    columns: int,
) -> Picture:
    """A contact sheet, RGB.

    Args:
        pictures: Of each image, one per row label.
        titles: Of each image.
        notes: A small line for each.
        rows: What the pictures of each image show, from top to bottom.
        heading: Of the sheet.
        columns: Images side by side.
    """
    cells = [
        Cell(title, note=note, pictures=[tile(picture) for picture in group])
        for group, title, note in zip(pictures, titles, notes, strict=True)
    ]
    return gallery(cells, rows, columns, heading)


def tile(picture: Picture) -> Picture:
    """A picture fitted into a square of :data:`TILE` pixels, with white beside it."""
    height, width = picture.shape[:2]
    scale = TILE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    fitted = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    made = np.full((TILE, TILE, 3), 255, dtype=np.uint8)
    top, left = (TILE - size[1]) // 2, (TILE - size[0]) // 2
    made[top : top + size[1], left : left + size[0]] = fitted
    return made


def _read(path: str, run: Run) -> tuple[NDArray[Any], bool]:
    """Read as the run did, with Pillow, OpenCV or MMPretrain's pipeline; also whether the bands are BGR."""
    made = run.manifest.about
    reader = made.get("reader", "pillow")
    if reader == "pipeline":
        from camkit.models.mmpretrain import load_pipeline

        pipeline = load_pipeline(run.manifest.fingerprint["config"])
        if not made["preprocessing"].startswith(pipeline.steps()):
            raise CamkitError(
                f"{pipeline.source} says now to read images otherwise than the run did: draw them with camkit vis-cam, "
                "with the run's --cfg-options"
            )
        return pipeline.original(path)
    if reader != "opencv":
        return np.array(pillow.read(path), dtype=np.uint8), False
    check_file(path)
    found: NDArray[Any] | None = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_COLOR)
    if found is None:
        raise CamkitError(f"can't read {path} as an image; give a picture such as a JPEG or PNG")
    return found, True


def _geometry(box: Sequence[float], size: tuple[int, int]) -> Geometry:
    left, top, right, bottom = box
    height, width = size
    scale_x, scale_y = (right - left) / width, (bottom - top) / height
    return Geometry(scale_x, left + scale_x / 2 - 0.5, scale_y, top + scale_y / 2 - 0.5, height, width)
