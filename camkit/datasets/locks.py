"""One run at a time: the system's lock in a folder of this machine, an object with its owner's name in storage."""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Protocol

from camkit.errors import CamkitError, printable, reason

NAME = "lock"
_HELD: set[Any] = set()
"""What this process has locked: folders, and marks of its locks in storage."""
_TRIES = 5


class Lock(Protocol):
    """Keeps other processes from writing to a run."""

    def take(self) -> str:
        """Keep them off until :meth:`release`; a line worth saying, or nothing.

        Raises:
            CamkitError: Another process writes there, or nothing can be written.
        """

    def check(self) -> None:
        """Make sure that it is still ours.

        Raises:
            CamkitError: Somebody removed it, and another process writes there now.
        """

    def release(self) -> None:
        """Let others in; a place where nothing was written is left as it was."""


class FolderLock:
    """A lock on a file. The system gives it back when the process ends, also after kill -9.

    Args:
        folder: The run's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / NAME
        self._file: IO[bytes] | None = None
        self._is_new = False
        self._made: list[Path] = []

    def take(self) -> str:
        """See :class:`Lock`."""
        place = self._folder.resolve()
        if place in _HELD:  # the system's locks are the process'
            raise CamkitError(f"this process writes to {self._folder} already: wait for the end of that run")
        self._made = []
        file = self._open()
        for _ in range(_TRIES):
            if self._is_there(file):
                break
            file.close()  # whoever had it removed it, when nothing was written
            file = self._open()
        self._file = file
        _HELD.add(place)
        with suppress(OSError):  # a full disk: it is for people alone
            file.truncate(0)
            file.write(f"process {os.getpid()}".encode())
            file.flush()
        return ""

    def check(self) -> None:
        """See :class:`Lock`. The system sees to it."""

    def release(self) -> None:
        """See :class:`Lock`."""
        if self._file is None:
            return
        with suppress(OSError):
            alone = [each.name for each in self._folder.iterdir()] == [NAME]
            if alone and self._is_new and self._is_there(self._file):
                if os.name != "posix":  # where open files can't be removed
                    self._file.close()
                self._path.unlink()
        self._file.close()
        self._file = None
        _HELD.discard(self._folder.resolve())
        with suppress(OSError):  # those that aren't empty
            for folder in self._made:
                folder.rmdir()

    def _open(self) -> IO[bytes]:
        try:
            self._made += [each for each in (self._folder, *self._folder.parents) if not each.exists()]
            self._folder.mkdir(parents=True, exist_ok=True)
            self._is_new = not self._path.exists()
            file = self._path.open("a+b")
        except OSError as error:
            raise CamkitError(f"can't write to {self._folder}: {error.strerror or error}") from error
        try:
            _lock_file(file)
        except OSError:
            file.seek(0)
            owner = file.read(32).decode(errors="replace").strip()
            file.close()
            raise CamkitError(
                f"another process{f' ({owner})' if owner else ''} writes to {self._folder}: wait for its end, or take "
                "another --out"
            ) from None
        return file

    def _is_there(self, file: IO[bytes]) -> bool:
        """Whether the locked file is the one that others find."""
        try:
            return os.path.samestat(os.fstat(file.fileno()), self._path.stat())
        except OSError:
            return False


class StorageLock:
    """An object in storage that says who writes there and when it was last heard of.

    It is created exclusively where the storage can. One whose process ran on this machine and is dead is taken over; no
    other can be told from one that lives, so the message says what to type.

    Args:
        system: Fsspec's.
        path: Of the run there.
        name: The run's address.
    """

    def __init__(self, system: Any, path: str, name: str) -> None:
        self._system = system
        self._folder = path
        self._path = f"{path}/{NAME}"
        self._name = name
        self._mark = ""
        self._was_there = True

    def take(self) -> str:
        """See :class:`Lock`."""
        self._mark = secrets.token_hex(8)
        try:
            self._was_there = bool(self._system.exists(self._folder))
            self._system.makedirs(self._folder, exist_ok=True)
            is_exclusive = self._create()
            owner = self._read()
        except FileExistsError:
            self._mark = ""
            raise CamkitError(self._refusal(self._read() or {})) from None
        except Exception as error:
            raise CamkitError(f"can't write to {self._name}: {reason(error)}") from error
        if owner is None or owner.get("mark") != self._mark:
            self._mark = ""
            raise CamkitError(self._refusal(owner or {}))
        _HELD.add(self._mark)
        return "" if is_exclusive else f"{self._name} can't tell two runs apart that start at once: start just one"

    def check(self) -> None:
        """See :class:`Lock`. Where it is, it says that this process lives."""
        if not self._mark:
            return
        owner = self._read()
        if owner is None or owner.get("mark") != self._mark:
            _HELD.discard(self._mark)
            self._mark = ""
            who = _said(owner) if owner else "another process"
            raise CamkitError(f"{who} took the lock of {self._name}: this run ends; the same command goes on after it")
        self._system.pipe_file(self._path, self._content())

    def release(self) -> None:
        """See :class:`Lock`."""
        if not self._mark:
            return
        with suppress(Exception):
            owner = self._read()
            if owner is not None and owner.get("mark") == self._mark:
                self._system.rm_file(self._path)
                self._system.invalidate_cache()
                if not self._was_there and "/" in self._folder and not self._system.ls(self._folder, detail=False):
                    self._system.rmdir(self._folder)
        _HELD.discard(self._mark)
        self._mark = ""

    def _create(self) -> bool:
        """Create the lock; whether the storage made sure that it is ours alone.

        Raises:
            FileExistsError: Somebody else has it.
        """
        for _ in range(2):
            owner = self._read()
            if owner is not None and not _is_dead(owner):
                raise FileExistsError
            if owner is not None:
                self._system.rm_file(self._path)
            try:
                with self._system.open(self._path, "xb") as file:
                    file.write(self._content())
                return True
            except FileExistsError:  # just now, perhaps by one that is dead again
                continue
            except (ValueError, NotImplementedError):  # storage that knows no such mode
                self._system.pipe_file(self._path, self._content())
                return False
        raise FileExistsError

    def _read(self) -> dict[str, Any] | None:
        """Who has the lock; None where nobody has."""
        self._system.invalidate_cache()
        try:
            found = json.loads(self._system.cat_file(self._path))
        except FileNotFoundError:
            return None
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def _content(self) -> bytes:
        owner = {"host": socket.gethostname(), "process": os.getpid(), "heard": time.time(), "mark": self._mark}
        return json.dumps(owner).encode()

    def _refusal(self, owner: dict[str, Any]) -> str:
        if owner.get("mark") in _HELD:
            return f"this process writes to {self._name} already: wait for the end of that run"
        lock = f"{self._name}/{NAME}"
        return (
            f"{_said(owner)} writes to {self._name}: wait for its end, or take another --out; if it is dead, remove "
            f"its lock: python -c \"from fsspec.core import url_to_fs as at; fs, path = at('{lock}'); fs.rm(path)\""
        )


def _said(owner: dict[str, Any]) -> str:
    """The owner of a lock, for a message."""
    try:
        ago = max(0.0, time.time() - float(owner["heard"]))
        heard = f"{ago:.0f} s" if ago < 100 else f"{ago / 60:.0f} min" if ago < 6000 else f"{ago / 3600:.0f} h"
        return printable(f"process {owner['process']} of {owner['host']}, last heard of {heard} ago,")
    except (KeyError, TypeError, ValueError):
        return "another process"


def _is_dead(owner: dict[str, Any]) -> bool:
    """Whether a lock's process was one of this machine and is no more."""
    number = owner.get("process")
    if os.name != "posix" or owner.get("host") != socket.gethostname() or not isinstance(number, int) or number < 1:
        return False
    if number == os.getpid():  # in a container that was started again, numbers are the same
        return owner.get("mark") not in _HELD
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _lock_file(file: IO[bytes]) -> None:
    """Lock a file for this process alone: processes that it forks don't hold it when it is dead.

    Raises:
        OSError: Another process has it.
    """
    if os.name == "posix":
        import fcntl

        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    msvcrt: Any = import_module("msvcrt")

    file.seek(1 << 20)  # a byte behind the content, which others may read
    msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    file.seek(0)
