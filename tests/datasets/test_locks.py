"""Locks: one run at a time in a folder and at an address, and what a dead one leaves."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from camkit.datasets import load, run
from camkit.datasets.locks import FolderLock, StorageLock
from camkit.datasets.places import Storage, filesystem
from camkit.errors import CamkitError
from tests.datasets.killing import started, wait_for_rows
from tests.datasets.pictures import IMAGES, classifier

pytest.importorskip("fsspec")
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX systems")


@pytest.fixture
def address() -> Iterator[str]:
    """Storage in memory."""
    place = f"memory://camkit-locks-{os.getpid()}"
    yield f"{place}/run"
    system, path = filesystem(place)
    if system.exists(path):
        system.rm(path, recursive=True)


def lock_of(address: str) -> StorageLock:
    system, path = filesystem(address)
    return StorageLock(system, path, address)


def content(address: str) -> dict[str, Any]:
    system, path = filesystem(f"{address}/lock")
    found: dict[str, Any] = json.loads(system.cat_file(path))
    return found


def write(address: str, **changed: Any) -> None:
    """Another owner's lock."""
    owner = {"host": "elsewhere", "process": 7, "heard": time.time(), "mark": "theirs"} | changed
    system, path = filesystem(f"{address}/lock")
    system.pipe_file(path, json.dumps(owner).encode())


def test_a_second_one_is_refused_until_the_first_is_through(address: str) -> None:
    first, second = lock_of(address), lock_of(address)
    assert first.take() == ""
    with pytest.raises(CamkitError, match="this process writes to memory://.* already"):
        second.take()
    second.release()
    first.check()
    first.release()
    assert not filesystem(address)[0].exists(filesystem(address)[1]), "nothing is left where nothing was"
    second.take()
    second.release()


@pytest.mark.parametrize(("seconds", "said"), [(5, "5 s"), (1200, "20 min"), (7200, "2 h")])
def test_one_of_another_machine_is_named_with_what_to_type(address: str, seconds: float, said: str) -> None:
    write(address, heard=time.time() - seconds)
    with pytest.raises(CamkitError) as refused:
        lock_of(address).take()
    line = str(refused.value)
    assert "\n" not in line
    assert line.startswith(f"process 7 of elsewhere, last heard of {said} ago, writes to {address}: wait for its end")
    code = line.rpartition("python -c ")[2].strip('"')
    exec(code)
    lock_of(address).take()


@posix
def test_one_whose_process_is_dead_is_taken_over(address: str) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    for owner in ({"process": process.pid}, {"process": os.getpid()}):
        write(address, host=socket.gethostname(), **owner)
        lock = lock_of(address)
        assert lock.take() == ""
        assert content(address)["process"] == os.getpid()
        lock.release()
    write(address, host=socket.gethostname(), process=os.getppid())
    with pytest.raises(CamkitError, match="last heard of 0 s ago"):
        lock_of(address).take()


@pytest.mark.parametrize("garbage", [b"", b"[1]", b"process 7", b"{}", b'{"host": 3, "process": "x"}'])
def test_a_lock_that_says_nothing_is_somebody_s(address: str, garbage: bytes) -> None:
    system, path = filesystem(f"{address}/lock")
    system.pipe_file(path, garbage)
    with pytest.raises(CamkitError, match="another process writes to .* remove its lock: python -c"):
        lock_of(address).take()


@pytest.mark.parametrize("taken", [True, False])
def test_a_run_whose_lock_was_taken_away_writes_no_more(address: str, taken: bool) -> None:
    place = Storage(address)
    place.lock()
    before = content(address)["heard"]
    place.write("shards/a", b"1")
    assert content(address)["heard"] >= before, "each file says that the process lives"
    if taken:
        write(address)
    else:
        place.remove("lock")
    with pytest.raises(CamkitError, match=r"(process 7 of elsewhere.*|another process) took the lock of .*: this run"):
        place.write("shards/b", b"2")
    place.unlock()
    assert place.names("shards") == ["a"]
    assert (place.read("lock") is not None) == taken, "somebody else's stays"


def test_storage_that_can_t_create_exclusively_is_said(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    plain = MemoryFileSystem.open

    def without(self: Any, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        if "x" in mode:
            raise ValueError("unknown mode xb")
        return plain(self, path, mode, **kwargs)

    monkeypatch.setattr(MemoryFileSystem, "open", without)
    lock = lock_of(address)
    assert lock.take() == f"{address} can't tell two runs apart that start at once: start just one"
    with pytest.raises(CamkitError, match="already"):
        lock_of(address).take()
    lock.release()


@posix
def test_two_processes_at_an_address(data: Path, tmp_path: Path) -> None:
    """``local://`` goes the way of ``s3://``."""
    out = f"local://{tmp_path}/run"
    with started(data, out, "--wait", "30") as process:
        wait_for_rows(process, 4)
        with pytest.raises(CamkitError, match=rf"process {process.pid} of .* writes to local://"):
            run(data, classifier(), out, batch_size=4, workers=0)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (tmp_path / "run" / "lock").exists()
    assert run(data, classifier(), out, batch_size=4, workers=0).done == IMAGES
    assert not (tmp_path / "run" / "lock").exists()
    assert len(load(out)) == IMAGES


@posix
def test_a_lock_file_that_its_owner_removed_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused run takes its file away; who waited with the file open mustn't take that for the lock."""
    lock = FolderLock(tmp_path / "run")
    opened = FolderLock._open
    times: list[int] = []

    def removed(self: FolderLock) -> Any:
        file = opened(self)
        if not times:
            self._path.unlink()
        times.append(1)
        return file

    monkeypatch.setattr(FolderLock, "_open", removed)
    lock.take()
    assert len(times) == 2
    assert (tmp_path / "run" / "lock").read_text() == f"process {os.getpid()}"
    lock.release()
    assert not (tmp_path / "run").exists()
