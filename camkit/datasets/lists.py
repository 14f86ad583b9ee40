"""Lists of images: ``.txt`` with a path per line, ``.csv`` and ``.jsonl`` with path, label and id."""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from camkit.errors import UsageError, closest, printable

SUFFIXES = (".txt", ".csv", ".jsonl")
COLUMNS = ("path", "label", "id")

_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),  # begins as UTF-16's
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
"""What editors and spreadsheets put in front, and the encodings that it means."""

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
    text = _text(raw, str(path))
    rows = {".txt": _lines, ".csv": _table, ".jsonl": _objects}[suffix](text, str(path))
    found: list[Entry] = []
    given: dict[str, int] = {}
    twice: list[str] = []
    for number, row in rows:
        name = row.get("path")
        if not isinstance(name, str) or not name:
            raise UsageError(f"line {number} of {path} has no path")
        located = _located(name, path)
        own, label = row.get("id"), _label(row.get("label"), number, path)
        # Names of files need not be UTF-8; where there is no such file, the list was saved in another encoding.
        for each in ("" if _exists(located) else name, own, label):
            if isinstance(each, str) and not _is_text(each):
                raise UsageError(f"line {number} of {path} isn't UTF-8 ({printable(each)}): save the list as UTF-8")
        if own not in (None, ""):
            own = str(own)
            if own in given:
                twice.append(own)
            given[own] = number
        found.append((own or name, located, label))
    if twice:
        raise UsageError(
            f"{len(twice)} ids of {path} occur more than once: {', '.join(twice[:3])}{', ...' * (len(twice) > 3)}"
        )
    return found


def _text(raw: bytes, path: str) -> str:
    """A list's text: UTF-8 with or without its mark, or what another mark in front says."""
    for mark, encoding in _MARKS:
        if raw.startswith(mark):
            try:
                return raw.decode(encoding)
            except UnicodeDecodeError as error:
                raise UsageError(f"{path} begins as {encoding} and isn't: save the list as UTF-8") from error
    if b"\0" in raw:
        raise UsageError(f"{path} is no text, or UTF-16 without its mark: save the list as UTF-8")
    return os.fsdecode(raw.removeprefix(codecs.BOM_UTF8))


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _exists(path: str) -> bool:
    try:
        return os.path.lexists(path)
    except (OSError, ValueError):  # what no file can be called
        return False


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
