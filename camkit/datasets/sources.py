"""DATA: a folder, a folder of class folders, a list, or the config's test data set; its images and their order."""

from __future__ import annotations

import os
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from camkit.datasets.lists import SUFFIXES as LIST_SUFFIXES
from camkit.datasets.lists import read_list
from camkit.datasets.places import filesystem, is_address
from camkit.errors import CamkitError, UsageError, closest, printable

if TYPE_CHECKING:
    from camkit.models.classifier import Classifier

_JOINED = ".jpg .jpeg .jpe .jfif .png .bmp .dib .gif .tif .tiff .webp .ppm .pgm .pbm .pnm .jp2 .avif .heic .heif"
IMAGE_SUFFIXES = frozenset(_JOINED.split(" "))
CONFIG = "config:"
_WRITTEN = re.compile(r"\\(x[0-9a-f]{2})")
NAMED = 3
"""How many of several faults a message names."""


class Item(NamedTuple):
    """An image of a data set.

    Attributes:
        id: Unique in the data set, as text: the path below DATA, or what a list says.
        path: Of the file, or its address.
        label: Index or name of its class, None where unknown.
        problem: Why it can't be read, where that is known already.
    """

    id: str
    path: str
    label: int | str | None = None
    problem: str = ""


@dataclass(frozen=True)
class Source:
    """A data set.

    Attributes:
        name: DATA, absolute.
        ids: One per image, unique.
        paths: One per image, as :func:`as_text` writes them.
        labels: Indices of classes, null where unknown; as names in class folders and lists until they are looked up by
            :func:`camkit.datasets.labels.labelled`.
        problems: Position to the reason why an image can't be read.
        skipped: How many files aren't taken for images, and examples.
        folders: Whether labels are names of folders.
    """

    name: str
    ids: pa.Array
    paths: pa.Array
    labels: list[int | str | None] = field(repr=False)
    problems: dict[int, str] = field(default_factory=dict, repr=False)
    skipped: tuple[int, tuple[str, ...]] = (0, ())
    folders: bool = False

    def __len__(self) -> int:
        return len(self.ids)

    def order(self, shuffle: int | None = None, limit: int | None = None) -> list[int]:
        """The positions to go through."""
        positions = list(range(len(self)))
        if shuffle is not None:
            random.Random(shuffle).shuffle(positions)
        return positions[:limit]

    def path(self, position: int) -> str:
        """The path of an image's file, or its address."""
        return from_text(self.paths[position].as_py())


def find_source(data: str | Path, classifier: Classifier, *, one_image: bool = False) -> Source:
    """Read what DATA holds.

    Args:
        data: See :func:`forms`.
        classifier: Whose config is meant by ``config:``.
        one_image: Take a single image file, too.

    Raises:
        UsageError: There is no such thing, no image in it, or a list that can't be read.
    """
    text = os.fspath(data)
    if text == CONFIG:
        return _of_config(classifier)
    if text.startswith(CONFIG):
        raise UsageError(f"{CONFIG} stands alone: it means the test data set of CONFIG; got {text}")
    if is_address(text):
        return _of_address(text)
    path = Path(text.removeprefix("file://")).expanduser()
    if path.is_dir():
        return _of_folder(path.resolve())
    if not path.exists():
        near = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UsageError(f"no folder or list {text}{closest(path.name, near)}; DATA is {forms()}")
    if path.suffix.lower() in LIST_SUFFIXES:
        return _of_list(path.resolve())
    if path.suffix.lower() in IMAGE_SUFFIXES:
        if one_image:
            return _source(str(path.resolve()), [Item(path.name, str(path.resolve()))])
        raise UsageError(f"{text} is one image, which camkit vis-cam explains; DATA is {forms()}")
    raise UsageError(f"{text} is neither a folder nor a list; DATA is {forms()}")


def forms() -> str:
    """What DATA may be, for messages and help."""
    return f"a folder, a folder of class folders, a list ({', '.join(LIST_SUFFIXES)}) or config:"


def some(names: Iterable[str]) -> str:
    """The first names, for a message of one line: ``a, b, c and 5 more``."""
    found = list(names)
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return ", ".join(map(printable, found[:NAMED])) + more


def as_text(path: str) -> str:
    r"""A path as UTF-8 can hold it: bytes that are no UTF-8 are written as ``\xff``.

    The backslash of a name that really holds such four characters is written as ``\x5c``, so that no two paths have
    the same text.
    """
    plain = _WRITTEN.sub(r"\\x5c\1", path)
    try:
        plain.encode()
    except UnicodeEncodeError:
        return os.fsencode(plain).decode("utf-8", "backslashreplace")
    return plain


def from_text(text: str) -> str:
    """The path that :func:`as_text` wrote."""
    if _WRITTEN.search(text) is None:
        return text
    pieces = _WRITTEN.split(text)
    raw = b"".join(bytes.fromhex(piece[1:]) if at % 2 else os.fsencode(piece) for at, piece in enumerate(pieces))
    return os.fsdecode(raw)


def _source(name: str, items: Sequence[Item], *, skipped: Sequence[str] = (), folders: bool = False) -> Source:
    """Pack items; an id that occurs again gets a number."""
    seen: Counter[str] = Counter()
    taken = {as_text(item.id) for item in items}
    ids = []
    for item in items:
        own = as_text(item.id)
        seen[own] += 1
        text = own
        while seen[own] > 1:
            text = f"{own}#{seen[own]}"
            if text not in taken:
                taken.add(text)
                break
            seen[own] += 1
        ids.append(text)
    return Source(
        name=name,
        ids=pa.array(ids, pa.string()),
        paths=pa.array([as_text(item.path) for item in items], pa.string()),
        labels=[item.label for item in items],
        problems={position: item.problem for position, item in enumerate(items) if item.problem},
        skipped=(len(skipped), tuple(skipped[:NAMED])),
        folders=folders,
    )


def _of_folder(root: Path) -> Source:
    """Every image below a folder, in the order of the paths; class folders give labels."""
    skipped: list[str] = []
    items = sorted(_walk(root, skipped), key=lambda item: os.fsencode(item.id))
    return _of_tree(str(root), items, skipped)


def _of_tree(name: str, items: Sequence[Item], skipped: Sequence[str]) -> Source:
    if not items:
        other = f" ({len(skipped)} other files: {some(skipped)})" if skipped else ""
        raise UsageError(f"no images in {name}{other}; images end in {' '.join(sorted(IMAGE_SUFFIXES))}")
    tops = [_class_folder(item) for item in items]
    items = [item._replace(label=sys.intern(as_text(top)) or None) for item, top in zip(items, tops, strict=True)]
    return _source(name, items, skipped=skipped, folders=any(tops))


def _class_folder(item: Item) -> str:
    """The folder at the top in which an item is, or which it is where that can't be read; empty for other items."""
    top, slash, _ = item.id.partition("/")
    return top if slash or (item.problem and not _is_image(top)) else ""


def _walk(root: Path, skipped: list[str]) -> Iterator[Item]:
    """The images below a folder. Links to folders are followed, but for those to a folder that they are in."""
    left: list[tuple[str, str, frozenset[tuple[int, int]]]] = [(str(root), "", frozenset())]
    while left:
        folder, start, above = left.pop()
        try:
            about = os.stat(folder)  # noqa: PTH116 (bytes that are no UTF-8, here and below)
            if (about.st_dev, about.st_ino) in above:
                continue
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            problem = f"can't read the folder {as_text(folder)}: {error.strerror}"
            yield Item(start.rstrip("/") or ".", folder, problem=problem)
            continue
        for entry in entries:
            name = start + entry.name
            is_folder = _is_folder(entry)
            if is_folder and not entry.name.startswith("."):
                left.append((entry.path, f"{name}/", above | {(about.st_dev, about.st_ino)}))
                if _is_image(entry.name):  # it is walked through, too
                    yield Item(name, entry.path, problem=f"{as_text(entry.path)} is a folder, not an image")
            elif not is_folder and not entry.name.startswith(".") and _is_image(entry.name):
                yield Item(name, entry.path)
            elif not is_folder:
                skipped.append(name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a circle of links
        return False


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 (as above)


def _of_list(path: Path) -> Source:
    """The images that a list names; paths are as seen from the list's folder."""
    items = [Item(*each) for each in read_list(path)]
    if not items:
        raise UsageError(f"the list {path} names no images")
    missing = [item.path for item in items if not is_address(item.path) and not os.path.lexists(item.path)]
    if missing:
        raise UsageError(f"{len(missing)} of the {len(items)} images of {path} don't exist: {some(missing)}")
    return _source(str(path), items)


def _of_config(classifier: Classifier) -> Source:
    """The test data set of an MMPretrain config."""
    read: Callable[[], list[tuple[str, Any]]] | None = getattr(classifier._prepare, "items", None)
    if read is None:
        raise UsageError(f"{CONFIG} is the test data set of an MMPretrain config, and {classifier.source} is none")
    found = read()
    if not found:
        raise UsageError(f"the test data set of {classifier.source} is empty")
    missing = [path for path, _ in found if "://" not in path and not os.path.lexists(path)]
    if missing:
        raise UsageError(f"{len(missing)} of the {len(found)} images of {CONFIG} don't exist: {some(missing)}")
    start = os.path.commonpath([os.path.dirname(path) for path, _ in found])  # noqa: PTH120
    items = []
    for path, label in found:
        index = int(label) if label is not None and getattr(label, "size", 1) == 1 else None
        name = path.removeprefix(start).lstrip("/\\") if start else path
        items.append(Item(name.replace(os.sep, "/"), path, index))
    return _source(f"{CONFIG}{classifier.source}", items)


def _of_address(address: str) -> Source:
    """The images below an address, or of a list there."""
    system, path = filesystem(address)
    start = address[: len(address) - len(path)] if address.endswith(path) else f"{address.partition('://')[0]}://"
    suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122
    try:
        if suffix in LIST_SUFFIXES and system.isfile(path):
            content = system.cat_file(path)
            return _source(address, [Item(*item) for item in read_list(address, content)])
        found = sorted(system.find(path))
    except CamkitError:
        raise
    except Exception as error:
        raise UsageError(f"can't read {address}: {error}") from error
    root = path.rstrip("/") + "/"
    names = [str(each).removeprefix(root) for each in found]
    images = [name for name in names if _is_image(name)]
    items = [Item(name, f"{start}{root}{name}") for name in images]
    return _of_tree(address, items, [name for name in names if not _is_image(name)])
