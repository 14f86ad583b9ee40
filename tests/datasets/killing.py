"""Kill runs at random moments, go on, and compare: ``python -m tests.datasets.killing --moments 25 --images 2000``."""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from camkit.datasets import load, run
from tests.datasets.pictures import assert_same_rows, classifier, write_pictures

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 300.0
"""Seconds for a run that should end."""


@contextmanager
def started(data: Path, out: Path | str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A run in a process of its own, and in a group of its own as on a terminal; killed at the end."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "tests.datasets.child", str(data), str(out), *words]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_rows(process: subprocess.Popen[str], rows: int) -> int:
    """Read how many rows there are until there are enough, or the run ends; how many there were last."""
    assert process.stdout is not None
    last = 0
    for line in process.stdout:
        if line.strip().isdecimal():
            last = int(line)
        if last >= rows:
            break
    return last


def killed_at(data: Path, out: Path, rows: int, seconds: float, *words: str) -> int:
    """Start a run, wait for so many rows and so many seconds, kill it with SIGKILL; its exit code."""
    with started(data, out, *words) as process:
        wait_for_rows(process, rows)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        return process.wait()


def finish(data: Path, out: Path, *words: str) -> None:
    """Let a run go on to its end."""
    with started(data, out, *words) as process:
        printed, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors
        assert printed.endswith("finished\n"), errors


def main(words: Sequence[str] | None = None) -> None:
    """Kill one run many times, and others once; check that each image has one row, that of an undisturbed run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--moments", type=int, default=25)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--engine", default="local")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(words)
    chosen = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        data = write_pictures(Path(folder) / "data", options.images)
        run(data, classifier(), Path(folder) / "undisturbed", batch_size=4, workers=0)
        out = Path(folder) / "run"
        done, killed = 0, 0
        for moment in range(options.moments):
            left = (options.images - done) / (options.moments - moment + 1)
            rows = done + chosen.randint(0, max(1, int(2 * left)))
            code = killed_at(data, out, rows, chosen.uniform(0, 0.05), "--engine", options.engine, "--shard-rows", "20")
            killed += code == -signal.SIGKILL
            done = len(load(out)) if (out / "manifest.json").exists() else 0
            print(f"moment {moment + 1}: killed after {rows} rows, {done} are kept", flush=True)
        finish(data, out, "--engine", options.engine)
        assert_same_rows(out, Path(folder) / "undisturbed")
        print(
            f"{killed} of {options.moments} times killed in the middle; {options.images} images, each once, rows equal"
        )


if __name__ == "__main__":
    main()
