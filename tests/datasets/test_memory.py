"""Long runs hold no more memory than they use."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import pytest

from camkit.datasets import run, running
from camkit.datasets.memory import give_back_freed
from tests.datasets.pictures import classifier, write_pictures

BLOCK = 50_000
"""Bytes: below what the C library asks the system for alone."""
COUNT = 2000


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"),
    reason="the C library can't give memory back",
)
def test_freed_memory_below_memory_in_use_goes_back_to_the_system() -> None:
    give_back_freed()
    before = resident()
    blocks = [bytearray(b"x" * BLOCK) for _ in range(COUNT)]
    full = resident()
    kept = blocks[:: COUNT // 20]
    del blocks
    give_back_freed()
    assert full - before > 0.8 * BLOCK * COUNT
    assert resident() - before < 0.4 * BLOCK * COUNT
    assert len(kept) == 20


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_runs_give_memory_back_after_each_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(running, "give_back_freed", lambda: given.append(1))
    run(write_pictures(tmp_path / "data", 11), classifier(), tmp_path / "run", batch_size=1, workers=0, shard_rows=3)
    assert len(given) == 3
