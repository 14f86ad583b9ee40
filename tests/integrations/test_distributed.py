"""Two processes with DistributedDataParallel: the training stays what it is, one writes, and nobody waits for ever."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.training import assert_identical, pictures

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed"),
]
ROOT = Path(__file__).parents[2]
LONGEST = 300
"""Seconds; a process that waits for another one for ever is ended then, and fails the test."""


def run(how: str, folder: Path) -> list[subprocess.CompletedProcess[str]]:
    """Both processes, to their end."""
    folder.mkdir(exist_ok=True)
    arguments = [sys.executable, "-m", "tests.integrations.distributed", how]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [*arguments, str(rank), str(folder)],
            cwd=ROOT,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    done = []
    try:
        for each in processes:
            out, err = each.communicate(timeout=LONGEST)
            done.append(subprocess.CompletedProcess(each.args, each.returncode, out, err))
    finally:
        for each in processes:
            each.kill()
    return done


def results(how: str, folder: Path) -> list[Any]:
    """What both processes saved."""
    for each in run(how, folder):
        assert each.returncode == 0, each.stderr
    return [torch.load(folder / f"{how}{rank}.pt") for rank in range(2)]


def test_training_is_bit_for_bit_the_one_without_and_one_process_writes(tmp_path: Path) -> None:
    seen, without = results("with", tmp_path / "with"), results("without", tmp_path / "without")
    for one, other in zip(seen, without, strict=True):
        assert_identical([*one["losses"], *one["weights"].values()], [*other["losses"], *other["weights"].values()])
    assert [each["found"] for each in seen] == [(4, 0), (0, 0)]
    assert {f"image{image}_{step}" for image in range(2) for step in range(4)} <= set(pictures(tmp_path / "with/maps"))
    assert len((tmp_path / "with/maps/curves.csv").read_text().splitlines()) == 1 + 3 * 2


def test_an_error_at_the_start_stops_both(tmp_path: Path) -> None:
    done = run("bad", tmp_path)
    assert [each.returncode for each in done] == [3, 3]
    said = [(tmp_path / f"bad{rank}.txt").read_text() for rank in range(2)]
    assert said[0] == said[1]
    assert "outside 0..4" in said[0]


def test_records_that_fail_in_one_process_stop_none(tmp_path: Path) -> None:
    seen = results("fails", tmp_path)
    assert [each["found"] for each in seen] == [(0, 4), (0, 0)]
