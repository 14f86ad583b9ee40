"""DATA: a folder, a folder of class folders, a list, or the config's test data set; its images and their order."""

from __future__ import annotations

import os
import random
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
from camkit.errors import CamkitError, UsageError, closest

if TYPE_CHECKING:
    from camkit.models.classifier import Classifier

_JOINED = ".jpg .jpeg .jpe .jfif .png .bmp .dib .gif .tif .tiff .webp .ppm .pgm .pbm .pnm .jp2 .avif .heic .heif"
IMAGE_SUFFIXES = frozenset(_JOINED.split(" "))
CONFIG = "config:"
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
        labels: Indices of classes, null where unknown; as names in class folders and lists until :meth:`labelled`.
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


def find_source(data: str | Path, classifier: Classifier) -> Source:
    """Read what DATA holds.

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
        raise UsageError(f"{text} is one image, which camkit vis-cam explains; DATA is {forms()}")
    raise UsageError(f"{text} is neither a folder nor a list; DATA is {forms()}")


def forms() -> str:
    """What DATA may be, for messages and help."""
    return f"a folder, a folder of class folders, a list ({', '.join(LIST_SUFFIXES)}) or config:"


def labelled(source: Source, classifier: Classifier, class_count: int) -> tuple[list[int | None], str]:
    """The class index of every image, and a line about how folders became classes.

    Names of folders are classes' names or indices; else, where there are as many folders as classes, their sorted
    names stand for them in order, as data sets in folders are usually read.

    Raises:
        UsageError: A list's labels that are no classes of the model.
    """
    names = sorted({label for label in source.labels if isinstance(label, str)})
    known: dict[str, int] = {}
    wrong: list[str] = []
    for name in names:
        try:
            known[name] = classifier.find_category(name)
        except UsageError:
            wrong.append(name)
    if source.folders:
        outside = [name for name in known if not 0 <= known[name] < class_count]
        if not wrong and not outside:
            return [known.get(str(label)) for label in source.labels], ""
        wordnet = all(len(name) == 9 and name[0] == "n" and name[1:].isdigit() for name in names)
        if len(names) == class_count and (classifier.classes is None or wordnet):
            order = {name: index for index, name in enumerate(names)}
            line = f"labels: the {class_count} folders in alphabetical order, {names[0]} is {classifier.named(0)}"
            return [order.get(str(label)) for label in source.labels], line
        line = (
            f"no labels: the {len(names)} folders ({some(names)}) are no classes of {classifier.source}, which has "
            f"{class_count}"
        )
        return [None] * len(source), line
    if wrong:
        near = closest(wrong[0], classifier.classes or ())
        raise UsageError(
            f"{source.name} has {len(wrong)} labels that are no classes of {classifier.source}: {some(wrong)}{near}"
        )
    labels = [known[each] if isinstance(each, str) else each for each in source.labels]
    outside_indices = sorted({each for each in labels if each is not None and not 0 <= each < class_count})
    if outside_indices:
        raise UsageError(
            f"{source.name} has {len(outside_indices)} labels outside the classes 0..{class_count - 1} of "
            f"{classifier.source}: {some(map(str, outside_indices))}"
        )
    return labels, ""


def some(names: Iterable[str]) -> str:
    """The first names, for a message of one line: ``a, b, c and 5 more``."""
    found = list(names)
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return ", ".join(" ".join(name.split()) if "\n" in name else name for name in found[:NAMED]) + more


def as_text(path: str) -> str:
    r"""A path as UTF-8 can hold it: bytes that are no UTF-8 are written as ``\xff``."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return os.fsencode(path).decode("utf-8", "backslashreplace")
    return path


def from_text(text: str) -> str:
    r"""The path that :func:`as_text` wrote; a file whose name really holds ``\xff`` goes before."""
    if r"\x" not in text or os.path.lexists(text):
        return text
    raw, rest = b"", text.encode()
    while (at := rest.find(rb"\x")) >= 0:
        try:
            byte = bytes.fromhex(rest[at + 2 : at + 4].decode())
        except ValueError:
            byte = rest[at : at + 4]
        raw, rest = raw + rest[:at] + byte, rest[at + 4 :]
    path = os.fsdecode(raw + rest)
    return path if os.path.lexists(path) else text


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
    tops = [item.id.partition("/")[0] if "/" in item.id else "" for item in items]
    folders = all(tops)
    if folders:
        items = [item._replace(label=sys.intern(as_text(top))) for item, top in zip(items, tops, strict=True)]
    return _source(name, items, skipped=skipped, folders=folders)


def _walk(root: Path, skipped: list[str]) -> Iterator[Item]:
    """The images below a folder; links to folders are followed, once each."""
    visited: set[tuple[int, int]] = set()
    problems: list[OSError] = []
    for folder, inner, files in os.walk(root, followlinks=True, onerror=problems.append):
        about = Path(folder).stat()
        if (about.st_dev, about.st_ino) in visited:
            inner.clear()
            continue
        visited.add((about.st_dev, about.st_ino))
        inner[:] = [each for each in inner if not each.startswith(".")]
        below = os.path.relpath(folder, root).replace(os.sep, "/")
        start = "" if below == "." else f"{below}/"
        for name in files:
            if not name.startswith(".") and _is_image(name):
                yield Item(start + name, os.path.join(folder, name))  # noqa: PTH118 (bytes that are no UTF-8)
            else:
                skipped.append(start + name)
        for name in inner:
            if _is_image(name):  # it is walked through, too
                path = os.path.join(folder, name)  # noqa: PTH118
                yield Item(start + name, path, problem=f"{as_text(path)} is a folder, not an image")
    for error in problems:
        path = str(error.filename)
        below = os.path.relpath(path, root).replace(os.sep, "/")
        yield Item(below, path, problem=f"can't read the folder {as_text(path)}: {error.strerror}")


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
