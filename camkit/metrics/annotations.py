"""Read where objects are: COCO JSON, Pascal VOC XML, CSV, or a folder of masks."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from camkit.errors import UsageError, closest, reason

FORMS = "COCO's .json, Pascal VOC's .xml or a folder of them, a .csv, or a folder of masks (.png)"
CORNERS = (("left", "top", "right", "bottom"), ("xmin", "ymin", "xmax", "ymax"), ("x", "y", "width", "height"))
"""Columns that say where a box is, one of these sets."""
_OTHERS = ("path", "label")

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels of the whole image, whose first one goes from 0 to 1."""


@dataclass(frozen=True)
class Annotated:
    """An object of an image: a box, polygons or a mask.

    Attributes:
        box: its box.
        polygons: each one x, y, x, y, ... in place of a box.
        mask: the file whose pixels that aren't black are the object, in place of a box.
        label: its class as the file names it; None where it doesn't.
    """

    box: Box | None = None
    polygons: Sequence[Sequence[float]] = ()
    mask: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class Annotations:
    """What a file or a folder says of images.

    Attributes:
        name: the file's or the folder's.
        objects: by image, as the file names that.
        sizes: (height, width) by image, where the file says it.
        notes: lines about what was left out.
    """

    name: str
    objects: Mapping[str, Sequence[Annotated]]
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_annotations(path: str | Path) -> Annotations:
    """Read boxes or masks.

    Args:
        path: see :data:`FORMS`. COCO's boxes are x, y, width, height; Pascal VOC's count pixels from 1 and include the
            last one; a CSV has a line of headings with ``path``, one set of :data:`CORNERS`, which are edges of pixels
            counted from 0, and ``label`` where classes are known. Masks have the names of their images.

    Raises:
        UsageError: there is no such file, it has another form, a column or an entry that it shouldn't have, or nothing
            in it.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        found = _of_folder(path)
    elif not path.exists():
        near = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UsageError(f"no boxes or masks in {path}: there is no such file{closest(path.name, near)}")
    else:
        readers = {".json": _of_coco, ".xml": _of_voc_file, ".csv": _of_csv}
        if path.suffix.lower() not in readers:
            raise UsageError(f"{path} holds no boxes that camkit can read; give {FORMS}")
        found = readers[path.suffix.lower()](path)
    if not any(found.objects.values()):
        left_out = f" ({'; '.join(found.notes)})" if found.notes else ""
        raise UsageError(f"{path} holds no boxes or masks{left_out}")
    return found


def _of_folder(root: Path) -> Annotations:
    """Pascal VOC's files, or masks; whichever there are."""
    files = sorted(each for each in root.rglob("*") if each.is_file() and not each.name.startswith("."))
    voc = [each for each in files if each.suffix.lower() == ".xml"]
    masks = [each for each in files if each.suffix.lower() == ".png"]
    if voc and masks:
        raise UsageError(f"{root} holds boxes ({voc[0].name}, ...) and masks ({masks[0].name}, ...): give one of them")
    if not voc and not masks:
        raise UsageError(f"{root} holds neither .xml nor .png; give {FORMS}")
    if masks:
        named = {_below(each, root): [Annotated(mask=str(each))] for each in masks}
        return Annotations(str(root), named)
    objects: dict[str, list[Annotated]] = {}
    sizes = {}
    for each in voc:
        name, size, found = _read_voc(each, _below(each, root))
        if name in objects:
            raise UsageError(f"{root} says twice what is in {name}, the second time in {each}")
        objects[name] = found
        if size is not None:
            sizes[name] = size
    return Annotations(str(root), objects, sizes)


def _below(path: Path, root: Path) -> str:
    """A file's path below a folder, without its extension."""
    return path.relative_to(root).with_suffix("").as_posix()


def _of_voc_file(path: Path) -> Annotations:
    name, size, found = _read_voc(path, path.stem)
    return Annotations(str(path), {name: found}, {} if size is None else {name: size})


def _read_voc(path: Path, name: str) -> tuple[str, tuple[int, int] | None, list[Annotated]]:
    """An image's name below the folder, its size and its objects."""
    content = _content(path)
    try:
        if b"<!DOCTYPE" in content:  # entities could blow up
            raise UsageError(f"{path} is no annotation of Pascal VOC: it declares a document type")
        root = ElementTree.fromstring(content)  # noqa: S314
    except (ElementTree.ParseError, LookupError) as error:  # the latter of an unknown encoding
        raise UsageError(f"{path} is no XML: {reason(error)}") from error
    if root.tag != "annotation":
        raise UsageError(f"{path} is no annotation of Pascal VOC: it holds <{root.tag}>, not <annotation>")
    found = []
    for number, each in enumerate(root.findall("object"), 1):
        where = f"object {number} of {path}"
        corners = [_number(each.findtext(f"bndbox/{tag}"), tag, where) for tag in ("xmin", "ymin", "xmax", "ymax")]
        left, top, right, bottom = corners
        label = (each.findtext("name") or "").strip()
        found.append(Annotated((left - 1, top - 1, right, bottom), label=label or None))
    size = None
    if root.find("size") is not None:
        height, width = (
            _number(root.findtext(f"size/{tag}"), tag, f"the size in {path}") for tag in ("height", "width")
        )
        size = (int(height), int(width)) if height and width else None
    # The file's own name says which image it is; the name inside may lack the folder or the extension.
    return name, size, found


def _of_coco(path: Path) -> Annotations:
    try:
        told = json.loads(_content(path))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no JSON: {reason(error)}") from error
    if not isinstance(told, dict) or not all(isinstance(told.get(key), list) for key in ("images", "annotations")):
        raise UsageError(f'{path} is no file of COCO\'s: it needs the lists "images" and "annotations"')
    names: dict[Any, str] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for number, image in enumerate(told["images"]):
        where = f"image {number} of {path}"
        own, name = (_entry(image, key, where) for key in ("id", "file_name"))
        if own in names:
            raise UsageError(f"{where} has the id {own}, which {names[own]} has")
        names[own] = str(name)
        if image.get("height") and image.get("width"):
            height, width = (_number(image[key], key, where) for key in ("height", "width"))
            sizes[str(name)] = int(height), int(width)
    labels = _coco_labels(told.get("categories"), path)
    objects: dict[str, list[Annotated]] = {name: [] for name in names.values()}
    crowds = 0
    for number, each in enumerate(told["annotations"]):
        where = f"annotation {each.get('id', number) if isinstance(each, dict) else number} of {path}"
        image = _entry(each, "image_id", where)
        if image not in names:
            raise UsageError(f"{where} is of the image {image!r}, which isn't among its {len(names)} images")
        if each.get("iscrowd"):
            crowds += 1
            continue
        category = None if each.get("category_id") is None else _entry(each, "category_id", where)
        if labels and category is not None and category not in labels:
            raise UsageError(f"{where} is of the category {category!r}, which isn't among its {len(labels)} categories")
        objects[names[image]].append(_coco_object(each, where, labels.get(category)))
    notes = (f"{crowds} crowd{'s' * (crowds > 1)} of {path.name}: no single objects",) if crowds else ()
    return Annotations(str(path), objects, sizes, notes)


def _coco_labels(categories: Any, path: Path) -> dict[Any, str]:
    """Names of categories by their id; none where the file has no categories."""
    if categories is not None and not isinstance(categories, list):
        raise UsageError(f'{path} has "categories" that are no list of {{"id": ..., "name": ...}}')
    named = ((each, f"category {number} of {path}") for number, each in enumerate(categories or ()))
    return {_entry(each, "id", where): str(_entry(each, "name", where)) for each, where in named}


def _coco_object(each: Mapping[str, Any], where: str, label: str | None) -> Annotated:
    """An annotation's box; its polygons where it has no box."""
    box, segments = each.get("bbox"), each.get("segmentation")
    if box:
        if not isinstance(box, list) or len(box) != 4:
            raise UsageError(f"{where} has the bbox {box!r}; COCO's are [x, y, width, height]")
        x, y, width, height = (_number(number, "bbox", where) for number in box)
        return Annotated((x, y, x + width, y + height), label=label)
    if isinstance(segments, dict):
        raise UsageError(f"{where} is a mask in run lengths (RLE) without a bbox: add the bbox, or give masks as .png")
    if not isinstance(segments, list) or not segments:
        raise UsageError(f"{where} has neither a bbox nor polygons")
    polygons = []
    for polygon in segments:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise UsageError(f"{where} has a polygon that isn't [x, y, x, y, x, y, ...] of three points or more")
        polygons.append([_number(number, "segmentation", where) for number in polygon])
    return Annotated(polygons=polygons, label=label)


def _of_csv(path: Path) -> Annotations:
    text = os.fsdecode(_content(path).removeprefix(b"\xef\xbb\xbf"))
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    objects: dict[str, list[Annotated]] = {}
    try:
        reader.fieldnames = [each.strip().lower() for each in reader.fieldnames or ()]
        corners = _corners(reader.fieldnames, path)
        for row in reader:
            where = f"line {reader.line_num} of {path}"
            if None in row:
                raise UsageError(f"{where} has more cells than the {len(reader.fieldnames)} headings")
            name = (row["path"] or "").strip()
            if not name:
                raise UsageError(f"{where} has no path")
            first, second, third, fourth = (_number(row[column], column, where) for column in corners)
            if corners[2] == "width":
                third, fourth = first + third, second + fourth
            label = (row.get("label") or "").strip()
            objects.setdefault(name, []).append(Annotated((first, second, third, fourth), label=label or None))
    except csv.Error as error:
        raise UsageError(f"line {reader.line_num} of {path} is no CSV: {error}") from error
    return Annotations(str(path), objects)


def _corners(headings: Sequence[str], path: Path) -> tuple[str, ...]:
    """The set of columns that says where boxes are."""
    sets = "; or ".join(", ".join(each) for each in CORNERS)
    known = [*_OTHERS, *(name for each in CORNERS for name in each)]
    unknown = [name for name in headings if name not in known]
    if unknown:
        raise UsageError(
            f"{path} has the columns {', '.join(map(repr, unknown))}, which boxes don't have"
            f"{closest(unknown[0], known)}; they have path, label, and {sets}"
        )
    twice = [name for name in headings if headings.count(name) > 1]
    if twice:
        raise UsageError(f"{path} has the column {twice[0]!r} twice: leave one of them")
    chosen = [each for each in CORNERS if set(each) <= set(headings)]
    if "path" not in headings or len(chosen) != 1:
        raise UsageError(f"{path} has the columns {', '.join(headings) or 'none'}; boxes need path, and {sets}")
    rest = [name for name in headings if name not in (*_OTHERS, *chosen[0])]
    if rest:
        raise UsageError(f"{path} says in two ways where boxes are: leave out {', '.join(rest)}")
    return chosen[0]


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"can't read {path}: {error.strerror or error}") from error


def _entry(told: Any, key: str, where: str) -> Any:
    if not isinstance(told, dict) or key not in told or isinstance(told[key], list | dict):
        raise UsageError(f"{where} has no {key!r}")
    return told[key]


def _number(value: Any, what: str, where: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"{where} has {value!r} for {what}, which is no number")
    return number


def match(annotations: Annotations, ids: Sequence[str]) -> tuple[dict[str, str], int]:
    """Which image of the file is which of the data set.

    Args:
        annotations: what was read.
        ids: the data set's images.

    Returns:
        The data set's image to the file's, and how many images of the file aren't in the data set.

    Raises:
        UsageError: a name that fits several images; or none fits any.
    """
    found: dict[str, str] = {}
    for level in (str, _without_extension, _without_folders, _stem):
        theirs = _grouped(level, annotations.objects)
        ours = _grouped(level, [each for each in ids if each not in found])
        taken = set(found.values())
        for key, names in ours.items():
            fitting = [name for name in theirs.get(key, ()) if name not in taken]
            if len(fitting) == len(names) == 1:
                found[names[0]] = fitting[0]
            elif fitting:
                raise UsageError(
                    f"{annotations.name} names {', '.join(fitting[:3])}, which can't be told apart among "
                    f"{', '.join(names[:3])}: name images by their path in DATA"
                )
    if not found:
        theirs_first, ours_first = next(iter(annotations.objects)), next(iter(ids), "nothing")
        raise UsageError(
            f"{annotations.name} has no boxes or masks of the {len(ids)} images: it names images such as "
            f"{theirs_first!r}, DATA such as {ours_first!r}"
        )
    return found, len(annotations.objects) - len(set(found.values()))


def _without_extension(name: str) -> str:
    return os.path.splitext(name)[0]  # noqa: PTH122 (names may be addresses)


def _without_folders(name: str) -> str:
    return name.rpartition("/")[2]


def _stem(name: str) -> str:
    return _without_extension(_without_folders(name))


def _grouped(level: Callable[[str], str], names: Iterable[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(level(name), []).append(name)
    return groups
