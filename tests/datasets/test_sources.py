"""DATA: folders, class folders, lists and config:; which images, under which ids, with which labels."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from camkit.datasets.labels import labelled
from camkit.datasets.sources import Source, as_text, find_source, from_text
from camkit.errors import UsageError
from tests.datasets.pictures import classifier, write_classes, write_pictures

NET = classifier()


def ids(source: Source) -> list[str]:
    return source.ids.to_pylist()


def test_a_folder_is_walked_in_the_order_of_paths(tmp_path: Path) -> None:
    write_pictures(tmp_path / "b", 2)
    write_pictures(tmp_path, 1, suffix=".JPG")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / ".hidden.png").write_text("")
    source = find_source(tmp_path, NET)
    assert ids(source) == ["000.JPG", "b/000.png", "b/001.png"]
    assert source.path(1) == str(tmp_path / "b" / "000.png")
    assert labelled(source, NET, 5)[0] == [None] * 3
    assert source.skipped == (2, ("notes.txt", ".hidden.png")) or source.skipped[0] == 2
    assert source.order(shuffle=3) == source.order(shuffle=3) != source.order()
    assert sorted(source.order(shuffle=3)) == source.order() == [0, 1, 2]
    assert source.order(limit=2) == [0, 1]


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_are_followed_once(tmp_path: Path) -> None:
    write_pictures(tmp_path / "elsewhere", 2)
    data = write_pictures(tmp_path / "data", 1)
    (data / "link").symlink_to(tmp_path / "elsewhere")
    (data / "link" / "circle").symlink_to(data)
    (data / "dangling.png").symlink_to(tmp_path / "nothing.png")
    assert ids(find_source(data, NET)) == ["000.png", "dangling.png", "link/000.png", "link/001.png"]


def test_class_folders_by_name_index_or_order(tmp_path: Path) -> None:
    source = find_source(write_classes(tmp_path / "names", 1), NET)
    assert labelled(source, NET, 5) == ([2, 0, 0], "")
    for name in ("4", "0"):
        write_pictures(tmp_path / "indices" / name, 1)
    assert labelled(find_source(tmp_path / "indices", NET), NET, 5)[0] == [0, 4]
    for name in "abcde":
        write_pictures(tmp_path / "letters" / name / "deep", 1)
    nameless = SimpleNamespace(**{**NET.__dict__, "classes": None, "named": str, "find_category": int})
    with pytest.raises(ValueError, match="invalid literal"):
        nameless.find_category("a")
    nameless.find_category = classifier_without_names().find_category
    labels, line = labelled(find_source(tmp_path / "letters", NET), nameless, 5)  # type: ignore[arg-type]
    assert labels == [0, 1, 2, 3, 4]
    assert "alphabetical order" in line
    # With names known, folders of other names aren't guessed to be classes.
    labels, line = labelled(find_source(tmp_path / "letters", NET), NET, 5)
    assert labels == [None] * 5
    assert "no labels: the 5 folders (a, b, c and 2 more)" in line


def test_what_stands_beside_class_folders_leaves_their_labels(tmp_path: Path) -> None:
    data = write_classes(tmp_path / "data", 1)
    (data / "empty.jpg").mkdir()
    source = find_source(data, NET)
    assert ids(source) == ["empty.jpg", "espresso/000.png", "tabby cat/000.png", "tabby cat/001.png"]
    assert labelled(source, NET, 5) == ([None, 2, 0, 0], "")
    write_pictures(data, 1)
    labels, line = labelled(find_source(data, NET), NET, 5)
    assert labels == [None, None, 2, 0, 0]
    assert line == "no labels for 1 images beside the class folders: 000.png"
    write_pictures(data / "misc", 1)
    labels, line = labelled(find_source(data, NET), NET, 5)
    assert labels == [None] * 6
    assert line == "no labels: 1 of the 3 folders (misc) are no classes of cnn, which has 5"


def test_class_names_that_are_numbers(tmp_path: Path) -> None:
    def with_names(*names: str) -> Any:
        return replace(NET, classes=names)

    for name in "12345":
        write_pictures(tmp_path / "five" / name, 1)
    five = find_source(tmp_path / "five", NET)
    assert labelled(five, with_names("1", "2", "3", "4", "5"), 5)[0] == [0, 1, 2, 3, 4]
    write_pictures(tmp_path / "two" / "0", 1)
    write_pictures(tmp_path / "two" / "1", 1)
    two = find_source(tmp_path / "two", NET)
    assert labelled(two, with_names("0", "1", "4", "3", "2"), 5)[0] == [0, 1]
    assert labelled(two, with_names("a", "b", "c", "d", "e"), 5)[0] == [0, 1]
    with pytest.raises(UsageError, match="labels such as '[01]', which is class [01] by name and class [01] by index"):
        labelled(two, with_names("1", "0", "2", "3", "4"), 5)
    (tmp_path / "two" / "list.jsonl").write_text('{"path": "0/000.png", "label": 1}\n')
    assert labelled(find_source(tmp_path / "two" / "list.jsonl", NET), with_names("1", "0", "2"), 3)[0] == [1]


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_two_links_to_a_folder_are_two_folders(tmp_path: Path) -> None:
    write_pictures(tmp_path / "elsewhere", 1)
    for name in "ba":
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "link").symlink_to(tmp_path / "elsewhere")
    assert ids(find_source(tmp_path / "data", NET)) == ["a/link/000.png", "b/link/000.png"]


def test_files_of_this_machine_in_lists(tmp_path: Path) -> None:
    write_pictures(tmp_path, 1)
    (tmp_path / "list.txt").write_text(f"file://{tmp_path}/000.png 3\n")
    source = find_source(tmp_path / "list.txt", NET)
    assert source.path(0) == str(tmp_path / "000.png")
    assert source.labels == [3]


def classifier_without_names() -> Any:
    return replace(NET, classes=None)


def test_text_lists_with_and_without_labels(tmp_path: Path) -> None:
    write_pictures(tmp_path, 3)
    (tmp_path / "with space 7.png").write_bytes(b"")
    path = tmp_path / "list.txt"
    path.write_text("000.png 2\n001.png\t4\n\n" + str(tmp_path / "002.png") + "\nwith space 7.png\n")
    source = find_source(path, NET)
    assert ids(source) == ["000.png", "001.png", str(tmp_path / "002.png"), "with space 7.png"]
    assert labelled(source, NET, 5)[0] == [2, 4, None, None]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_tables(tmp_path: Path, suffix: str) -> None:
    write_pictures(tmp_path / "images", 3)
    rows = [
        {"path": "images/000.png", "label": "Tabby Cat", "id": "first"},
        {"path": "images/001.png", "label": "2", "id": "second"},
        {"path": "images/002.png", "label": "", "id": ""},
    ]
    path = tmp_path / f"list{suffix}"
    if suffix == ".csv":
        path.write_text("﻿Path,label,id\n" + "".join(",".join(row.values()) + "\n" for row in rows), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = find_source(path, NET)
    assert ids(source) == ["first", "second", "images/002.png"]
    assert source.path(0) == str(tmp_path / "images" / "000.png")
    assert labelled(source, NET, 5)[0] == [0, 2, None]


def test_paths_that_occur_twice_have_ids_of_their_own(tmp_path: Path) -> None:
    write_pictures(tmp_path, 1)
    (tmp_path / "list.txt").write_text("000.png\n000.png\n000.png\n")
    assert ids(find_source(tmp_path / "list.txt", NET)) == ["000.png", "000.png#2", "000.png#3"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "file,label\n000.png,1\n", "line 1 of .* has the columns 'file'.* it has path, label, id"),
        ("a.csv", "label\n1\n", "has no column 'path'"),
        ("a.csv", "path,label\n000.png,1,2\n", "more cells than the 2 headings"),
        ("a.csv", 'path\n"000.png\n', "no CSV|no path|don't exist"),
        ("a.csv", "", "has no column 'path'"),
        ("a.csv", "path,path\n000.png,000.png\n", "has the column 'path' twice"),
        ("a.csv", "path,id\n000.png,x\n000.png,x\n", "1 ids of .* occur more than once: x"),
        ("a.jsonl", '{"path": "000.png"}\nnonsense\n', "line 2 of .* is no JSON"),
        ("a.jsonl", "[" * 100000, "line 1 of .* is no JSON"),
        ("a.jsonl", "[1]\n", "is no object such as"),
        ("a.jsonl", '{"path": "000.png", "lable": 1}\n', "closest: label"),
        ("a.jsonl", '{"path": "000.png", "label": 1.5}\n', "neither an index nor a name: 1.5"),
        ("a.jsonl", '{"path": ""}\n', "line 1 of .* has no path"),
        ("a.txt", "\n \n", "names no images"),
        (
            "a.txt",
            "x.png\n000.png\ny.png\nz.png\nw.png\n",
            r"4 of the 5 images of .* don't exist: .*x.png, .*and 1 more",
        ),
        ("a.png", "", "is one image, which camkit vis-cam explains"),
        ("a.xlsx", "", "neither a folder nor a list"),
    ],
)
def test_lists_that_can_t_be_read_say_why(tmp_path: Path, name: str, content: str, said: str) -> None:
    write_pictures(tmp_path, 1)
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=said) as refused:
        find_source(tmp_path / name, NET)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("suffix", [".txt", ".csv", ".jsonl"])
def test_lists_in_the_encodings_of_editors(tmp_path: Path, encoding: str, suffix: str) -> None:
    """Those without a mark that says so are UTF-8."""
    write_pictures(tmp_path, 1)
    (tmp_path / "000.png").rename(tmp_path / "grün.png")
    lines = {
        ".txt": ["grün.png 2"],
        ".csv": ["path,label,id", "grün.png,2,größe"],
        ".jsonl": [json.dumps({"path": "grün.png", "label": 2, "id": "größe"}, ensure_ascii=False)],
    }
    mark = {"utf-16-le": "\ufeff", "utf-16-be": "\ufeff"}.get(encoding, "")
    path = tmp_path / f"list{suffix}"
    path.write_bytes((mark + "\r\n".join(lines[suffix]) + "\r\n").encode(encoding))
    source = find_source(path, NET)
    assert ids(source) == ["grün.png" if suffix == ".txt" else "größe"]
    assert source.path(0) == str(tmp_path / "grün.png")
    assert labelled(source, NET, 5)[0] == [2]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", "ok.png\ngrün.png\n".encode("latin-1"), r"line 2 of .* isn't UTF-8 \(gr.udcfcn.png\): save the list"),
        (
            "a.csv",
            "path,label\nok.png,größe\n".encode("latin-1"),
            "line 2 of .* isn't UTF-8 .*: save the list as UTF-8",
        ),
        ("a.csv", "path,id\nok.png,größe\n".encode("latin-1"), "line 2 of .* isn't UTF-8"),
        ("a.csv", "path,größe\nok.png,1\n".encode("latin-1"), "line 1 of .* has the columns 'gr.*'"),
        ("a.jsonl", b'{"path": "ok.png", "label": "gr\xf6\xdfe"}\n', "line 1 of .* isn't UTF-8"),
        ("a.jsonl", b'{"path": "ok.png", "id": "\\ud800"}\n', "line 1 of .* isn't UTF-8"),
        ("a.jsonl", b'{"path": "\\ud800.png"}\n', "line 1 of .* isn't UTF-8"),
        (
            "a.csv",
            "path\nok.png\n".encode("utf-16-le"),
            "is no text, or UTF-16 without its mark: save the list",
        ),
        ("a.txt", b"\xff\xfeo\0k\0.", "begins as UTF-16 and isn't: save the list as UTF-8"),
        ("a.txt", b"no\x1b[31m.png\n", r"1 of the 1 images of .* don't exist: .*/no\\x1b\[31m.png"),
    ],
)
def test_lists_in_other_encodings_say_so(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    write_pictures(tmp_path, 1)
    (tmp_path / "000.png").rename(tmp_path / "ok.png")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=said) as refused:
        find_source(tmp_path / name, NET)
    assert str(refused.value).isprintable()


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
def test_a_list_may_name_files_whose_names_are_no_utf_8(tmp_path: Path) -> None:
    picture = (write_pictures(tmp_path / "from", 1) / "000.png").read_bytes()
    with open(os.path.join(os.fsencode(tmp_path), b"gr\xfcn.png"), "wb") as file:  # noqa: PTH118, PTH123
        file.write(picture)
    (tmp_path / "list.txt").write_bytes(b"gr\xfcn.png\n")
    source = find_source(tmp_path / "list.txt", NET)
    assert ids(source) == [r"gr\xfcn.png"]
    assert Path(source.path(0)).read_bytes() == picture


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("5", r"1 labels outside the classes 0\.\.4 of cnn: 5"),
        ("-1", "outside"),
        ("--5", "1 labels that are no classes.*--5"),
        ("tabby", "1 labels that are no classes.*tabby"),
    ],
)
def test_labels_that_are_no_classes(tmp_path: Path, label: str, said: str) -> None:
    write_pictures(tmp_path, 1)
    (tmp_path / "a.csv").write_text(f"path,label\n000.png,{label}\n")
    with pytest.raises(UsageError, match=said):
        labelled(find_source(tmp_path / "a.csv", NET), NET, 5)


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
def test_names_of_any_bytes(tmp_path: Path) -> None:
    picture = (write_pictures(tmp_path / "from", 1) / "000.png").read_bytes()
    data = tmp_path / "data"
    data.mkdir()
    names = [
        b"caf\xe9.png",
        b"two\nlines.png",
        "grün.png".encode(),
        rb"back\xslash.png",
        rb"a\xe9.png",
        b"a\xe9.png",
        rb"a\x5cxe9.png",
    ]
    for name in names:
        with open(os.path.join(os.fsencode(data), name), "wb") as file:  # noqa: PTH118, PTH123
            file.write(picture)
    source = find_source(data, NET)
    assert {os.path.basename(os.fsencode(source.path(n))) for n in range(len(source))} == set(names)  # noqa: PTH119
    assert set(ids(source)) == {
        r"caf\xe9.png",
        "two\nlines.png",
        "grün.png",
        r"back\xslash.png",
        r"a\x5cxe9.png",
        r"a\xe9.png",
        r"a\x5cx5cxe9.png",
    }
    for n in range(len(source)):
        assert from_text(as_text(source.path(n))) == source.path(n)


@pytest.mark.skipif(sys.platform == "win32" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may")
def test_folders_that_may_not_be_read_are_rows(tmp_path: Path) -> None:
    write_pictures(tmp_path / "closed", 1)
    write_pictures(tmp_path, 1)
    (tmp_path / "closed").chmod(0)
    try:
        source = find_source(tmp_path, NET)
    finally:
        (tmp_path / "closed").chmod(0o755)
    assert "can't read the folder" in source.problems[ids(source).index("closed")]


def test_config_means_mmpretrain_s_own_data_set() -> None:
    with pytest.raises(UsageError, match="config: is the test data set of an MMPretrain config, and cnn is none"):
        find_source("config:", NET)
    with pytest.raises(UsageError, match="stands alone"):
        find_source("config:val", NET)


@pytest.mark.frameworks
def test_config_s_data_set(tmp_path: Path) -> None:
    from camkit.models.load import load

    for name in ("a", "b"):
        write_pictures(tmp_path / "root" / name, 2)
    config = tmp_path / "config.py"
    config.write_text(
        f"""
model = dict(type='ImageClassifier', backbone=dict(type='ResNet', depth=18),
             neck=dict(type='GlobalAveragePooling'), head=dict(type='LinearClsHead', num_classes=2, in_channels=512))
data_preprocessor = dict(num_classes=2, mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True)
test_dataloader = dict(dataset=dict(type='CustomDataset', data_root={str(tmp_path / "root")!r}, with_label=True,
    pipeline=[dict(type='LoadImageFromFile'), dict(type='Resize', scale=64), dict(type='PackInputs')]))
"""
    )
    source = find_source("config:", load(str(config), pretrained=False))
    assert ids(source) == ["a/000.png", "a/001.png", "b/000.png", "b/001.png"]
    assert source.labels == [0, 0, 1, 1]
