"""A run in a process of its own, to be killed: ``python -m tests.datasets.child DATA OUT``.

It prints how many rows there are after every batch. ``--wait`` makes every batch take a while.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from camkit.datasets import run
from camkit.datasets.counting import Progress
from camkit.errors import CamkitError
from tests.datasets.pictures import classifier


def main(words: Sequence[str] | None = None) -> int:
    """Run, and report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("out")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--shard-rows", type=int, default=10)
    parser.add_argument("--wait", type=float, default=0.0)
    parser.add_argument("--engine", default="local")
    parser.add_argument("--die-at-shard", type=int, help="when it is written, and not yet in its place")
    options = parser.parse_args(words)

    def report(progress: Progress) -> None:
        print(progress.done, flush=True)
        time.sleep(options.wait)

    if options.die_at_shard is not None:
        die_at(f"shard-{options.die_at_shard:06d}.parquet")
    cluster = None
    if options.engine == "ray":
        from camkit.datasets.cluster import Cluster

        cluster = Cluster(num_cpus=4, actors=2, timeout=120)
    try:
        summary = run(
            options.data,
            classifier(),
            options.out,
            batch_size=4,
            workers=options.workers,
            shard_rows=options.shard_rows,
            engine=options.engine,
            cluster=cluster,
            progress=report,
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )
    except CamkitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print("stopped" if summary.stopped else "finished", flush=True)
    return 0


def die_at(name: str) -> None:
    """Kill this process when it would move a file of that name to its place."""
    move = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if target.name == name:
            os.kill(os.getpid(), signal.SIGKILL)
        return move(self, target)

    Path.replace = replace  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    sys.exit(main())
