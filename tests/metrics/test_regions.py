"""Boxes and masks: what files say, which image is meant, and where objects are in what the network sees."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from camkit.errors import UsageError
from camkit.metrics.annotations import Annotated, Annotations, match, read_annotations
from camkit.metrics.regions import NoRegionError, read_regions, seen_region

CLASSES = {"cat": 0, "dog": 1}
WHOLE = (0.0, 0.0, 60.0, 40.0)
"""The network sees all of an image of 40 x 60."""
SIZE = (40, 60)


def find_category(name: str) -> int:
    if name not in CLASSES:
        raise UsageError(f"no class {name}")
    return CLASSES[name]


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def coco(**changes: Any) -> dict[str, Any]:
    told: dict[str, Any] = {
        "images": [{"id": 7, "file_name": "a.jpg", "height": 40, "width": 60}, {"id": 8, "file_name": "b.jpg"}],
        "annotations": [{"id": 1, "image_id": 7, "bbox": [10, 5, 20, 10], "category_id": 3}],
        "categories": [{"id": 3, "name": "cat"}],
    }
    return told | changes


def voc(box: Sequence[float] = (11, 6, 30, 15), name: str = "cat") -> str:
    corners = "".join(f"<{tag}>{at}</{tag}>" for tag, at in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    size = "<size><width>60</width><height>40</height><depth>3</depth></size>"
    return f"<annotation>{size}<object><name>{name}</name><bndbox>{corners}</bndbox></object></annotation>"


def write_mask(path: Path, *, size: tuple[int, int] = SIZE) -> Path:
    pixels = np.zeros(size, np.uint8)
    pixels[5:15, 10:30] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def test_all_forms_say_the_same_region(tmp_path: Path) -> None:
    """The pixels of rows 5 to 14 and columns 10 to 29, as each form writes them."""
    write_mask(tmp_path / "masks" / "a.png")
    files = [
        write(tmp_path / "coco.json", coco()),
        write(tmp_path / "voc" / "a.xml", voc()).parent,
        write(tmp_path / "one" / "a.xml", voc()),
        write(tmp_path / "edges.csv", "path,left,top,right,bottom,label\na.jpg,10,5,30,15,cat\n"),
        write(tmp_path / "corners.csv", "path,xmin,ymin,xmax,ymax\na.jpg,10,5,30,15\n"),
        write(tmp_path / "sizes.csv", "path,x,y,width,height\na.jpg,10,5,20,10\n"),
        tmp_path / "masks",
        write(
            tmp_path / "polygons.json",
            coco(annotations=[{"id": 1, "image_id": 7, "segmentation": [[10, 5, 30, 5, 30, 15, 10, 15]]}]),
        ),
    ]
    expected = np.zeros(SIZE, bool)
    expected[5:15, 10:30] = True
    for file in files:
        found = read_regions(file, ["a.jpg"], find_category).find("a.jpg", 0, SIZE, WHOLE, SIZE)
        assert found is not None, file
        assert np.array_equal(found.numpy(), expected), file


@pytest.mark.parametrize("view", [WHOLE, (10.0, 0.0, 50.0, 40.0), (-5.0, -10.0, 65.0, 50.0), (60.0, 0.0, 0.0, 40.0)])
def test_a_region_is_where_pixels_centres_show_the_object(view: tuple[float, float, float, float]) -> None:
    """A loop over the network's pixels; the view is a crop, padded, or mirrored."""
    box, (height, width) = (12.5, 3.0, 41.0, 22.0), (16, 20)
    found = seen_region([Annotated(box)], SIZE, view, (height, width))
    for row in range(height):
        for column in range(width):
            x = view[0] + (column + 0.5) / width * (view[2] - view[0])
            y = view[1] + (row + 0.5) / height * (view[3] - view[1])
            assert found[row, column] == (box[0] <= x < box[2] and box[1] <= y < box[3])


def test_objects_thinner_than_a_pixel_have_one(tmp_path: Path) -> None:
    for thin in (Annotated((30.2, 20.1, 30.4, 20.3)), Annotated(polygons=[[30.1, 20.1, 30.3, 20.1, 30.3, 20.2]])):
        assert seen_region([thin], SIZE, WHOLE, (4, 6)).sum() == 1
    pixels = np.zeros(SIZE, np.uint8)
    pixels[21, 33] = 1
    Image.fromarray(pixels).save(tmp_path / "dot.png")
    dot = seen_region([Annotated(mask=str(tmp_path / "dot.png"))], SIZE, WHOLE, (4, 6))
    assert np.argwhere(dot).tolist() == [[2, 3]]


def test_several_objects_are_one_region() -> None:
    found = seen_region([Annotated((0, 0, 10, 10)), Annotated((50, 30, 60, 40))], SIZE, WHOLE, SIZE)
    assert found.sum() == 200


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((60, 0, 70, 10), "lie outside the image"),
        ((-9, -9, 0, 0), "lie outside the image"),
        ((10, 5, 10, 15), "are empty"),
        ((30, 5, 10, 15), "are empty"),
        ((0, 0, 5, 40), "outside what the network sees"),
    ],
)
def test_boxes_that_show_nothing_are_told_apart(box: tuple[float, float, float, float], message: str) -> None:
    with pytest.raises(NoRegionError, match=message):
        seen_region([Annotated(box)], SIZE, (10.0, 0.0, 50.0, 40.0), (16, 16))


def test_boxes_that_reach_beyond_the_image_are_cut() -> None:
    assert seen_region([Annotated((-10, -10, 70, 50))], SIZE, WHOLE, SIZE).all()
    beyond = seen_region([Annotated((-100, -100, 200, 200))], SIZE, (-30.0, 0.0, 30.0, 40.0), (4, 4))
    assert beyond[:, 2:].all()
    assert not beyond[:, :2].any(), "padding is no part of the image"


def test_images_without_a_region_are_counted_by_reason_with_the_first_three_named(tmp_path: Path) -> None:
    lines = [f"{name}.jpg,70,0,80,10" for name in "abcd"] + ["e.jpg,0,0,0,0", "f.jpg,0,0,5,5", "other.jpg,0,0,5,5"]
    file = write(tmp_path / "boxes.csv", "\n".join(["path,left,top,right,bottom", *lines]))
    ids = [f"{name}.jpg" for name in "abcdefg"]
    regions = read_regions(file, ids)
    found = [regions.find(each, 0, SIZE, WHOLE, SIZE) for each in ids]
    assert [each is not None for each in found] == [False] * 5 + [True, False]
    assert regions.find("f.jpg", 0, SIZE, None, SIZE) is None
    assert regions.lines() == [
        f"1 image of {file}, not in DATA",
        "4 images whose boxes lie outside the image: a.jpg, b.jpg, c.jpg, ...",
        "1 image whose boxes or masks are empty: e.jpg",
        "1 image without boxes or masks: g.jpg",
        "1 image of which it can't be told what part the network saw: f.jpg",
    ]


def test_objects_of_the_class_that_is_explained_count_alone(tmp_path: Path) -> None:
    file = write(tmp_path / "b.csv", "path,left,top,right,bottom,label\na.jpg,0,0,5,5,cat\na.jpg,9,9,20,20,wolf\n")
    regions = read_regions(file, ["a.jpg"], find_category)
    cat = regions.find("a.jpg", 0, SIZE, WHOLE, SIZE)
    assert cat is not None
    assert int(cat.sum()) == 25
    assert regions.find("a.jpg", 1, SIZE, WHOLE, SIZE) is None
    assert regions.lines() == ["1 image without an object of the class that is explained: a.jpg"]


def test_labels_that_are_no_classes_mean_nothing_and_that_is_said(tmp_path: Path) -> None:
    regions = read_regions(write(tmp_path / "a.xml", voc(name="n02123045")), ["a.jpg"], find_category)
    assert regions.find("a.jpg", 1, SIZE, WHOLE, SIZE) is not None
    assert "since none is a class of the network" in regions.lines()[0]
    assert "(n02123045): objects of all labels count" in regions.lines()[0]


def test_annotations_of_another_size_are_no_region(tmp_path: Path) -> None:
    regions = read_regions(write(tmp_path / "coco.json", coco()), ["a.jpg"])
    assert regions.find("a.jpg", 0, (80, 120), (0.0, 0.0, 120.0, 80.0), SIZE) is None
    assert regions.lines()[-1] == "1 image of another size than the file says: a.jpg"
    write_mask(tmp_path / "masks" / "a.png", size=(41, 60))
    masks = read_regions(tmp_path / "masks", ["a.jpg"])
    assert masks.find("a.jpg", 0, SIZE, WHOLE, SIZE) is None
    assert masks.lines() == ["1 image whose masks have another size than the image: a.jpg"]
    (tmp_path / "masks" / "a.png").write_bytes(b"no picture")
    assert masks.find("a.jpg", 0, SIZE, WHOLE, SIZE) is None
    assert masks.lines()[-1] == "1 image whose masks can't be read: a.jpg"


def test_masks_may_have_colours_palettes_and_transparency(tmp_path: Path) -> None:
    plain = np.zeros((4, 4), np.uint8)
    plain[1, 2] = 1
    palette = Image.fromarray(plain).convert("P")
    palette.putpixel((0, 0), 255)  # Pascal VOC's border
    palette.putpixel((2, 1), 1)
    colours = Image.fromarray(np.stack([plain * 0, plain * 200, plain * 0], 2))
    clear = Image.fromarray(np.stack([plain + 9, plain + 9, plain + 9, plain * 255], 2))
    for number, mask in enumerate((Image.fromarray(plain), palette, colours, clear, Image.fromarray(plain > 0))):
        path = tmp_path / f"{number}.png"
        mask.save(path)
        found = seen_region([Annotated(mask=str(path))], (4, 4), (0.0, 0.0, 4.0, 4.0), (4, 4))
        assert np.argwhere(found).tolist() == [[1, 2]], mask.mode


def test_crowds_are_left_out_and_counted(tmp_path: Path) -> None:
    crowd = {"id": 2, "image_id": 8, "iscrowd": 1, "segmentation": {"counts": [0], "size": [1, 1]}}
    found = read_annotations(write(tmp_path / "c.json", coco(annotations=[*coco()["annotations"], crowd])))
    assert found.notes == ("1 crowd of c.json: no single objects",)
    assert found.objects["b.jpg"] == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", "is no JSON"),
        ("a.json", "[]", "is no file of COCO's"),
        ("a.json", coco(annotations=[]), "holds no boxes or masks"),
        ("a.json", coco(images=[{"id": 1}]), "image 0 of .* has no 'file_name'"),
        ("a.json", coco(images=[{"id": 1, "file_name": "a"}] * 2), "has the id 1, which a has"),
        ("a.json", coco(annotations=[{"id": 5, "image_id": 9, "bbox": [0, 0, 1, 1]}]), "annotation 5 .* the image 9"),
        ("a.json", coco(annotations=[{"id": 5, "image_id": 7, "bbox": [0, 0, 1]}]), "COCO's are"),
        ("a.json", coco(annotations=[{"id": 5, "image_id": 7, "bbox": [0, 0, 1, "x"]}]), "'x' for bbox"),
        ("a.json", coco(annotations=[{"id": 5, "image_id": 7, "bbox": [0, 0, 1, 1], "category_id": 9}]), "category 9"),
        ("a.json", coco(annotations=[{"id": 5, "image_id": 7, "segmentation": {"counts": "ab"}}]), "RLE"),
        ("a.json", coco(annotations=[{"id": 5, "image_id": 7, "segmentation": [[1, 2, 3]]}]), "three points"),
        ("a.json", coco(annotations=[{"id": 5, "image_id": 7}]), "neither a bbox nor polygons"),
        ("a.json", coco(annotations=[{"image_id": 7, "bbox": [10**400, 0, 1, 1]}]), "for bbox, which is no number"),
        ("a.json", coco(annotations=[{"image_id": 7, "bbox": [0, 0, 1, 1], "category_id": [1]}]), "no 'category_id'"),
        ("a.json", coco(images=[{"id": 7, "file_name": "a", "height": "x", "width": 1}]), "'x' for height"),
        ("a.json", coco(categories=5), '"categories" that are no list'),
        ("a.json", coco(categories=[{"id": [1], "name": "cup"}]), "category 0 of .* has no 'id'"),
        ("a.xml", '<?xml version="1.0" encoding="none"?><annotation/>', "is no XML: unknown encoding"),
        ("a.json", coco(annotations=[3]), "annotation 0 of .* has no 'image_id'"),
        ("a.xml", "<annotation", "is no XML"),
        ("a.xml", "<html></html>", "holds <html>"),
        ("a.xml", "<!DOCTYPE annotation><annotation/>", "document type"),
        ("a.xml", voc(("x", 1, 2, 3)), "object 1 of .* 'x' for xmin"),  # type: ignore[arg-type]
        ("a.xml", "<annotation/>", "holds no boxes or masks"),
        ("a.csv", "", "needs? path"),
        ("a.csv", "path,left,top,right\n", "boxes need path"),
        ("a.csv", "path,lefft,top,right,bottom\n", "'lefft', .*closest: left"),
        ("a.csv", "path,left,top,right,bottom,x\n", "in two ways where boxes are: leave out x"),
        ("a.csv", "path,left,left,top,right,bottom\n", "'left' twice"),
        ("a.csv", "path,left,top,right,bottom\na.jpg,1,2,3,nan\n", "line 2 of .* 'nan' for bottom"),
        ("a.csv", "path,left,top,right,bottom\na.jpg,1,2,3\n", "line 2 of .* None for bottom"),
        ("a.csv", "path,left,top,right,bottom\n,1,2,3,4\n", "line 2 of .* has no path"),
        ("a.csv", "path,left,top,right,bottom\na.jpg,1,2,3,4,5\n", "more cells"),
        ("a.txt", "x", "holds no boxes that camkit can read"),
    ],
)
def test_bad_files_are_refused_in_a_line(name: str, content: Any, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(UsageError, match=message) as refusal:
        read_annotations(path)
    assert "\n" not in str(refusal.value)


def test_missing_files_and_mixed_folders_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "boxes.csv", "path,left,top,right,bottom\na,1,2,3,4\n")
    with pytest.raises(UsageError, match="there is no such file; closest: boxes.csv"):
        read_annotations(tmp_path / "boxs.csv")
    with pytest.raises(UsageError, match="neither .xml nor .png"):
        read_annotations(tmp_path)
    write_mask(tmp_path / "a.png")
    write(tmp_path / "b.xml", voc())
    with pytest.raises(UsageError, match="holds boxes .b.xml, .* and masks .a.png"):
        read_annotations(tmp_path)


def named(*names: str) -> Annotations:
    return Annotations("file", {name: [Annotated((0, 0, 1, 1))] for name in names})


def test_images_are_found_by_path_without_extension_without_folders_and_by_stem() -> None:
    ids = ["one/a.jpg", "two/a.jpg", "b.png", "three/c.jpg", "four/d.jpeg"]
    found, others = match(named("one/a.jpg", "two/a", "b", "c.jpg", "d", "nobody"), ids)
    assert found == {"one/a.jpg": "one/a.jpg", "two/a.jpg": "two/a", "b.png": "b", "three/c.jpg": "c.jpg"} | {
        "four/d.jpeg": "d"
    }
    assert others == 1


@pytest.mark.parametrize(("names", "ids"), [(["a"], ["one/a.jpg", "two/a.jpg"]), (["x/a.jpg", "y/a.jpg"], ["a.jpg"])])
def test_names_that_fit_several_images_are_refused(names: list[str], ids: list[str]) -> None:
    with pytest.raises(UsageError, match="can't be told apart"):
        match(named(*names), ids)


def test_a_file_about_other_images_is_refused() -> None:
    with pytest.raises(UsageError, match="names images such as 'x.jpg', DATA such as 'a.jpg'"):
        match(named("x.jpg"), ["a.jpg"])
