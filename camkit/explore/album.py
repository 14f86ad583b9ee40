"""The pictures that the page can show: of a folder, single files, a run's rows, and what was dropped on the page."""

from __future__ import annotations

import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

from camkit.errors import CamkitError, UsageError, printable
from camkit.explore.lru import Lately
from camkit.explore.pictures import PictureError, check_pixels, find_format, is_inside, shrink, walk

MOST_UPLOADS = 32
"""The first ones go where there are more."""
MOST_UPLOADED = 256 << 20
"""Bytes of all of them."""
MOST_SMALL = 16 << 20
"""Bytes of small copies that are kept."""
LONGEST_NAME = 120


class UnknownError(CamkitError):
    """A picture that isn't there."""


@dataclass(frozen=True)
class Entry:
    """A picture in the page's list.

    Attributes:
        id: What the page calls it.
        name: What people call it.
        note: A line about it; empty for none.
    """

    id: str
    name: str
    note: str = ""


@dataclass(frozen=True)
class Chosen:
    """Some of a list's entries.

    Attributes:
        entries: Those on this page of the list.
        total: How many there are in all.
    """

    entries: list[Entry]
    total: int


@dataclass(frozen=True)
class Choice:
    """Which pictures are listed.

    Attributes:
        offset: How many are passed over.
        limit: How many are told at most.
        where: A condition on rows, see ``camkit draw --where``.
        sort: A column that they are sorted by.
        descending: The highest first.
    """

    offset: int = 0
    limit: int = 60
    where: str = ""
    sort: str = ""
    descending: bool = False


class Shelf(Protocol):
    """Where pictures come from."""

    def list(self, choice: Choice) -> Chosen:
        """Some of its pictures.

        Raises:
            UsageError: A condition or an order that this doesn't have.
        """

    def path(self, name: str) -> Path:
        """The file of a picture.

        Raises:
            UnknownError: There is no such picture.
            CamkitError: Its file is gone.
        """


class Folder:
    """The pictures below a folder, as it is now. No other file is ever served.

    Args:
        root: The folder.

    Raises:
        UsageError: There is none, or no picture in it.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise UsageError(f"--images {root} is no folder: give one that holds pictures")
        self.root = root.resolve()
        self._files = dict(walk(self.root))
        if not self._files:
            raise UsageError(f"no pictures in {root}")

    def list(self, choice: Choice) -> Chosen:
        """See :class:`Shelf`."""
        return _plain(self._files, choice)

    def path(self, name: str) -> Path:
        """See :class:`Shelf`. Looked up, never put together: no name leads elsewhere."""
        if name not in self._files:
            raise UnknownError("there is no such picture")
        path = self._files[name]
        if not is_inside(path, self.root):  # it may have become a link since
            raise PictureError(f"{printable(name)} isn't there any more", 404)
        return path


class Files:
    """Single files, by name.

    Args:
        files: Name to file.
    """

    def __init__(self, files: dict[str, Path]) -> None:
        self._files = files

    def list(self, choice: Choice) -> Chosen:
        """See :class:`Shelf`."""
        return _plain(self._files, choice)

    def path(self, name: str) -> Path:
        """See :class:`Shelf`."""
        if name not in self._files:
            raise UnknownError("there is no such picture")
        return self._files[name]


class Uploads:
    """What was dropped on the page: the last files, in a folder that goes when the explorer ends."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="camkit-explore-"))
        self._files: OrderedDict[str, tuple[str, Path, int]] = OrderedDict()
        self._count = 0
        self._lock = Lock()

    def add(self, file: Path, name: str) -> Entry:
        """Take a file that was uploaded, or delete it.

        Args:
            file: In :attr:`folder`.
            name: What its owner calls it.

        Raises:
            PictureError: It isn't shown; the message says why.
        """
        told = told_name(name)
        try:
            suffix = find_format(file, told)
        except BaseException:
            file.unlink(missing_ok=True)
            raise
        with self._lock:
            self._count += 1
            key = f"{self._count}"
            # The suffix is that of the content, whatever its owner calls it: some readers go by the name.
            path = file.rename(self.folder / f"{key}{suffix}")
            self._files[key] = told, path, path.stat().st_size
            while len(self._files) > MOST_UPLOADS or sum(size for _, _, size in self._files.values()) > MOST_UPLOADED:
                _, (_, gone, _) = self._files.popitem(last=False)
                gone.unlink(missing_ok=True)
        return Entry(key, told)

    def name(self, key: str) -> str:
        """What its owner calls a file."""
        with self._lock:
            return self._files[key][0] if key in self._files else ""

    def list(self, choice: Choice) -> Chosen:
        """See :class:`Shelf`."""
        with self._lock:
            entries = [Entry(key, name) for key, (name, _, _) in self._files.items()][::-1]
        return Chosen(entries[choice.offset : choice.offset + choice.limit], len(entries))

    def path(self, name: str) -> Path:
        """See :class:`Shelf`."""
        with self._lock:
            if name not in self._files:
                raise UnknownError("this picture was dropped so long ago that it is gone: drop it again")
            return self._files[name][1]

    def close(self) -> None:
        """Delete everything."""
        shutil.rmtree(self.folder, ignore_errors=True)


UPLOADED = "upload"
GIVEN = "given"


class Album:
    """All pictures, each with an id that says which shelf it is from.

    Args:
        given: What the explorer was started with.
    """

    def __init__(self, given: Shelf) -> None:
        self.given = given
        self.uploads = Uploads()
        self._small: Lately[bytes] = Lately(MOST_SMALL)
        self._lock = Lock()

    def list(self, choice: Choice) -> dict[str, Any]:
        """Some pictures, as JSON holds them; those dropped on the page stand beside the list."""
        chosen = self.given.list(choice)
        dropped = self.uploads.list(Choice(limit=MOST_UPLOADS)).entries
        return {
            "total": chosen.total,
            "images": [_told(GIVEN, each) for each in chosen.entries],
            "dropped": [_told(UPLOADED, each) for each in dropped],
        }

    def add(self, file: Path, name: str) -> dict[str, str]:
        """See :meth:`Uploads.add`."""
        return _told(UPLOADED, self.uploads.add(file, name))

    def path(self, image: str) -> Path:
        """The file of a picture, which has no more pixels than may be decoded.

        Raises:
            UnknownError: There is no such picture.
            CamkitError: Its file is gone, or too large.
        """
        shelf, name = self._find(image)
        path = shelf.path(name)
        check_pixels(path)
        return path

    def row(self, image: str) -> str:
        """What the shelf that the explorer was started with calls a picture.

        Raises:
            UnknownError: It isn't from there.
        """
        shelf, name = self._find(image)
        if shelf is self.uploads:
            raise UnknownError("a picture that was dropped here is in no run")
        return name

    def typed(self, image: str) -> str:
        """How a picture is named on a command line: its file, or what its owner calls it."""
        shelf, name = self._find(image)
        text = self.uploads.name(name) if shelf is self.uploads else str(shelf.path(name))
        return f"./{text}" if text.startswith("-") else text

    def small(self, image: str) -> bytes:
        """A small copy, JPEG.

        Raises:
            CamkitError: See :meth:`path`.
        """
        with self._lock:
            found = self._small.find(image)
        if found is None:
            shelf, name = self._find(image)
            found = shrink(shelf.path(name))
            with self._lock:
                self._small.keep(image, found, len(found))
        return found

    def close(self) -> None:
        """Delete what was dropped."""
        self.uploads.close()

    def _find(self, image: str) -> tuple[Shelf, str]:
        kind, _, name = image.partition(":")
        if kind not in (UPLOADED, GIVEN):
            raise UnknownError("there is no such picture")
        return (self.uploads if kind == UPLOADED else self.given), name


def told_name(name: str) -> str:
    """The last part of a file's name, in one line of a length that fits."""
    plain = printable(name.replace("\\", "/").rpartition("/")[2]).strip()
    return plain[-LONGEST_NAME:] or "picture"


def _plain(names: Iterable[str], choice: Choice) -> Chosen:
    """Entries of files, whose order is that of their names."""
    if choice.where or choice.sort:
        raise UsageError("conditions and orders are for a run's images: start with --run")
    found = list(names)
    part = found[choice.offset : choice.offset + choice.limit]
    return Chosen([Entry(name, printable(name)) for name in part], len(found))


def _told(shelf: str, entry: Entry) -> dict[str, str]:
    return {"id": f"{shelf}:{entry.id}", "name": entry.name, "note": entry.note}
