"""Runs that are killed, stopped, refused or out of space: nothing is lost, and the same command goes on."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from camkit.datasets import load, run
from camkit.errors import CamkitError
from tests.datasets.killing import PATIENCE, finish, killed_at, started, wait_for_rows
from tests.datasets.pictures import IMAGES, assert_same_rows, classifier, rows_of

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and limits of POSIX systems")


@pytest.mark.slow
def test_killed_again_and_again_every_image_has_one_row(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    """``python -m tests.datasets.killing`` does it at 25 moments of 2,000 images."""
    out = tmp_path / "run"
    kept = 0
    for rows, seconds in ((0, 0.0), (9, 0.002), (30, 0.01)):
        assert killed_at(data, out, rows, seconds, "--wait", "0.05") == -signal.SIGKILL
        found = len(load(out)) if (out / "manifest.json").exists() else 0
        assert found >= kept
        kept = found
    assert 0 < kept < IMAGES
    finish(data, out)
    assert_same_rows(out, undisturbed)
    assert not list(out.rglob(".*")), "what a killed process left half-written is gone"


def test_killed_between_the_written_file_and_its_name(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with started(data, out, "--die-at-shard", "2") as process:
        assert process.wait(timeout=PATIENCE) == -signal.SIGKILL
    assert [path.name for path in sorted((out / "shards").glob("*.parquet"))][-1] == "shard-000001.parquet"
    assert len(list((out / "shards").glob(".*"))) == 1
    finish(data, out)
    assert_same_rows(out, undisturbed)
    assert not list(out.rglob(".*"))


@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["the process", "the group"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_first_signal_ends_it_with_what_is_ready(
    data: Path, undisturbed: Path, tmp_path: Path, number: signal.Signals, send: Callable[[int, int], None]
) -> None:
    """A terminal sends Ctrl-C to worker processes, too."""
    with started(data, tmp_path / "run", "--wait", "0.1", "--shard-rows", "1000") as process:
        wait_for_rows(process, 8)
        send(process.pid, number)
        printed, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert printed.endswith("stopped\n")
    assert "once more stops at once" in errors
    assert 8 <= len(load(tmp_path / "run")) < IMAGES
    finish(data, tmp_path / "run")
    assert_same_rows(tmp_path / "run", undisturbed)


def test_a_second_signal_ends_it_at_once(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    with started(data, tmp_path / "run", "--wait", "30", "--shard-rows", "1000") as process:
        wait_for_rows(process, 4)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert "stopping" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        started_waiting = time.monotonic()
        assert process.wait(timeout=PATIENCE) == 130
        assert time.monotonic() - started_waiting < 25, "before the batch in hand was through"
    finish(data, tmp_path / "run")
    assert_same_rows(tmp_path / "run", undisturbed)


def test_a_second_process_is_refused_and_a_dead_one_isn_t_in_the_way(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with started(data, out, "--wait", "30") as process:
        wait_for_rows(process, 4)
        with pytest.raises(CamkitError, match=rf"another process \(process {process.pid}\) writes to "):
            run(data, classifier(), out, batch_size=4, workers=0)
        assert len(load(out)) == 0, "reading is allowed meanwhile"
        process.send_signal(signal.SIGKILL)
        process.wait()
    # At once, though worker processes of the dead run may still be there.
    assert run(data, classifier(), out, batch_size=4, workers=0).done == IMAGES


def test_a_second_run_in_the_same_process_is_refused(data: Path, tmp_path: Path) -> None:
    refusals: list[str] = []

    def again(_: Any) -> None:
        with pytest.raises(CamkitError, match="writes to") as refused:
            run(data, classifier(), tmp_path / "run", workers=0)
        refusals.append(str(refused.value))

    run(data, classifier(), tmp_path / "run", workers=0, limit=2, progress=again)
    assert refusals


class Deadly:
    """A loader whose process dies of one image."""

    def __init__(self, inner: Any, name: str) -> None:
        self.inner, self.name = inner, name

    def load(self, path: str) -> Any:
        if path.endswith(self.name):
            os.kill(os.getpid(), signal.SIGKILL)
        return self.inner.load(path)

    def inputs(self, pixels: Any) -> Any:
        return self.inner.inputs(pixels)

    def describe(self) -> str:
        return str(self.inner.describe())


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_an_image_that_kills_its_worker_is_a_failure_like_others(
    data: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """As the system's lack of memory does."""
    own = type(classifier()).loader
    monkeypatch.setattr("camkit.models.classifier.Classifier.loader", lambda net: Deadly(own(net), "017.png"))
    said: list[str] = []
    summary = run(data, classifier(), tmp_path / "run", batch_size=4, workers=workers, say=said.append)
    assert (summary.done, summary.failed) == (IMAGES, 1)
    assert "was killed (SIGKILL)" in rows_of(tmp_path / "run")["017.png"]["error"]
    assert any("was killed (SIGKILL)" in line for line in said)
    good = load(tmp_path / "run").filter(errors=False)
    wanted = load(undisturbed)
    assert_same_rows(good, wanted.take([n for n, name in enumerate(wanted.ids) if name != "017.png"]))


def test_a_full_disk_is_one_line_and_loses_nothing(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    """A limit on the size of files fails in the middle of one, as a disk does; then there is space again."""
    out = tmp_path / "run"
    run(data, classifier(), out, batch_size=4, workers=0, limit=8)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def fill(_: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))

    try:
        with pytest.raises(CamkitError, match=r"can't write .*shard-000001\.parquet: File too large") as refused:
            run(data, classifier(), out, batch_size=4, workers=0, progress=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert "\n" not in str(refused.value)
    assert len(load(out)) == 8
    assert not list(out.rglob(".*"))
    run(data, classifier(), out, batch_size=4, workers=0)
    assert_same_rows(out, undisturbed)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 200 KB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)]
    done = subprocess.run(command, capture_output=True) if os.geteuid() == 0 else None
    if done is None or done.returncode:
        pytest.skip("mounting isn't allowed here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_is_really_full(data: Path, undisturbed: Path, small_disk: Path) -> None:
    out = small_disk / "run"
    run(data, classifier(), out, batch_size=4, workers=0, limit=8)
    filler = small_disk / "filler"
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    filler.write_bytes(bytes(max(0, free - 8192)))
    with pytest.raises(CamkitError, match="No space left on device"):
        run(data, classifier(), out, batch_size=4, workers=0)
    assert len(load(out)) == 8
    filler.unlink()
    run(data, classifier(), out, batch_size=4, workers=0)
    assert_same_rows(out, undisturbed)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a folder that nobody can write to")
def test_a_folder_that_can_t_be_written(data: Path) -> None:
    with pytest.raises(CamkitError, match="can't write to /proc/camkit"):
        run(data, classifier(), "/proc/camkit", workers=0)


def test_two_rows_of_an_image_are_noticed(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(data, classifier(), out, workers=0, limit=3)
    shard = out / "shards" / "shard-000000.parquet"
    (out / "shards" / "shard-000001.parquet").write_bytes(shard.read_bytes())
    with pytest.raises(CamkitError, match="3 images have several rows"):
        run(data, classifier(), out, workers=0)


def test_a_damaged_shard_is_named(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(data, classifier(), out, batch_size=4, workers=0, shard_rows=10)
    shard = sorted((out / "shards").iterdir())[2]
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(CamkitError, match=f"can't read .*{shard.name}.*remove it"):
        run(data, classifier(), out, batch_size=4, workers=0)
    shard.unlink()
    run(data, classifier(), out, batch_size=4, workers=0)
    assert_same_rows(out, undisturbed)
