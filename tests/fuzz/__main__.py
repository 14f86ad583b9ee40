"""Run many trials: ``python -m tests.fuzz --count 2000``."""

from __future__ import annotations

import argparse
import collections
import sys
import tempfile
from pathlib import Path

from tests.fuzz.trial import Fuzz


def main() -> int:
    """Print how the trials ended, and every defect; 1 if there are any."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="how many trials; default: 2000")
    parser.add_argument("--first", type=int, default=0, help="the first one's number; default: 0")
    parser.add_argument("--verbose", action="store_true", help="print every trial")
    options = parser.parse_args()
    counts: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        fuzz = Fuzz(Path(folder))
        for number in range(options.first, options.first + options.count):
            outcome = fuzz.run(number)
            counts[outcome.kind] += 1
            if outcome.kind == "defect" or options.verbose:
                print(f"{number}: {outcome.kind}: {outcome.subject}, {outcome.mutation}: {outcome.what}", flush=True)
    print(", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())))
    return int(counts["defect"] > 0)


if __name__ == "__main__":
    sys.exit(main())
