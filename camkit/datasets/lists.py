"""Lists of images: ``.txt`` with a path per line, ``.csv`` and ``.jsonl`` with path, label and id."""

from __future__ import annotations

import csv
import io
import json
import os
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from camkit.errors import UsageError, closest

SUFFIXES = (".txt", ".csv", ".jsonl")
COLUMNS = ("path", "label", "id")

Entry = tuple[str, str, int | str | None]
"""Id, path and label."""


def read_list(path: Path | str, content: bytes | None = None) -> list[Entry]:
    """Read a list.

    Args:
        path: Of the list, or its address.
        content: Of the list at an address.

    Returns:
        Id, path and label of each image. Paths are as seen from the list's folder; ids are the paths as written where
        the list has none.

    Raises:
        UsageError: A column that a list doesn't have, a line without a path, an id that occurs twice.
    """
    suffix = os.path.splitext(str(path))[1].lower()  # noqa: PTH122
    try:
        raw = Path(path).read_bytes() if content is None else content
    except OSError as error:
        raise UsageError(f"can't read the list {path}: {error.strerror}") from error
    # Names need not be UTF-8, and an editor may have put its mark in front.
    text = os.fsdecode(raw.removeprefix(b"\xef\xbb\xbf"))
    rows = {".txt": _lines, ".csv": _table, ".jsonl": _objects}[suffix](text, str(path))
    found: list[Entry] = []
    given: dict[str, int] = {}
    twice: list[str] = []
    for number, row in rows:
        name = row.get("path")
        if not isinstance(name, str) or not name:
            raise UsageError(f"line {number} of {path} has no path")
        own = row.get("id")
        if own not in (None, ""):
            own = str(own)
            if own in given:
                twice.append(own)
            given[own] = number
        found.append((own or name, _located(name, path), _label(row.get("label"), number, path)))
    if twice:
        raise UsageError(
            f"{len(twice)} ids of {path} occur more than once: {', '.join(twice[:3])}{', ...' * (len(twice) > 3)}"
        )
    return found


def _lines(text: str, path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """A path on each line, and the index of its class behind a blank or a tab as in ImageNet's lists."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        name, _, label = line.strip().rpartition("\t" if "\t" in line else " ")
        if os.path.splitext(name.strip())[1] and label.strip().isdecimal():  # noqa: PTH122
            yield number, {"path": name.strip(), "label": int(label)}
        else:
            yield number, {"path": line.strip()}


def _table(text: str, path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """A table with a line of headings."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        headings = [each.strip().lower() for each in reader.fieldnames or ()]
        _check_columns(headings, path)
        reader.fieldnames = headings
        for row in reader:
            if None in row:
                raise UsageError(f"line {reader.line_num} of {path} has more cells than the {len(headings)} headings")
            yield reader.line_num, {name: value.strip() if value else None for name, value in row.items()}
    except csv.Error as error:
        raise UsageError(f"line {reader.line_num} of {path} is no CSV: {error}") from error


def _objects(text: str, path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """A JSON object on each line."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"line {number} of {path} is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise UsageError(f'line {number} of {path} is no object such as {{"path": "a.jpg", "label": 3}}')
        _check_columns(list(row), path, number)
        yield number, row


def _check_columns(names: list[str], path: str, line: int = 1) -> None:
    unknown = [name for name in names if name not in COLUMNS]
    if unknown:
        near = closest(unknown[0], COLUMNS)
        raise UsageError(
            f"line {line} of {path} has the columns {', '.join(map(repr, unknown))}, which a list doesn't have{near}; "
            f"it has {', '.join(COLUMNS)}"
        )
    twice = [name for name in COLUMNS if names.count(name) > 1]
    if twice:
        raise UsageError(f"line {line} of {path} has the column {twice[0]!r} twice: leave one of them")
    if "path" not in names:
        raise UsageError(f"line {line} of {path} has no column 'path'; a list has {', '.join(COLUMNS)}")


def _label(label: Any, number: int, path: Path | str) -> int | str | None:
    if label is None or label == "":
        return None
    if isinstance(label, bool) or not isinstance(label, int | str):
        raise UsageError(f"the label on line {number} of {path} is neither an index nor a name: {label!r}")
    return label


def _located(name: str, path: Path | str) -> str:
    """A path in a list as seen from here."""
    name = name.removeprefix("file://")
    if "://" in name or os.path.isabs(name):  # noqa: PTH117
        return name
    if isinstance(path, str) and "://" in path:
        return posixpath.join(posixpath.dirname(path), name)
    return os.path.join(os.path.dirname(path), os.path.expanduser(name))  # noqa: PTH111, PTH118, PTH120
