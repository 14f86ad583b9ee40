"""Where files are: folders of this machine, or storage that fsspec knows (``s3://bucket/run``)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from camkit.datasets.locks import FolderLock, Lock, StorageLock
from camkit.errors import CamkitError, UsageError, reason

_TEMPORARY = ".tmp-"


class Place(Protocol):
    """A folder of a run."""

    name: str

    def names(self, folder: str) -> list[str]:
        """The sorted names of the files in a folder; none where there is no such folder."""

    def read(self, name: str) -> bytes | None:
        """A file's content; None where there is no such file."""

    def size(self, name: str) -> int:
        """A file's bytes."""

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all.

        Raises:
            CamkitError: It can't be written.
        """

    def remove(self, name: str) -> None:
        """Remove a file."""

    def lock(self) -> str:
        """Keep other processes from writing here until :meth:`unlock`; a line worth saying, or nothing.

        Raises:
            CamkitError: Another process writes here, or the folder can't be written.
        """

    def unlock(self) -> None:
        """Undo :meth:`lock`; a place where nothing was written is left as it was."""


def find_place(path: str | Path) -> Place:
    """The place of a path or an address.

    Raises:
        UsageError: An address of a kind that fsspec doesn't know.
    """
    text = os.fspath(path)
    if is_address(text):
        return Storage(text)
    return Folder(Path(text.removeprefix("file://")).expanduser())


def is_address(path: str) -> bool:
    """Whether a path is an address such as ``s3://bucket/folder``, and no file of this machine."""
    return "://" in path and not path.startswith("file://")


def filesystem(address: str) -> tuple[Any, str]:
    """Fsspec's file system of an address, and the path there.

    Raises:
        UsageError: fsspec is missing or doesn't know the kind; the message says what to install.
    """
    try:
        from fsspec.core import url_to_fs

        found, path = url_to_fs(address)
    except Exception as error:
        raise UsageError(f"can't reach {address}: {reason(error)}") from error
    return found, str(path)


class Folder:
    """A folder of this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)
        self._lock: Lock = FolderLock(path)

    def names(self, folder: str) -> list[str]:
        """See :class:`Place`."""
        try:
            return sorted(each.name for each in (self.path / folder).iterdir() if not each.name.startswith("."))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise CamkitError(f"can't read {self.path / folder}: {error.strerror or error}") from error

    def read(self, name: str) -> bytes | None:
        """See :class:`Place`."""
        try:
            return (self.path / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise CamkitError(f"can't read {self.path / name}: {error.strerror or error}") from error

    def size(self, name: str) -> int:
        """See :class:`Place`."""
        return (self.path / name).stat().st_size

    def write(self, name: str, content: bytes) -> None:
        """See :class:`Place`. The content is on the disk before the file has its name."""
        target = self.path / name
        temporary = None
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(
                dir=target.parent, prefix=f".{target.name}{_TEMPORARY}", delete=False
            ) as file:
                temporary = Path(file.name)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)  # temporary files are private
            temporary.replace(target)
            _sync(target.parent)
        except BaseException as error:
            if temporary is not None:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise CamkitError(f"can't write {target}: {error.strerror or error}") from error
            raise

    def remove(self, name: str) -> None:
        """See :class:`Place`."""
        try:
            (self.path / name).unlink(missing_ok=True)
            _sync((self.path / name).parent)
        except OSError as error:
            raise CamkitError(f"can't remove {self.path / name}: {error.strerror or error}") from error

    def lock(self) -> str:
        """See :class:`Place`. What a process left that was killed while it wrote is removed."""
        said = self._lock.take()
        for left in self.path.rglob(f".*{_TEMPORARY}*"):
            with suppress(OSError):
                left.unlink()
        return said

    def unlock(self) -> None:
        """See :class:`Place`."""
        self._lock.release()


class Storage:
    """Storage that fsspec reaches."""

    def __init__(self, address: str) -> None:
        self.name = address.rstrip("/")
        self._system, self._path = filesystem(self.name)
        self._lock: Lock = StorageLock(self._system, self._path, self.name)

    def names(self, folder: str) -> list[str]:
        """See :class:`Place`."""
        try:
            self._system.invalidate_cache()
            found = self._system.ls(f"{self._path}/{folder}".rstrip("/"), detail=False)
        except FileNotFoundError:
            return []
        except Exception as error:
            raise CamkitError(f"can't read {self.name}: {reason(error)}") from error
        names = [str(each).rstrip("/").rpartition("/")[2] for each in found]
        return sorted(name for name in names if name and not name.startswith("."))

    def read(self, name: str) -> bytes | None:
        """See :class:`Place`."""
        try:
            content: bytes = self._system.cat_file(f"{self._path}/{name}")
        except FileNotFoundError:
            return None
        except Exception as error:
            raise CamkitError(f"can't read {self.name}/{name}: {reason(error)}") from error
        return content

    def size(self, name: str) -> int:
        """See :class:`Place`."""
        return int(self._system.size(f"{self._path}/{name}"))

    def write(self, name: str, content: bytes) -> None:
        """See :class:`Place`. Object stores show an object when it is whole."""
        path = f"{self._path}/{name}"
        try:
            self._lock.check()
            self._system.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._system.pipe_file(path, content)
        except CamkitError:
            raise
        except Exception as error:
            raise CamkitError(f"can't write {self.name}/{name}: {reason(error)}") from error

    def remove(self, name: str) -> None:
        """See :class:`Place`."""
        try:
            self._system.rm_file(f"{self._path}/{name}")
        except FileNotFoundError:
            pass
        except Exception as error:
            raise CamkitError(f"can't remove {self.name}/{name}: {reason(error)}") from error

    def lock(self) -> str:
        """See :class:`Place`."""
        return self._lock.take()

    def unlock(self) -> None:
        """See :class:`Place`."""
        self._lock.release()


@contextmanager
def as_file(path: str) -> Iterator[str]:
    """An image's path on this machine: its own, or a temporary copy of what is at an address.

    Raises:
        CamkitError: The address can't be read.
    """
    if not is_address(path):
        yield path
        return
    system, inner = filesystem(path)
    try:
        content = system.cat_file(inner)
    except FileNotFoundError as error:
        raise CamkitError(f"no image {path}") from error
    except Exception as error:
        raise CamkitError(f"can't read the image {path}: {reason(error)}") from error
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / (inner.rpartition("/")[2] or "image")
        copy.write_bytes(content)
        yield str(copy)


def _sync(folder: Path) -> None:
    """Make the names in a folder last, where the system can."""
    if os.name != "posix":
        return
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
